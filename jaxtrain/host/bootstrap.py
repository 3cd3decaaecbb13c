"""Intervals over problems and seeds at once."""

from typing import Any

import numpy as np

from jaxtrain.host.proportions import Interval


def resampled(
    values: Any, counts: Any = None, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """A mean, or a ratio of sums, with its bootstrap interval over problems and seeds.

    Seeds and problems are drawn with replacement, each by themselves, since all seeds meet the same
    problems. Differences of two methods on the same problems and seeds are values like any other.

    Args:
      values: `[seeds, problems]`, for example shares of right samples.
      counts: what the sum of the values is divided by, `[seeds, problems]`, for example how many
        samples a share is of; ones without it.
      level: coverage of the interval.
      draws: how often is drawn.
      seed: of the draws.

    Returns:
      Value and ends; NaN where there is nothing to divide by.
    """
    values = np.asarray(values, np.float64)
    counts = np.ones_like(values) if counts is None else np.asarray(counts, np.float64)
    rng = np.random.default_rng(seed)
    drawn = [rng.multinomial(n, np.full(n, 1 / n), draws).astype(float) for n in values.shape]
    total = lambda x: ((drawn[0] @ x) * drawn[1]).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = total(values) / total(counts)
        value = values.sum() / counts.sum()
    if np.isnan(ratios).all():
        return Interval(value, np.nan, np.nan)
    low, high = np.nanquantile(ratios, (0.5 - level / 2, 0.5 + level / 2))
    return Interval(float(value), float(low), float(high))
