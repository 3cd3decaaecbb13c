"""Networks of agents with memory: a sequence model between an embedding and two heads.

    network = agent(env.action, recurrent(nn.GRUCell(64)))
    network = agent(env.action, context(64, length=128))

What may stand between is a `Memory`: the cells of flax (`recurrent`), or transformer blocks over
the last steps of the episode (`context`).

References:
  Settings of luchris429/purejaxrl (ppo_rnn.py): one layer, then the cell, then two layers for each
  head. Differences: tanh unless told otherwise, and heads of any width.
  Dai et al., Transformer-XL, arXiv 1901.02860: keys and values of earlier segments are kept and not
  differentiated.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jaxrl.distributions import Categorical, DiagonalNormal, Distribution
from jaxrl.envs.environment import Box, Discrete
from jaxrl.memory import MemoryNetwork
from jaxrl.networks import MLP, orthogonal
from jaxtrain.nets.attention import rotary_angles
from jaxtrain.nets.transformer import Attention, FeedForward, TransformerBlock

# Flax's own recurrent matrices would be drawn together under `vmap`: see `orthogonal`.
CELLS: dict[str, Callable[[int], nn.RNNCellBase]] = {
    "gru": lambda size: nn.GRUCell(size, recurrent_kernel_init=orthogonal(1.0)),
    "lstm": lambda size: nn.OptimizedLSTMCell(size, recurrent_kernel_init=orthogonal(1.0)),
}


class Memory(NamedTuple):
    """A sequence model that can be carried.

    Attributes:
      init: `(key, x [D]) -> params`.
      start: the memory at the start of an episode.
      unroll: `(params, memory, x [T, D], first [T]) -> (memory, y [T, E])`; `first` as in
        `MemoryNetwork`.
    """

    init: Callable[[Array, Array], Any]
    start: Any
    unroll: Callable[[Any, Any, Array, Array], tuple[Any, Array]]


def agent(
    action: Discrete | Box,
    memory: Memory,
    widths: Sequence[int] = (64,),
    activation: Callable[[Array], Array] = jnp.tanh,
) -> MemoryNetwork:
    """Layers that embed an observation, the memory, and an MLP each for policy and value.

    Args:
      action: the action space; of a box, the deviation is a parameter and starts at 1.
      memory: what remembers.
      widths: of the layers before the memory, and of the hidden layers after it.
      activation: of them.
    """
    size = action.num_actions if isinstance(action, Discrete) else math.prod(action.shape)
    *first, width = widths
    embed = MLP(tuple(first), width, activation, 2**0.5)
    heads = {
        "actor": MLP(tuple(widths), size, activation, 0.01),
        "critic": MLP(tuple(widths), 1, activation, 1.0),
    }

    def init(key: Array, observation: Any) -> dict[str, Any]:
        key_embed, key_memory, *keys = jax.random.split(key, 4)
        params = {"embed": embed.init(key_embed, observation)["params"]}
        params["memory"] = memory.init(key_memory, jnp.zeros(width))
        one = (jnp.zeros((1, width)), jnp.zeros(1, bool))
        y = jax.eval_shape(memory.unroll, params["memory"], memory.start, *one)[1]
        for key, (name, head) in zip(keys, heads.items(), strict=True):
            params[name] = head.init(key, jnp.zeros(y.shape[1:]))["params"]
        if isinstance(action, Box):
            params["log_std"] = jnp.zeros(action.shape)
        return params

    def unroll(
        params: Any, before: Any, observation: Any, first: Array
    ) -> tuple[Any, Distribution, Array]:
        def each(module: MLP, name: str, x: Any) -> Array:
            return jax.vmap(lambda x: jnp.asarray(module.apply({"params": params[name]}, x)))(x)

        x = activation(each(embed, "embed", observation))
        after, y = memory.unroll(params["memory"], before, x, first)
        output, value = each(heads["actor"], "actor", y), each(heads["critic"], "critic", y)[:, 0]
        if isinstance(action, Discrete):
            return after, Categorical(output), value
        mean = output.reshape(-1, *action.shape)
        return after, DiagonalNormal(mean, jnp.broadcast_to(params["log_std"], mean.shape)), value

    return MemoryNetwork(init, memory.start, unroll)


def recurrent(cell: nn.RNNCellBase) -> Memory:
    """A recurrent cell of flax, such as those of `CELLS`; an episode starts with zeros."""
    carry = functools.partial(cell.initialize_carry, input_shape=(1,))
    zeros = lambda x: np.zeros(x.shape, x.dtype)
    start = jax.tree.map(zeros, jax.eval_shape(carry, jax.eval_shape(lambda: jax.random.key(0))))

    def init(key: Array, x: Array) -> Any:
        return cell.init(key, start, x)["params"]

    def unroll(params: Any, memory: Any, x: Array, first: Array) -> tuple[Any, Array]:
        def one(memory: Any, given: tuple[Array, Array]) -> tuple[Any, Array]:
            x, first = given
            memory = jax.tree.map(lambda new, old: jnp.where(first, new, old), start, memory)
            said: Any = cell.apply({"params": params}, memory, x)
            return said

        return jax.lax.scan(one, memory, (x, first))

    return Memory(init, start, unroll)


class Context(NamedTuple):
    """What a transformer remembers; step n of an episode lies in slot n mod C.

    Attributes:
      kept: keys and values of each layer, `[heads, C, head_dim]`.
      place: step in the episode whose keys lie in a slot, -1 for none, `[C]`, int32.
      time: steps of the episode so far, `[]`, int32.
    """

    kept: tuple[tuple[Any, Any], ...]
    place: Any
    time: Any


class Blocks(nn.Module):
    """Transformer blocks that read kept keys and values before those of their own tokens."""

    num_layers: int
    width: int
    num_heads: int

    @nn.compact
    def __call__(self, x: Array, places: Array, kept: Any, mask: Array) -> tuple[Array, Any]:
        size, new = self.width // self.num_heads, []
        attention = functools.partial(
            Attention,
            width=self.width,
            num_heads=self.num_heads,
            head_dim=size,
            rotary=functools.partial(rotary_angles, size=size),
        )
        for i in range(self.num_layers):
            feed_forward = functools.partial(FeedForward, hidden=4 * self.width)
            block = TransformerBlock(attention, feed_forward, name=f"block_{i}")
            q, *own = block.project(x, places)
            pairs = zip(kept[i], own, strict=True)
            k, v = (jnp.concatenate(pair, axis=-2) for pair in pairs)
            x = block.finish(x, block.attend(q, k, v, mask))
            new.append(tuple(own))
        return nn.LayerNorm()(x), tuple(new)


def context(width: int = 64, *, length: int, num_layers: int = 1, num_heads: int = 4) -> Memory:
    """Transformer blocks over the last `length` steps of the episode, with rotary places.

    What was kept before a window is not differentiated in it. The memory is 2 layers length width
    numbers.

    Args:
      width: of the tokens.
      length: C, steps that can be read, the present one included.
      num_layers: blocks.
      num_heads: attention heads; twice their number must divide `width`.

    Raises:
      ValueError: the heads do not divide.
    """
    if width % (2 * num_heads):
        raise ValueError(
            f"width is {width}; it must be a multiple of {2 * num_heads}, twice num_heads."
        )
    blocks = Blocks(num_layers, width, num_heads)
    none = np.zeros((num_heads, length, width // num_heads), np.float32)
    start = Context(((none, none),) * num_layers, np.full(length, -1, np.int32), np.int32(0))

    def apply(params: Any, x: Array, places: Array, kept: Any, mask: Array) -> Any:
        return blocks.apply({"params": params}, x, places, kept, mask)

    def init(key: Array, x: Array) -> Any:
        mask = jnp.ones((1, 1, length + 1), bool)
        return blocks.init(key, x[None], jnp.zeros(1), start.kept, mask)["params"]

    def unroll(params: Any, memory: Context, x: Array, first: Array) -> tuple[Context, Array]:
        index = jnp.arange(len(x))
        begin = jax.lax.cummax(jnp.where(first, index, -1))  # of the token's episode; -1: before
        places = jnp.where(begin < 0, memory.time, -begin) + index
        since = places[:, None] - memory.place[None]
        old = (begin[:, None] < 0) & (memory.place[None] >= 0) & (since < length)
        apart = index[:, None] - index[None]
        own = (begin[:, None] == begin[None]) & (apart >= 0) & (apart < length)
        mask = jnp.concatenate([old, own], axis=1)[None]
        y, new = apply(params, x, places, memory.kept, mask)
        stays = (begin == begin[-1]) & (places > places[-1] - length)
        slot = jnp.where(stays, places % length, length)
        write = lambda x, y: jnp.asarray(x).at[..., slot, :].set(y, mode="drop")
        kept = jax.tree.map(write, memory.kept, new)
        filled = jnp.where(begin[-1] < 0, memory.place, -1).at[slot].set(places, mode="drop")
        return Context(kept, filled, places[-1] + 1), y

    return Memory(init, start, unroll)
