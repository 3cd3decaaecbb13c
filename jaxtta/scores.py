"""Metrics of scored outputs, on the host in float64.

`error` and the calibration scores are per row in stream order; open-set scores compare known with
unknown rows. The mean over corruptions is the mean of their errors.
"""

import math

import numpy as np

from jaxtta.streams import Stream


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    z = np.asarray(logits, np.float64)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, num_bins: int = 15
) -> float:
    """Sum over equal-width bins of (share of rows) * |accuracy - mean confidence|.

    Args:
      confidence: probability of the predicted class, `[N]`.
      correct: whether it is right, `[N]`.
      num_bins: over (0, 1], the upper edge belongs to a bin.
    """
    which = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    total = lambda values: np.bincount(which, weights=values, minlength=num_bins)
    return float(np.abs(total(correct.astype(float)) - total(confidence)).sum() / len(confidence))


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics of scored logits; calibration is that of their softmax.

    Args:
      logits: `[N, C]`.
      labels: `[N]`; all negative where none is known.

    Returns:
      `error` (share), `nll` (nats), `brier` (sum over classes), `ece` (15 bins) and
      `largest_class`, the share of the class that is predicted most, which nears 1 in a collapse.
      Without labels all but the last are NaN.

    Raises:
      ValueError: labels that the logits have no class for.
    """
    if len(labels) and labels.max() >= logits.shape[-1]:
        raise ValueError(
            f"labels go up to {labels.max()} but the logits have {logits.shape[-1]} classes; take "
            "the network of this label set."
        )
    log_p = _log_softmax(logits)
    p, predicted = np.exp(log_p), log_p.argmax(-1)
    largest = float(np.bincount(predicted).max() / len(labels))
    if (labels < 0).all():
        return dict.fromkeys(("error", "nll", "brier", "ece"), math.nan) | {
            "largest_class": largest
        }
    truth = np.arange(logits.shape[-1]) == labels[:, None]
    return {
        "error": float((predicted != labels).mean()),
        "nll": float(-log_p[truth].mean()),
        "brier": float(((p - truth) ** 2).sum(-1).mean()),
        "ece": expected_calibration_error(p.max(-1), predicted == labels),
        "largest_class": largest,
    }


def scores_by_domain(
    logits: np.ndarray, labels: np.ndarray, stream: Stream
) -> dict[int, dict[str, float]]:
    """`scores` of the rows of each domain, in the order in which the stream meets them first.

    Args:
      logits: `[T, B, C]`.
      labels: of the images, the same in all domains, `[N]`.
      stream: what was evaluated.
    """
    seen = stream.domain[stream.mask]
    order = seen[np.sort(np.unique(seen, return_index=True)[1])]
    truth = np.asarray(labels)[stream.image]
    rows = {int(d): stream.mask & (stream.domain == d) for d in order}
    return {d: scores(np.asarray(logits)[at], truth[at]) for d, at in rows.items()}


def worst_group_error(wrong: np.ndarray, groups: np.ndarray) -> float:
    """Error of the group that is served worst.

    Args:
      wrong: `[N]`, bool.
      groups: `[N]`.
    """
    return float(max(wrong[groups == g].mean() for g in np.unique(groups)))


def energy(logits: np.ndarray) -> np.ndarray:
    """logsumexp of the logits, `[N]`: high for known classes."""
    z = np.asarray(logits, np.float64)
    top = z.max(-1)
    return top + np.log(np.exp(z - top[..., None]).sum(-1))


def _roc(known: np.ndarray, unknown: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Falling thresholds, and the shares of unknown and known scores at or above each."""
    levels = np.append(np.inf, np.unique(np.concatenate([known, unknown]))[::-1])
    at_least = lambda x: 1 - np.searchsorted(np.sort(x), levels, side="left") / len(x)
    return levels, at_least(unknown), at_least(known)


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Chance that a known row scores above an unknown one, ties counting half."""
    _, false, true = _roc(known, unknown)
    return float(np.trapezoid(true, false))


def fpr_at_tpr(known: np.ndarray, unknown: np.ndarray, tpr: float = 0.95) -> float:
    """Share of unknown rows taken for known when `tpr` of the known are, between thresholds
    linearly."""
    _, false, true = _roc(known, unknown)
    return float(np.interp(tpr, true, false))


def oscr(known: np.ndarray, correct: np.ndarray, unknown: np.ndarray) -> float:
    """Area under correct classification of known rows against false positives (open-set rate).

    Args:
      known: scores of known rows, `[N]`.
      correct: whether they are classified right, `[N]`.
      unknown: scores of unknown rows, `[M]`.
    """
    levels, false, _ = _roc(known, unknown)
    right = np.sort(known[correct])
    share = (len(right) - np.searchsorted(right, levels, side="left")) / len(known)
    return float(np.trapezoid(share, false))
