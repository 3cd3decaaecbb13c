"""VSML: a grid of tiny LSTMs that share their weights and talk along rows and columns.

Row a belongs to input a and column c to class c. Per example every cell gets the messages of its
row and column,

    f_a = [m_bwd_a; x_a],   b_c = [m_fwd_c; y_{t-1, c}],

runs its LSTM `num_ticks` times on them, and then m_fwd_c = mean_a Linear_f(h_ac), m_bwd_a = mean_c
Linear_b(h_ac); the logit of class c is the first component of m_fwd_c. Because all cells are alike,
permuting inputs or classes permutes the outputs, and one set of weights serves any N and C.

`unsymmetric_vsml` takes the symmetries away and keeps the large state: a linear layer maps the
inputs to g x 16 numbers and the label to g x 4, a g x g grid follows, and the logits are a linear
map of all messages.

References:
  Kirsch and Schmidhuber, Meta Learning Backpropagation And Improving It, NeurIPS 2021, arXiv
  2012.14905. As used by Kirsch et al., arXiv 2212.04458: google/learned_optimization,
  research/data_driven/models.py.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxtta.in_context.learner import Learner, from_cell
from jaxtta.in_context.recurrent import lstm_gates


class _Grid(nn.Module):
    """One example: state (hidden, cell `[B, a, b, H]`, forward messages `[B, b, m]`, backward
    messages `[B, a, m]`), row inputs `[B, a, i]` and column inputs `[B, b, j]` -> state."""

    hidden_size: int
    message_size: int
    num_ticks: int

    @nn.compact
    def __call__(self, state: Any, rows: Array, columns: Array) -> Any:
        hidden, cell, forward, backward = state
        # One linear map of [row message, column message, hidden], its first two parts done once.
        part = lambda name, bias: nn.Dense(4 * self.hidden_size, use_bias=bias, name=name)
        fixed = (
            part("row", True)(jnp.concatenate([backward, rows], axis=-1))[:, :, None]
            + part("column", False)(jnp.concatenate([forward, columns], axis=-1))[:, None]
        )
        recurrent = part("hidden", False)
        for _ in range(self.num_ticks):
            hidden, cell = lstm_gates(fixed + recurrent(hidden), cell)
        forward = nn.Dense(self.message_size, name="forward")(hidden).mean(axis=1)
        backward = nn.Dense(self.message_size, name="backward")(hidden).mean(axis=2)
        return hidden, cell, forward, backward


def _zeros(a: int, b: int, hidden_size: int, message_size: int) -> Any:
    grid = jnp.zeros((a, b, hidden_size))
    return grid, grid, jnp.zeros((b, message_size)), jnp.zeros((a, message_size))


class _VSML(nn.Module):
    grid: nn.Module

    @nn.compact
    def __call__(self, state: Any, x: Array, label: Array) -> tuple[Any, Array]:
        state = self.grid(state, x[..., None], label[..., None])
        return state, state[2][..., 0]


def vsml(
    num_inputs: int,
    num_classes: int,
    *,
    hidden_size: int = 16,
    message_size: int = 8,
    num_ticks: int = 2,
) -> Learner:
    """The symmetric form; state 2 N C h + (N + C) m."""
    a, b = num_inputs, num_classes
    return from_cell(
        _VSML(_Grid(hidden_size, message_size, num_ticks)),
        _zeros(a, b, hidden_size, message_size),
        state_size=2 * a * b * hidden_size + (a + b) * message_size,
        num_inputs=num_inputs,
        num_classes=num_classes,
    )


class _Unsymmetric(nn.Module):
    grid: nn.Module
    side: int
    num_classes: int

    @nn.compact
    def __call__(self, state: Any, x: Array, label: Array) -> tuple[Any, Array]:
        rows = nn.Dense(16 * self.side, name="inputs")(x).reshape(-1, self.side, 16)
        columns = nn.Dense(4 * self.side, name="label")(label).reshape(-1, self.side, 4)
        state = self.grid(state, rows, columns)
        messages = state[2].reshape(len(x), -1)
        return state, nn.Dense(self.num_classes, name="head")(messages)


def unsymmetric_vsml(
    num_inputs: int,
    num_classes: int,
    *,
    side: int = 8,
    hidden_size: int = 16,
    message_size: int = 8,
    num_ticks: int = 2,
) -> Learner:
    """The form without symmetries, on a grid of `side` x `side`; state 2 g^2 h + 2 g m."""
    return from_cell(
        _Unsymmetric(_Grid(hidden_size, message_size, num_ticks), side, num_classes),
        _zeros(side, side, hidden_size, message_size),
        state_size=2 * side * side * hidden_size + 2 * side * message_size,
        num_inputs=num_inputs,
        num_classes=num_classes,
    )
