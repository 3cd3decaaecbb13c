"""Linear judgements of hidden states: of answers, of steps, of what a model knows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.collectives import AxisName, masked_mean


class Head(NamedTuple):
    """A linear judgement.

    Attributes:
      weight: `[D]`.
      bias: `[]`.
    """

    weight: Array
    bias: Array


def judge_head(width: int) -> Head:
    """A head of zeros, which says 0.5 of everything.

    Args:
      width: D, of the hidden states.
    """
    return Head(jnp.zeros(width), jnp.zeros(()))


def head_logit(head: Head, hidden: Array) -> Array:
    """Log-odds, `[..., D] -> [...]`."""
    return hidden @ head.weight + head.bias


def soft_label_loss(
    logit: Array, label: Array, mask: Array, axis_name: AxisName | None = None
) -> Array:
    """Mean cross-entropy with soft labels over the places that count.

    One term per question with the share of right samples as label has the gradient of one term per
    sample. Step rewards are judged so at step delimiters, whatever their label is.

    Args:
      logit: log-odds, `[...]`.
      label: in [0, 1], `[...]`.
      mask: `[...]`, bool; others have no gradient.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      `[]`, nats; 0 if nothing counts.
    """
    logit, label = jnp.where(mask, logit, 0), jnp.where(mask, label, 0)
    return masked_mean(jax.nn.softplus(logit) - label * logit, mask, axis_name)
