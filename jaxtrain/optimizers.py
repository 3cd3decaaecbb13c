"""Optax's Adam, AdamW and SGD with what training adds to them: a clip, a schedule, accumulation.

    adam(3e-4)                                                # optax.adam(3e-4)
    adam(schedule, max_norm=0.5, eps=1e-5)                    # what PPO uses
    adamw(schedule, max_norm=1.0, weight_decay=1e-4)          # what the Latent Program Network uses
    sgd(40.0, max_norm=0.5)                                   # what tabular agents of LPG use

Gradients are averaged over `accumulate` batches, then clipped to a global norm, then handed to the
optimiser. All numbers may be traced except `accumulate` and `steps_per_update`, and `max_norm`
where it is None.

A schedule counts optimiser steps. That is one per update of a core that makes one step in it; a
core that makes several (PPO: epochs times mini-batches) says so, and with `steps_per_update` the
schedule counts updates: all steps of an update have one rate. The rate it gave is kept in the
state, where cores find it for their metric `learning_rate`. With a plain number there is no such
entry; `optax.constant_schedule(number)` makes one.

Numbers that are known are checked: a negative or not finite rate, a clip that is not positive, and
counts below 1 are ValueErrors.
"""

import functools
from collections.abc import Callable
from typing import Any

import optax
from jax.typing import ArrayLike

from jaxtrain.schedules import annealable, scheduled
from jaxtrain.schedules.checks import check_counts, check_rates, known


def adam(
    learning_rate: ArrayLike | optax.Schedule,
    *,
    max_norm: ArrayLike | None = None,
    accumulate: int = 1,
    steps_per_update: int = 1,
    **options: Any,
) -> optax.GradientTransformation:
    """Adam, of Kingma and Ba, arXiv 1412.6980.

    Args:
      learning_rate: number or schedule. Under a schedule b1, b2 and eps are float32 arrays of the
        state, next to the rate.
      max_norm: greatest global norm of a gradient; None for no clip.
      accumulate: batches whose gradients are averaged for one step.
      steps_per_update: steps that share a value of the schedule, see the head of this file.
      **options: of `optax.adam`: `b1`, `b2`, `eps`, `eps_root`.
    """
    factory = functools.partial(optax.adam, **options)
    return _made(factory, learning_rate, max_norm, accumulate, steps_per_update)


def adamw(
    learning_rate: ArrayLike | optax.Schedule,
    *,
    max_norm: ArrayLike | None = None,
    accumulate: int = 1,
    steps_per_update: int = 1,
    **options: Any,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, of Loshchilov and Hutter, arXiv 1711.05101.

    Args:
      learning_rate: number or schedule.
      max_norm: greatest global norm of a gradient; None for no clip.
      accumulate: batches whose gradients are averaged for one step.
      steps_per_update: steps that share a value of the schedule, see the head of this file.
      **options: of `optax.adamw`: `weight_decay` (1e-4 per unit of rate), `b1`, `b2`, `eps`,
        `eps_root`.
    """
    factory = lambda learning_rate: optax.adamw(learning_rate, **options)
    return _made(factory, learning_rate, max_norm, accumulate, steps_per_update)


def sgd(
    learning_rate: ArrayLike | optax.Schedule,
    *,
    max_norm: ArrayLike | None = None,
    accumulate: int = 1,
    steps_per_update: int = 1,
    **options: Any,
) -> optax.GradientTransformation:
    """Steps along the gradient.

    Args:
      learning_rate: number or schedule.
      max_norm: greatest global norm of a gradient; None for no clip.
      accumulate: batches whose gradients are averaged for one step.
      steps_per_update: steps that share a value of the schedule, see the head of this file.
      **options: of `optax.sgd`: `momentum`, `nesterov`.
    """
    factory = lambda learning_rate: optax.sgd(learning_rate, **options)
    return _made(factory, learning_rate, max_norm, accumulate, steps_per_update)


def _made(
    factory: Callable[..., optax.GradientTransformation],
    learning_rate: ArrayLike | optax.Schedule,
    max_norm: ArrayLike | None,
    accumulate: int,
    steps_per_update: int,
) -> optax.GradientTransformation:
    check_counts(accumulate=accumulate, steps_per_update=steps_per_update)
    if max_norm is not None and known(max_norm) and not max_norm > 0:  # type: ignore[operator]
        raise ValueError(f"max_norm is {max_norm}, but the greatest norm must be above 0.")
    made: optax.GradientTransformation
    if isinstance(learning_rate, annealable) and steps_per_update > 1:
        raise ValueError("an annealable schedule counts every step; leave out steps_per_update.")
    if callable(learning_rate):
        rates = learning_rate
        if steps_per_update > 1:
            rates = lambda count: learning_rate(count // steps_per_update)
        made = scheduled(factory, rates)
    else:
        check_rates(learning_rate=learning_rate)
        made = factory(learning_rate)
    if max_norm is not None:
        made = optax.chain(optax.clip_by_global_norm(max_norm), made)
    if accumulate > 1:
        made = optax.MultiSteps(made, accumulate).gradient_transformation()
    return made
