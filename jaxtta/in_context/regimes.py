"""What kind of learning a run ended with, and how long it waited: on the host, for reports.

Kirsch et al. (arXiv 2212.04458) find three regimes as the number of tasks grows: tasks are stored
in the weights, or the context tells which stored task this is, or the mapping itself is learned
from the context.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Regime = Literal["memorisation", "identification", "general", "failed"]
REGIMES: tuple[Regime, ...] = ("memorisation", "identification", "general", "failed")


def ends(accuracy: Any, first: int = 1, last: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Mean accuracy over the first and the last positions of curves `[..., T]`, each `[...]`.

    Their difference is the within-sequence improvement. The paper compares single positions; a few
    of them give steadier numbers when sequences are short.

    Raises:
      ValueError: there are fewer positions than asked for.
    """
    accuracy = np.asarray(accuracy)
    if not 1 <= first <= accuracy.shape[-1] or not 1 <= last <= accuracy.shape[-1]:
        raise ValueError(
            f"the curves have {accuracy.shape[-1]} positions; first={first} and last={last} must "
            "lie between 1 and that."
        )
    return accuracy[..., :first].mean(-1), accuracy[..., -last:].mean(-1)


def classify_run(
    first_seen: float,
    improvement_seen: float,
    improvement_unseen: float,
    chance: float,
    threshold: float = 0.05,
) -> Regime:
    """Which regime a run is in.

    Args:
      first_seen: accuracy on seen tasks at the start of the sequence.
      improvement_seen: how much it rises along the sequence.
      improvement_unseen: the same on unseen tasks.
      chance: accuracy of guessing.
      threshold: smallest difference that counts.

    Returns:
      `"general"` if unseen tasks improve; else `"identification"` if seen ones do; else
      `"memorisation"` if seen tasks start above chance; else `"failed"`.
    """
    if improvement_unseen > threshold:
        return "general"
    if improvement_seen > threshold:
        return "identification"
    return "memorisation" if first_seen > chance + threshold else "failed"


def plateau_length(
    steps: Sequence[int] | np.ndarray,
    losses: Any,
    num_classes: int,
    *,
    margin: float = 0.1,
    smoothing: int = 5,
) -> float:
    """First step at which the smoothed loss is below ln C - margin, which no learner without
    context can reach when tasks are many.

    Args:
      steps: of the recorded losses, rising.
      losses: training losses in nats, `[len(steps)]`.
      num_classes: C.
      margin: nats below ln C.
      smoothing: number of records in the running mean, which looks back only.

    Returns:
      The step, or infinity if the loss never went below.
    """
    losses = np.asarray(losses, np.float64)
    if losses.shape != (len(steps),):
        raise ValueError(f"{len(steps)} steps need as many losses, but got shape {losses.shape}.")
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    low = np.maximum(np.arange(1, len(losses) + 1) - smoothing, 0)
    smooth = (sums[1:] - sums[low]) / (np.arange(1, len(losses) + 1) - low)
    below = np.flatnonzero(smooth < math.log(num_classes) - margin)
    return float(steps[below[0]]) if len(below) else math.inf
