"""A language model that is a table of log-odds: the last token alone says what comes next."""

import jax.numpy as jnp
import numpy as np

from jaxrl.lm.tasks import symbols
from jaxtrain.lm.decoder import Config, Decoder
from jaxtrain.lm.logits import LARGEST, PLAIN, scores

V = len(symbols.ALPHABET)


def forward(params, tokens, valid, cache=None, start=0):
    return params[tokens], ()


def log_probs(params, hidden, targets, mask=None, options=PLAIN, largest=LARGEST):
    return scores(lambda x: x, hidden, targets, mask, options, largest)


MODEL = Decoder(
    Config(V, V, 1, 1, 1, 2, 1),
    lambda key: jnp.zeros((V, V)),
    lambda params, tokens: params[tokens],
    forward,
    lambda params, hidden: hidden,
    log_probs,
    lambda rows, slots: (),
)


def table(chances):
    """The parameters.

    Args:
      chances: character -> {character that follows: its chance}; others never do.
    """
    found = np.full((V, V), -1e9, np.float32)
    for before, following in chances.items():
        for after, chance in following.items():
            found[symbols.ids(before)[0], symbols.ids(after)[0]] = np.log(chance)
    return jnp.asarray(found)
