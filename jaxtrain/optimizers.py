"""Optax's Adam, AdamW and SGD with what training adds to them: a clip, a schedule, accumulation.

    adam(3e-4)                                                # optax.adam(3e-4)
    adam(schedule, max_norm=0.5, eps=1e-5)                    # what PPO uses
    adamw(schedule, max_norm=1.0, weight_decay=1e-4)          # what the Latent Program Network uses
    sgd(40.0, max_norm=0.5)                                   # what tabular agents of LPG use

Gradients are averaged over `accumulate` batches, then clipped to a global norm, then handed to the
optimiser. All numbers may be traced except `accumulate`, and `max_norm` where it is None. A
schedule counts optimiser steps; the rate it gave is kept in the state, where cores find it for
their metric `learning_rate`. With a plain number there is no such entry;
`optax.constant_schedule(number)` makes one.
"""

import functools
from collections.abc import Callable
from typing import Any

import optax
from jax.typing import ArrayLike

from jaxtrain.schedules import scheduled


def adam(
    learning_rate: ArrayLike | optax.Schedule,
    *,
    max_norm: ArrayLike | None = None,
    accumulate: int = 1,
    **options: Any,
) -> optax.GradientTransformation:
    """Adam, of Kingma and Ba, arXiv 1412.6980.

    Args:
      learning_rate: number or schedule. Under a schedule b1, b2 and eps are float32 arrays of the
        state, next to the rate.
      max_norm: greatest global norm of a gradient; None for no clip.
      accumulate: batches whose gradients are averaged for one step.
      **options: of `optax.adam`: `b1`, `b2`, `eps`, `eps_root`.
    """
    return _made(functools.partial(optax.adam, **options), learning_rate, max_norm, accumulate)


def adamw(
    learning_rate: ArrayLike | optax.Schedule,
    *,
    max_norm: ArrayLike | None = None,
    accumulate: int = 1,
    **options: Any,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, of Loshchilov and Hutter, arXiv 1711.05101.

    Args:
      learning_rate: number or schedule.
      max_norm: greatest global norm of a gradient; None for no clip.
      accumulate: batches whose gradients are averaged for one step.
      **options: of `optax.adamw`: `weight_decay` (1e-4 per unit of rate), `b1`, `b2`, `eps`,
        `eps_root`.
    """
    factory = lambda learning_rate: optax.adamw(learning_rate, **options)
    return _made(factory, learning_rate, max_norm, accumulate)


def sgd(
    learning_rate: ArrayLike | optax.Schedule,
    *,
    max_norm: ArrayLike | None = None,
    accumulate: int = 1,
    **options: Any,
) -> optax.GradientTransformation:
    """Steps along the gradient.

    Args:
      learning_rate: number or schedule.
      max_norm: greatest global norm of a gradient; None for no clip.
      accumulate: batches whose gradients are averaged for one step.
      **options: of `optax.sgd`: `momentum`, `nesterov`.
    """
    factory = lambda learning_rate: optax.sgd(learning_rate, **options)
    return _made(factory, learning_rate, max_norm, accumulate)


def _made(
    factory: Callable[..., optax.GradientTransformation],
    learning_rate: ArrayLike | optax.Schedule,
    max_norm: ArrayLike | None,
    accumulate: int,
) -> optax.GradientTransformation:
    made: optax.GradientTransformation
    if callable(learning_rate):
        made = scheduled(factory, learning_rate)
    else:
        made = factory(learning_rate)
    if max_norm is not None:
        made = optax.chain(optax.clip_by_global_norm(max_norm), made)
    if accumulate > 1:
        made = optax.MultiSteps(made, accumulate).gradient_transformation()
    return made
