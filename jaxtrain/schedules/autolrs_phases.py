"""Stages and candidates of AutoLRS: what every update belongs to, from its number alone."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


class AutoLRSConfig(NamedTuple):
    """Settings of the search; defaults are those of the official code.

    Attributes:
      min_lr, max_lr: range of candidate rates, from a range test; may be traced.
      tau0: updates of the first stage; doubles after every stage while tau / ratio is below
        tau_max / ratio.
      tau_max: see `tau0`.
      k: candidates per stage.
      ratio: a candidate is tried for tau / ratio updates.
      val_points: validation losses per candidate, in the stages after the doubling.
      kappa0, kappa_decay: the i-th candidate minimises mean - kappa0 kappa_decay^i std. The default
        is pure exploration, as in the code; the paper lets kappa shrink.
      lengthscale: of the Gaussian process, in decades of the rate.
      noise: its noise variance, losses being standardised.
      warmup_steps: updates of a linear warm-up before the first stage.
      warmup_lr: the rate it ends at.
      num_stages: stages whose rates are kept in the state; later ones run but are not kept.
    """

    min_lr: ArrayLike
    max_lr: ArrayLike
    tau0: int = 1000
    tau_max: int = 8000
    k: int = 10
    ratio: int = 10
    val_points: int = 16
    kappa0: float = 1e6
    kappa_decay: float = 1.0
    lengthscale: float = 0.5
    noise: float = 1e-2
    warmup_steps: int = 0
    warmup_lr: ArrayLike = 0.0
    num_stages: int = 32


class Phase(NamedTuple):
    """Where in the procedure an update is. All int32 `[]`, functions of the update index alone.

    Attributes:
      stage: 0, 1, ...; -1 in the warm-up.
      probe: candidate 0 to k - 1, or k when the stage trains.
      step: update within the candidate or stage.
      length: updates of the candidate or stage.
      position: index of the batch, counting only updates that train.
    """

    stage: Any
    probe: Any
    step: Any
    length: Any
    position: Any


def check_config(config: AutoLRSConfig) -> None:
    """Raises ValueError for settings no search can have."""
    bounds = [x for x in (config.min_lr, config.max_lr) if isinstance(x, (int, float))]
    if not all(np.isfinite(x) and x > 0 for x in bounds) or bounds != sorted(set(bounds)):
        raise ValueError(
            f"AutoLRS needs 0 < min_lr < max_lr but got {config.min_lr} and {config.max_lr}."
        )
    for name in ("tau0", "tau_max", "k", "ratio", "val_points", "num_stages"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} of AutoLRS is {getattr(config, name)}; give 1 or more.")
    if config.tau0 % config.ratio:
        raise ValueError(
            f"tau0 = {config.tau0} of AutoLRS must be a multiple of ratio = {config.ratio}; "
            "candidates run for tau / ratio updates."
        )
    if config.warmup_steps < 0:
        raise ValueError(f"warmup_steps of AutoLRS is {config.warmup_steps}; give 0 or more.")


def growing_stages(config: AutoLRSConfig) -> np.ndarray:
    """Lengths of the stages up to the one from which on all are equal, `[stages]`."""
    taus = [config.tau0]
    while taus[-1] < config.tau_max:
        taus.append(2 * taus[-1])
    return np.asarray(taus, np.int32)


def phase_of(config: AutoLRSConfig, count: Any, xp: Any = jnp) -> Phase:
    """The phase of update `count`; `xp=numpy` computes it on the host."""
    taus = growing_stages(config)
    costs = config.k * (taus // config.ratio) + taus
    ends = config.warmup_steps + np.cumsum(costs)
    starts, trained = ends - costs, config.warmup_steps + np.cumsum(taus) - taus
    later = xp.asarray(starts[1:], "int32").reshape((1,) * xp.ndim(count) + (-1,))
    i = xp.sum(xp.expand_dims(count, -1) >= later, -1).astype("int32")
    take = lambda table: xp.asarray(table, "int32")[i]
    again = xp.where(i == len(taus) - 1, (count - take(starts)) // int(costs[-1]), 0)
    again = xp.maximum(again, 0)  # below the start while warming up
    rest = count - take(starts) - again * int(costs[-1])
    tau, short = take(taus), take(taus // config.ratio)
    probe = xp.minimum(rest // short, config.k)
    step = rest - probe * short
    length = xp.where(probe < config.k, short, tau)
    position = take(trained) + again * int(taus[-1]) + step
    warming = count < config.warmup_steps
    usual = (i + again, probe, step, length, position)
    special = (-1, config.k, count, config.warmup_steps, count)
    return Phase(*(xp.where(warming, a, b) for a, b in zip(special, usual, strict=True)))
