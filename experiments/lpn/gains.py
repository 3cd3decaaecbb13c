"""What searches solve more than the latent they start from, on the same tasks."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.data.arc.scoring import TOPS
from jaxtrain.host.proportions import Interval, gain, percent
from jaxtrain.host.report import grid


def gains_over(baseline: str, right: Mapping[str, np.ndarray]) -> dict[str, list[Interval]]:
    """What every other solver gains over the baseline on the same tasks, for each of
    `TOPS`; a control over the control of the baseline.

    Args:
      baseline: name of a solver.
      right: which tasks each run solved, `[tasks, 2]`; controls are named `<solver>_shuffled`.
    """
    starts = {"": baseline, "_shuffled": f"{baseline}_shuffled"}
    found = {}
    for name, after in right.items():
        before = starts["_shuffled" if name.endswith("_shuffled") else ""]
        if name != before:
            found[name] = [gain(*both) for both in zip(right[before].T, after.T, strict=True)]
    return found


def gain_table(gains: Mapping[str, Sequence[Interval]], baseline: str) -> str:
    """The gains in points with their paired 95 % intervals, as text."""
    rows = [[f"tasks gained over {baseline}, points", *TOPS]]
    rows += [[method, *(percent(one) for one in found)] for method, found in gains.items()]
    return grid(rows)
