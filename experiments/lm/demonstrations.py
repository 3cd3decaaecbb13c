"""Decoders of a config, and base policies that imitate demonstrations of a task."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from jaxrl.lm.learners import Examples, finetune
from jaxrl.lm.tasks.symbols import ALPHABET, Symbols, joined
from jaxtrain.lm.decoder import PUBLISHED, Config, Decoder, decoder
from jaxtrain.optimizers import adam
from jaxtrain.schedules import make_schedule


def decoder_of(options: ConfigDict) -> Decoder:
    """A published shape by its name, or a small one over the symbols of the tasks.

    Raises:
      ValueError: sizes that do not fit each other.
    """
    if options.published:
        return decoder(PUBLISHED[options.published])
    names = ("width", "num_layers", "num_heads", "num_heads", "head_dim", "hidden")
    return decoder(Config(len(ALPHABET), *(options[name] for name in names)))


def example(prompt: Symbols, response: Symbols) -> Examples:
    """A row to learn from; the loss is on the response."""
    text = joined(prompt, response)
    mask = jnp.concatenate([jnp.zeros_like(prompt.valid), response.valid])
    return Examples(text.tokens, text.valid, mask, jnp.ones(()))


def imitator(
    model: Decoder, options: ConfigDict, demonstrate: Callable[[Array], Examples]
) -> Callable[[Array], Any]:
    """`key -> params` of a policy that has learned from demonstrations, all in one scan.

    Args:
      model: the language model.
      options: `num_steps`, `batch_size` and `learning_rate`, which falls to 0; without steps the
        parameters are those of a new model.
      demonstrate: makes one from a key.
    """
    num_steps = options.num_steps
    if not num_steps:
        return lambda key: model.init(jax.random.split(key)[0])
    rate = make_schedule("linear", options.learning_rate, num_steps)
    core = finetune(model, adam(rate, max_norm=1.0))
    batch_size = options.batch_size

    def made(key: Array) -> Any:
        key_init, key_run = jax.random.split(key)

        def step(state: Any, i: Array) -> tuple[Any, None]:
            key = jax.random.fold_in(key_run, i)
            batch = jax.vmap(demonstrate)(jax.random.split(key, batch_size))
            return core.update(state, batch, key)[0], None

        state = core.init(model.init(key_init))
        return jax.lax.scan(step, state, jnp.arange(num_steps))[0].params

    return made
