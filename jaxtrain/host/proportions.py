"""Intervals of proportions, which stay inside [0, 1]: accuracies, errors, shares of solved tasks.

`wilson` is the one formula. What differs is how many independent outcomes a proportion is worth:
outcomes are counted, trials tell it by their spread, and paired outcomes share most of theirs.

References:
  Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927.
  Newcombe, Improved Confidence Intervals for the Difference Between Binomial Proportions Based on
  Paired Data, Statistics in Medicine 1998, method 10.
  Korn and Graubard, Confidence Intervals for Proportions with Small Expected Number of Positive
  Counts Estimated from Survey Data, Survey Methodology 1998: the effective number of outcomes.
"""

from typing import Any, NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A value and the ends of its interval, each `[...]`."""

    value: Any
    low: Any
    high: Any


def wilson(share: Any, count: Any, level: float = 0.95, freedom: float = np.inf) -> Interval:
    """Wilson's interval: the p whose distance from `share` is q sqrt(p (1 - p) / count).

    Args:
      share: proportions in [0, 1], `[...]`.
      count: independent outcomes behind each, `[...]`; infinity leaves the proportion alone.
      level: coverage of the interval.
      freedom: q is the normal quantile, or Student's with so many degrees of freedom.
    """
    from scipy.special import ndtri, stdtrit

    share, count = np.asarray(share, np.float64), np.asarray(count, np.float64)
    tail = 0.5 + level / 2
    square = (ndtri(tail) if np.isinf(freedom) else stdtrit(freedom, tail)) ** 2 / count
    centre = (share + square / 2) / (1 + square)
    half = np.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    low, high = np.clip(centre - half, 0, share), np.clip(centre + half, share, 1)
    return Interval(share, low, high)


def over_trials(shares: Any, level: float = 0.95) -> Interval:
    """Mean over the last axis, `[..., trials]`, with Wilson's interval of it.

    The spread of the trials says how many outcomes the mean p is worth: p (1 - p) / (s^2 / trials)
    with s^2 the unbiased variance; q is Student's. Equal trials show no spread and leave the mean
    alone, as Student's interval does; of a single trial the ends are NaN.

    Raises:
      ValueError: a value that is no proportion.
    """
    shares = np.asarray(shares, np.float64)
    if not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError("proportions are between 0 and 1; divide percentages by 100.")
    trials, mean = shares.shape[-1], shares.mean(-1)
    if trials < 2:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    variance = shares.var(-1, ddof=1) / trials
    with np.errstate(divide="ignore", invalid="ignore"):
        count = np.where(variance > 0, mean * (1 - mean) / variance, np.inf)
    return wilson(mean, count, level, freedom=trials - 1)


def gain(before: Any, after: Any, level: float = 0.95) -> Interval:
    """Difference of two proportions of the same things, `after` - `before`, in [-1, 1].

    Newcombe's method 10 for paired outcomes: only what changed counts, so it is tighter than two
    intervals that may or may not overlap.

    Args:
      before: whether each thing was right, `[things]`, bool.
      after: the same after the change.
      level: coverage of the interval.
    """
    before, after = np.asarray(before, bool), np.asarray(after, bool)
    n = before.size
    first, second = (wilson(x.mean(), n, level) for x in (after, before))
    both, neither = (after & before).sum(), (~after & ~before).sum()
    lost, won = (before & ~after).sum(), (after & ~before).sum()
    excess = float(both * neither - won * lost)
    if excess > 0:
        excess = max(excess - n / 2, 0.0)
    sizes = float((both + won) * (lost + neither) * (both + lost) * (won + neither))
    correlation = excess / np.sqrt(sizes) if sizes else 0.0

    def reach(a: float, b: float) -> float:
        return float(np.sqrt(max(a**2 - 2 * correlation * a * b + b**2, 0.0)))

    value = float(first.value - second.value)
    low = value - reach(first.value - first.low, second.high - second.value)
    high = value + reach(second.value - second.low, first.high - first.value)
    return Interval(value, low, high)


def percent(interval: Interval, digits: int = 1) -> str:
    """`"12.5 [3.1, 21.0]"`, or the number alone where no spread was seen."""
    value, *ends = (f"{100 * float(x):.{digits}f}" for x in interval)
    return f"{value} [{', '.join(ends)}]" if interval.low < interval.high else value
