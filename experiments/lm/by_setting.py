"""Trials of a sweep by their setting, with intervals over problems and seeds."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from jaxtrain.host.proportions import Interval
from jaxtrain.host.report import grid
from jaxtrain.host.sweep import SEED_AXIS, Axes, as_typed, overlay


def over_trials(
    measure: Callable[[Any, ConfigDict, Array], Any], config: ConfigDict, axes: Axes | None
) -> Callable[[Any, Array], Any]:
    """`(state, key) -> numbers` of all trials, one after the other in one program.

    Args:
      measure: `(state, config, key) -> numbers` of one trial; numbers of the config may be traced.
      config: of the run.
      axes: its sweep; without one the numbers have no trial axis.
    """
    if axes is None:
        return jax.jit(lambda state, key: measure(state, config, key))

    @jax.jit
    def every(state: Any, key: Array) -> Any:
        def one(trial: tuple[Any, dict[str, Array]]) -> Any:
            own = jax.random.fold_in(key, trial[1].get(SEED_AXIS, 0))
            return measure(trial[0], overlay(config, trial[1]), own)

        return jax.lax.map(one, (state, jax.tree.map(jnp.asarray, axes.values)))

    return every


def settings_of(axes: Axes | None, alone: str = "") -> dict[str, list[int]]:
    """Setting -> its trials, which differ in their seed only; `alone` if nothing else is swept."""
    if axes is None:
        return {alone: [0]}
    names = [name for name in axes.names if name != SEED_AXIS]
    columns = {name: as_typed(axes.values[name]) for name in names}
    found: dict[str, list[int]] = {}
    for trial in range(axes.num_trials):
        said = ", ".join(f"{name.rpartition('.')[2]}={columns[name][trial]:g}" for name in names)
        found.setdefault(said or alone, []).append(trial)
    return found


def values_of(axes: Axes | None, name: str, default: float) -> np.ndarray:
    """Value of a key in each trial, `[trials]`: the default where it is not swept."""
    count = 1 if axes is None else axes.num_trials
    swept = None if axes is None else axes.values.get(name)
    return np.full(count, default) if swept is None else np.asarray(as_typed(swept))


DRAWS, LEVEL = 1_000, 0.95


def bootstrap(values: Any) -> Interval:
    """Mean with an interval over seeds and problems.

    Seeds are drawn with replacement, and within each of them problems; every seed has problems of
    its own. Where problems differ more than seeds that is cautious: their spread counts twice, as
    means of seeds have it too. Three seeds that differ more give about their range, some 75 %. The
    draws are the same in every call.

    Args:
      values: `[..., seeds, problems]`; NaN for problems that do not count.
    """
    values = np.asarray(values, np.float64)
    seeds, problems = values.shape[-2:]
    rng = np.random.default_rng(0)
    rows = rng.integers(seeds, size=(DRAWS, seeds))
    weight = np.zeros((DRAWS, seeds, problems))
    for draw, chosen in enumerate(rows):
        for seed in chosen:
            weight[draw, seed] += np.bincount(rng.integers(problems, size=problems), None, problems)
    counts = ~np.isnan(values)
    total = lambda x: np.einsum("dsp,...sp->...d", weight, x)
    means = total(np.nan_to_num(values)) / total(counts.astype(float))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    return Interval(np.nanmean(values, axis=(-2, -1)), low, high)


def shown(found: Interval, digits: int = 3) -> str:
    """`"0.123 [0.120, 0.126]"`."""
    value, low, high = (f"{float(x):.{digits}f}" for x in found)
    return f"{value} [{low}, {high}]"


def table(title: str, columns: list[str], rows: Mapping[str, list[str]]) -> str:
    """A title, and a line of cells for every name."""
    lines = [[name, *cells] for name, cells in rows.items()]
    return f"\n{title}\n{grid([['', *columns], *lines])}"
