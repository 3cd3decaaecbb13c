"""Recurrent references whose memory is one vector or a few matrices: LSTM, outer-product LSTM and
fast-weight memory.

All read the paper's tokens [x_t; onehot(y_{t-1})]. The LSTM carries 2 H numbers for about 4 H^2
weights. The outer-product LSTM's cells are matrices written by outer products of keys, and the
fast-weight memory is a third-order tensor behind a small LSTM: both carry far more numbers than an
LSTM of as many weights.

References:
  Kirsch et al., arXiv 2212.04458, and google/learned_optimization, research/data_driven/models.py
  and model_components.py. Fast-weight memory: Schlag, Munkhdalai and Schmidhuber, Learning
  Associative Inference Using Fast Weight Memory, ICLR 2021, arXiv 2011.07831.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxtta.in_context.learner import Learner, from_cell


def lstm_gates(gates: Array, cell: Array) -> tuple[Array, Array]:
    """One LSTM update: gates `[..., 4 H]` (input, candidate, forget + 1, output) and old cell
    `[..., H]` -> new (hidden, cell)."""
    i, g, f, o = jnp.split(gates, 4, axis=-1)
    cell = nn.sigmoid(f + 1.0) * cell + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(cell), cell


class _Embed(nn.Module):
    """Two ReLU layers on the token."""

    width: int

    @nn.compact
    def __call__(self, x: Array, label: Array) -> Array:
        token = jnp.concatenate([x, label], axis=-1)
        hidden = nn.relu(nn.Dense(self.width, name="first")(token))
        return nn.relu(nn.Dense(self.width, name="second")(hidden))


class _LSTM(nn.Module):
    width: int
    num_classes: int

    @nn.compact
    def __call__(self, state: Any, x: Array, label: Array) -> tuple[Any, Array]:
        hidden, cell = state
        inputs = jnp.concatenate([_Embed(self.width, name="embed")(x, label), hidden], axis=-1)
        hidden, cell = lstm_gates(nn.Dense(4 * self.width, name="gates")(inputs), cell)
        return (hidden, cell), nn.Dense(self.num_classes, name="head")(hidden)


def lstm(num_inputs: int, num_classes: int, *, width: int = 256) -> Learner:
    """Two ReLU layers, an LSTM and a linear head, all of `width`; state 2 * width."""
    zeros = jnp.zeros(width)
    return from_cell(
        _LSTM(width, num_classes),
        (zeros, zeros),
        state_size=2 * width,
        num_inputs=num_inputs,
        num_classes=num_classes,
    )


class _OuterProductLSTM(nn.Module):
    width: int
    num_heads: int
    head_size: int
    num_classes: int

    @nn.compact
    def __call__(self, state: Any, x: Array, label: Array) -> tuple[Any, Array]:
        hidden, cell = state
        n, s = self.num_heads, self.head_size
        inputs = jnp.concatenate([_Embed(self.width, name="embed")(x, label), hidden], axis=-1)
        numbers = nn.Dense(8 * s * n, name="gates")(inputs).reshape(-1, n, 8, s)
        k1, k2, q, o = numbers[:, :, :3], numbers[:, :, 3:6], numbers[:, :, 6], numbers[:, :, 7]
        alpha = nn.softplus(self.param("key_scale", nn.initializers.zeros, ()))
        outer = jnp.einsum("bngi,bngj->gbnij", alpha * jnp.tanh(k1), jnp.tanh(k2))
        i, g, f = outer
        cell = nn.sigmoid(f + 1.0) * cell + nn.sigmoid(i) * g
        read = jnp.einsum("bnij,bni->bnj", cell, q)
        hidden = (nn.sigmoid(o) * jnp.tanh(read)).reshape(-1, n * s)
        return (hidden, cell), nn.Dense(self.num_classes, name="head")(hidden)


def outer_product_lstm(
    num_inputs: int,
    num_classes: int,
    *,
    num_heads: int = 1,
    head_size: int = 16,
    width: int = 0,
) -> Learner:
    """An LSTM whose cell is one matrix per head; state heads * s^2 + heads * s.

    From [input; h_prev] one linear map gives, per head, k1 and k2 (each 3 x s), q and o (s). With
    alpha = softplus(a learned scalar that starts at 0):

        [I, G, F]_g = (alpha tanh(k1_g)) outer tanh(k2_g)
        C = sigmoid(F + 1) C_prev + sigmoid(I) G
        r_j = sum_i C_ij q_i,   h = sigmoid(o) tanh(r), heads concatenated

    Args:
      num_inputs: N.
      num_classes: C.
      num_heads: heads.
      head_size: s.
      width: of the two ReLU layers before; 0 for s, as in the official code.
    """
    n, s = num_heads, head_size
    return from_cell(
        _OuterProductLSTM(width or s, n, s, num_classes),
        (jnp.zeros(n * s), jnp.zeros((n, s, s))),
        state_size=n * s * s + n * s,
        num_inputs=num_inputs,
        num_classes=num_classes,
    )


class _FastWeights(nn.Module):
    width: int
    memory_size: int
    num_classes: int

    @nn.compact
    def __call__(self, state: Any, x: Array, label: Array) -> tuple[Any, Array]:
        hidden, cell, memory = state
        inputs = jnp.concatenate([x, label, hidden], axis=-1)
        hidden, cell = lstm_gates(nn.Dense(4 * self.width, name="gates")(inputs), cell)

        def pair(k1: Array, k2: Array) -> Array:
            return jnp.einsum("bi,bj->bij", k1, k2).reshape(len(k1), -1)

        written = nn.Dense(3 * self.memory_size + 1, name="write")(hidden)
        k1, k2, v = jnp.split(jnp.tanh(written[:, :-1]), 3, axis=-1)
        key, beta = pair(k1, k2), nn.sigmoid(written[:, -1])[:, None]
        old = jnp.einsum("bmn,bn->bm", memory, key)
        memory = memory + jnp.einsum("bm,bn->bmn", beta * (v - old), key)

        asked = jnp.tanh(nn.Dense(2 * self.memory_size, name="read")(hidden))
        found = jnp.einsum("bmn,bn->bm", memory, pair(*jnp.split(asked, 2, axis=-1)))
        found = nn.LayerNorm(epsilon=1e-5, use_bias=False, name="norm")(found)
        out = hidden + nn.Dense(self.width, name="project")(found)
        return (hidden, cell, memory), nn.Dense(self.num_classes, name="head")(out)


def fast_weights(
    num_inputs: int, num_classes: int, *, width: int = 64, memory_size: int = 16
) -> Learner:
    """An LSTM that writes a memory M `[m, m^2]` by the delta rule; state 2 * width + m^3.

    With k = flatten(k1 outer k2): M += beta (v - M k) k^T. A second pair of keys reads M; the
    result is normalised, projected and added to the LSTM's output.
    """
    zeros, m = jnp.zeros(width), memory_size
    return from_cell(
        _FastWeights(width, m, num_classes),
        (zeros, zeros, jax.numpy.zeros((m, m * m))),
        state_size=2 * width + m**3,
        num_inputs=num_inputs,
        num_classes=num_classes,
    )
