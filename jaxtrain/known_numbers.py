"""Numbers that are known when a function is called; traced ones and vectors of a sweep are not."""

from collections.abc import Callable
from typing import Any

import numpy as np


def known(value: Any) -> bool:
    """Whether the number is known now."""
    return isinstance(value, (int, float, np.integer, np.floating))


def check_known(good: Callable[[Any], bool], says: str, **values: Any) -> None:
    """Refuses numbers that are known now and impossible; all others pass.

    Args:
      good: whether a number is possible; comparisons refuse NaN by themselves.
      says: what it must be, for example "above 0".
      **values: the numbers by name.

    Raises:
      ValueError: names the first impossible one.
    """
    for name, value in values.items():
        if known(value) and not good(value):
            raise ValueError(f"{name} is {value}; it must be {says}.")


def check_whole(low: int, high: int, **values: Any) -> None:
    """Refuses what is no whole number from `low` to `high`, among structure that is never traced.

    Raises:
      ValueError: names the first such value.
    """
    for name, value in values.items():
        if not isinstance(value, (int, np.integer)) or not low <= value <= high:
            raise ValueError(f"{name} is {value}; it must be a whole number from {low} to {high}.")
