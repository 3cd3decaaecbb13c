"""Prompts of a transformer that stays as it is: keys and values in front of those of its blocks.

`one_prompt` has one prompt for everything. `prompt_pool` is DualPrompt: some blocks share theirs,
the others have one for each task, found by a first pass that compares the image with a key per
task. It is one key for all blocks, where the code of CODA-Prompt and OVOR has one for each.

References:
  Wang et al., DualPrompt: Complementary Prompting for Rehearsal-free Continual Learning, ECCV 2022.
  Huang, Chen and Hsu, OVOR, ICLR 2024, arXiv 2402.04129.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.nets.two_tower import unit
from jaxtrain.nets.vit import Prefix, ViT

Network = Callable[[Any, Any, Array, Array], tuple[Array, Array]]
"""`(weights, prompts, inputs [B, ...], task []) -> (features [B, F], pull [B])`.

The task is that of the rows while it is learned, and -1 where the network has to find it. The pull
is added to the loss.
"""


class Pool(NamedTuple):
    """Prompts of `prompt_pool`.

    Attributes:
      keys: one for each task, `[tasks, F]`.
      shared: of the first blocks, `Prefix` each.
      own: of the blocks behind them, `[tasks, P, D]` each.
    """

    keys: Any
    shared: tuple[Prefix, ...]
    own: tuple[Prefix, ...]


def one_prompt(module: ViT) -> Network:
    """Features of a transformer with one prompt, a tuple of `Prefix` for its first blocks."""

    def network(weights: Any, prompts: Any, inputs: Array, task: Array) -> tuple[Array, Array]:
        found: Any = module.apply({"params": weights}, inputs, prefixes=prompts)
        return found.features, jnp.zeros(len(inputs))

    return network


def prompt_pool(module: ViT) -> Network:
    """Features of a transformer with the prompt of a task, for prompts `Pool`.

    The task is given, or that of the key nearest in angle to the features without prompts; the pull
    is 1 minus the cosine to the key.
    """

    def network(weights: Any, prompts: Pool, inputs: Array, task: Array) -> tuple[Array, Array]:
        def features(prefixes: Any) -> Array:
            found: Any = module.apply({"params": weights}, inputs, prefixes=prefixes)
            return found.features

        near = unit(jax.lax.stop_gradient(features(()))) @ unit(prompts.keys).T
        chosen = jnp.where(task >= 0, task, near.argmax(1))
        own = jax.tree.map(lambda x: x[chosen], prompts.own)
        pull = 1 - jnp.take_along_axis(near, chosen[:, None], 1)[:, 0]
        return features((*prompts.shared, *own)), pull

    return network


def new_prompt(key: Array, lengths: tuple[int, ...], width: int, *lead: int) -> tuple[Prefix, ...]:
    """Numbers from 0 to 1 for the first blocks: keys and values `[*lead, P, width]` each.

    Args:
      key: of the draws.
      lengths: P of every block; (5, 5, 20, 20, 20) in OVOR.
      width: D of the transformer.
      *lead: axes in front.
    """
    keys = jax.random.split(key, (len(lengths), 2))
    draw = lambda k, length: jax.random.uniform(k, (*lead, length, width))
    return tuple((draw(k[0], n), draw(k[1], n)) for k, n in zip(keys, lengths, strict=True))


def new_pool(
    key: Array, lengths: tuple[int, ...], width: int, num_tasks: int, num_shared: int = 2
) -> Pool:
    """Numbers from 0 to 1 for `Pool`; the first `num_shared` blocks share theirs."""
    keys = jax.random.split(key, 3)
    shared, own = lengths[:num_shared], lengths[num_shared:]
    return Pool(
        jax.random.uniform(keys[0], (num_tasks, width)),
        new_prompt(keys[1], shared, width),
        new_prompt(keys[2], own, width, num_tasks),
    )
