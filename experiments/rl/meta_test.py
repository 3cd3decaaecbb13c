"""Meta-tests: a frozen rule trains new agents; numbers over horizons and figures."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrl import drift
from jaxrl.envs import optimal_return, sample_level
from jaxrl.envs.grid_levels import Family
from jaxrl.meta.learned_drift import learning_curve
from jaxrl.meta.learned_rule import Rule, RuleInputs
from jaxrl.meta.lifetime import (
    Setting,
    final_return,
    history,
    init_agent,
    interact,
    live,
    rule_inputs,
)
from jaxtrain.core import Core
from jaxtrain.host.report import figure_style, save_figure
from jaxtrain.replacing import replacing

WINDOW = 5  # last updates whose returns are averaged for a drift
RATIOS, ADVANTAGES = (0.5, 1.5, 81), (-2.0, 2.0, 5)  # first, last and number, for slopes


class MetaTest(NamedTuple):
    """A meta-test.

    Attributes:
      numbers: `(params, key) -> {name: number}`.
      draw: `(params, key, folder) -> None`, writes figures.
    """

    numbers: Callable[[Any, Array], dict[str, float]]
    draw: Callable[[Any, Array, Path], None]


def time_sensitivity(rule: Rule, eta: Any, inputs: RuleInputs, lifetime: int) -> Array:
    """How far pi_hat moves while n / N goes from 0 to 1, in multiples of its own size.

        sum_k mean |pi_hat(x_k) - pi_hat(x_k-1)| / mean |pi_hat|,    x_k = n / N = k / 10

    Args:
      rule: any.
      eta: its parameters.
      inputs: fixed rollouts, every leaf `[L, W, T, ...]`.
      lifetime: N.

    Returns:
      `[]`; 0 for a rule that ignores n.
    """
    at = lambda n: jax.vmap(jax.vmap(lambda x: rule.apply(eta, x, n, lifetime).pi_hat))(inputs)
    said = jax.vmap(at)(lifetime * jnp.linspace(0, 1, 11))
    return jnp.abs(jnp.diff(said, axis=0)).sum(0).mean() / jnp.abs(said).mean()


def slopes(fun: drift.Drift, progress: float) -> Array:
    """Slope of the objective, `[A, R]`, over `ADVANTAGES` and `RATIOS` at n / N."""
    return drift.slope(fun, jnp.linspace(*RATIOS), jnp.linspace(*ADVANTAGES), progress)


def slope_change(fun: drift.Drift) -> Array:
    """How far the slope of the objective moves from n / N = 0 to 1, in multiples of its own size:
    mean |slope(1) - slope(0)| / mean |slope(0)|, `[]`; 0 for a drift that ignores n / N."""
    first, last = slopes(fun, 0.0), slopes(fun, 1.0)
    return jnp.abs(last - first).mean() / jnp.abs(first).mean()


def stops(fun: drift.Drift, progress: float) -> Array:
    """Where the objective stops pushing the ratio away from 1, `[A]`.

    In the direction of the advantage A the first of `RATIOS` at which the slope, A without a drift,
    has changed its sign or is below A / 100, which is 0 but for rounding; NaN if there is none.
    """
    ratio, advantage = jnp.linspace(*RATIOS), jnp.linspace(*ADVANTAGES)[:, None]
    away = (ratio[None] - 1) * jnp.sign(advantage)
    stopped = (away > 0) & (slopes(fun, progress) * advantage <= 0.01 * advantage**2)
    nearest = jnp.where(stopped, away, jnp.inf).min(1)
    return jnp.where(jnp.isfinite(nearest), 1 + jnp.sign(advantage[:, 0]) * nearest, jnp.nan)


def rule_test(
    setting: Setting,
    family: Family,
    *,
    seed: int,
    num_levels: int,
    horizons: Sequence[int],
    num_episodes: int,
    temporal: bool,
) -> MetaTest:
    """LPG: agents on held-out levels that do not depend on the run's seed.

    Numbers: `return_<N>` for each horizon and, for tabular levels, `normalised_<N>`, the return
    over the optimal one (levels without reachable reward left out), and `normalised`, their mean.
    For temporal rules also `time_sensitivity`, on rollouts of agents half-way through the longest
    horizon.
    """
    keys = jax.random.split(jax.random.key(seed), num_levels)
    levels = jax.jit(jax.vmap(functools.partial(sample_level, family)))(keys)
    best = None
    if family.tabular:
        best = jax.jit(jax.vmap(functools.partial(optimal_return, family.shape)))(levels)

    @jax.jit
    def returns(eta: Any, lifetime: Array, key: Array) -> Array:
        def of_level(level: Any, key: Array) -> Array:
            key_agent, key_live, key_end = jax.random.split(key, 3)
            agent = init_agent(setting, key_agent, level)
            agent = live(setting, eta, agent, level, lifetime, key_live)
            return final_return(
                setting, agent, level, key_end,
                max_steps=family.max_steps[1], num_episodes=num_episodes,
            )  # fmt: skip

        return jax.vmap(of_level)(levels, jax.random.split(key, num_levels))

    @jax.jit
    def sensitivity(eta: Any, key: Array) -> Array:
        longest = max(horizons)

        def of_level(level: Any, key: Array) -> RuleInputs:
            key_agent, key_live, key_roll = jax.random.split(key, 3)
            agent, _ = history(
                setting, eta, init_agent(setting, key_agent, level), level,
                jnp.int32(longest), key_live, longest // 2,
            )  # fmt: skip
            _, steps = interact(setting, agent, level, key_roll)
            return rule_inputs(setting, agent, steps)

        inputs = jax.vmap(of_level)(levels, jax.random.split(key, num_levels))
        return time_sensitivity(setting.rule, eta, inputs, longest)

    def numbers(eta: Any, key: Array) -> dict[str, float]:
        found: dict[str, float] = {}
        for horizon in horizons:
            scores = returns(eta, jnp.int32(horizon), jax.random.fold_in(key, horizon))
            found[f"return_{horizon}"] = float(scores.mean())
            if best is not None:
                good = best > 1e-6
                share = jnp.where(good, scores / jnp.where(good, best, 1.0), 0.0)
                found[f"normalised_{horizon}"] = float(share.sum() / good.sum())
        if best is not None:
            found["normalised"] = float(np.mean([found[f"normalised_{n}"] for n in horizons]))
        if temporal:
            found["time_sensitivity"] = float(sensitivity(eta, jax.random.fold_in(key, 0)))
        return found

    @functools.partial(jax.jit, static_argnums=3)
    def schedule(eta: Any, lifetime: Array, key: Array, num_updates: int) -> Any:
        def of_level(level: Any, key: Array) -> Any:
            key_agent, key_live = jax.random.split(key)
            agent = init_agent(setting, key_agent, level)
            return history(setting, eta, agent, level, lifetime, key_live, num_updates)[1]

        stats = jax.vmap(of_level)(levels, jax.random.split(key, num_levels))
        return jax.tree.map(lambda x: x.mean(0), stats)

    def draw(eta: Any, key: Array, folder: Path) -> None:
        names = ("policy_entropy", "policy_step", "pi_hat_size", "prediction_gap")
        with figure_style():
            import matplotlib.pyplot as plt

            figure, panels = plt.subplots(2, 4, figsize=(12, 5))
            longest = max(horizons)
            for horizon in horizons:
                stats = schedule(eta, jnp.int32(horizon), key, longest)
                time = np.arange(longest)
                for name, above, below in zip(names, *panels, strict=True):
                    above.plot(time, getattr(stats, name), label=f"N = {horizon}")
                    below.plot(time / horizon, getattr(stats, name))
                    above.set_title(name.replace("_", " "), fontsize=9)
                    above.set_xlabel("updates n")
                    below.set_xlabel("n / N")
                    below.set_xlim(0, 1)
            panels[0][0].legend(fontsize=7)
            save_figure(figure, folder / "schedule.png")

    return MetaTest(numbers, draw)


def drift_test(
    learner: Callable[[int, drift.Drift], Core],
    *,
    num_workers: int,
    num_seeds: int,
    horizons: Sequence[int],
) -> MetaTest:
    """LPO: agents trained with the learned drift and with PPO's, over horizons.

    Numbers: `return_<N>` and `ppo_return_<N>`, mean episode return over the last updates of
    `num_seeds` trainings, and `slope_change`. The figure shows the slopes along a
    lifetime, and `drift_stops.csv` beside it the ratios of `stops`.
    """

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def score(horizon: int, is_ppo: bool, weights: Any, key: Array) -> Array:
        core = learner(horizon, drift.ppo() if is_ppo else drift.learned(weights))
        curve = lambda k: learning_curve(core, k[0], k[1], num_workers, horizon)[-WINDOW:].mean()
        return jax.vmap(curve)(jax.random.split(key, (num_seeds, 2))).mean()

    def numbers(weights: Any, key: Array) -> dict[str, float]:
        found = {}
        for horizon in horizons:
            for name, is_ppo in (("return", False), ("ppo_return", True)):
                found[f"{name}_{horizon}"] = float(score(horizon, is_ppo, weights, key))
        found["slope_change"] = float(slope_change(drift.learned(weights)))
        return found

    def draw(weights: Any, key: Array, folder: Path) -> None:
        times = (0.0, 0.25, 0.5, 0.75, 1.0)
        rows = [[progress, *stops(drift.learned(weights), progress)] for progress in times]
        header = ",".join(["n/N", *(f"A={a:g}" for a in np.linspace(*ADVANTAGES))])
        with replacing(folder / "drift_stops.csv") as part:
            np.savetxt(part, rows, "%.4g", ",", header=header, comments="")
        with figure_style():
            import matplotlib.pyplot as plt

            figure, panels = plt.subplots(1, 5, figsize=(13, 2.8), sharey=True)
            for axes, progress in zip(panels, times, strict=True):
                lines = slopes(drift.learned(weights), progress)
                for a, line in zip(np.linspace(*ADVANTAGES), lines, strict=True):
                    axes.plot(np.linspace(*RATIOS), line, label=f"A = {a:g}")
                axes.axhline(0, color="black", linewidth=0.5)
                axes.set_title(f"n / N = {progress:g}", fontsize=9)
                axes.set_xlabel("ratio")
            panels[0].set_ylabel("slope of the objective")
            panels[0].legend(fontsize=7)
            save_figure(figure, folder / "drift.png")

    return MetaTest(numbers, draw)
