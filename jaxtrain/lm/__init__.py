"""Language models: one decoder, one way to sample, one place for loss masks, weights of others."""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxtrain.lm.decoder import PUBLISHED as PUBLISHED
    from jaxtrain.lm.decoder import Config as Config
    from jaxtrain.lm.decoder import Decoder as Decoder
    from jaxtrain.lm.decoder import decoder as decoder
    from jaxtrain.lm.decoder import score as score
    from jaxtrain.lm.heads import Head as Head
    from jaxtrain.lm.heads import head_logit as head_logit
    from jaxtrain.lm.heads import judge_head as judge_head
    from jaxtrain.lm.heads import soft_label_loss as soft_label_loss
    from jaxtrain.lm.logits import Options as Options
    from jaxtrain.lm.logits import Scores as Scores
    from jaxtrain.lm.logits import choose as choose
    from jaxtrain.lm.logits import distributions as distributions
    from jaxtrain.lm.logits import scores as scores
    from jaxtrain.lm.sampling import Decoding as Decoding
    from jaxtrain.lm.sampling import compact as compact
    from jaxtrain.lm.sampling import continue_until as continue_until
    from jaxtrain.lm.sampling import empty as empty
    from jaxtrain.lm.sampling import force as force
    from jaxtrain.lm.sampling import fork as fork
    from jaxtrain.lm.sampling import start as start
    from jaxtrain.lm.sequences import Piece as Piece
    from jaxtrain.lm.sequences import Text as Text
    from jaxtrain.lm.sequences import after_common_prefix as after_common_prefix
    from jaxtrain.lm.sequences import build as build
    from jaxtrain.lm.sequences import left_padded as left_padded
    from jaxtrain.lm.sequences import of_decoding as of_decoding
    from jaxtrain.lm.sequences import of_rows as of_rows
    from jaxtrain.lm.sequences import of_turn as of_turn
    from jaxtrain.lm.sequences import packed as packed
    from jaxtrain.lm.weights import from_gguf as from_gguf
    from jaxtrain.lm.weights import from_hugging_face as from_hugging_face
    from jaxtrain.lm.weights import gguf_config as gguf_config
    from jaxtrain.lm.weights import hugging_face_config as hugging_face_config
    from jaxtrain.lm.weights import to_hugging_face as to_hugging_face

lazy(__name__)
