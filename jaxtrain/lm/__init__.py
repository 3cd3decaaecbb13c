"""Language models: one decoder, one way to sample, one place for loss masks, weights of others."""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxtrain.lm.decoder import PUBLISHED as PUBLISHED
    from jaxtrain.lm.decoder import Config as Config
    from jaxtrain.lm.decoder import Decoder as Decoder
    from jaxtrain.lm.decoder import decoder as decoder
    from jaxtrain.lm.decoder import score as score
    from jaxtrain.lm.logits import Options as Options
    from jaxtrain.lm.logits import Scores as Scores
    from jaxtrain.lm.logits import choose as choose
    from jaxtrain.lm.logits import distributions as distributions
    from jaxtrain.lm.logits import scores as scores

lazy(__name__)
