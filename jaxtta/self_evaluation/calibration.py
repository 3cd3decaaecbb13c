"""How far confidences can be trusted, and what second answers do to first ones; in float64.

A confidence is a probability that something is right, a label is whether it is: 0, 1, or for a
question asked many times the share of right answers.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtrain.known_numbers import check_whole
from jaxtta import scores


class Bins(NamedTuple):
    """A reliability table: rows of similar confidence.

    Attributes:
      share: of all rows, `[M]`, sums to 1.
      confidence: mean in the bin, `[M]`; 0 in an empty one.
      label: mean in the bin, `[M]`; 0 in an empty one.
      which: bin of every row, `[N]`.
    """

    share: np.ndarray
    confidence: np.ndarray
    label: np.ndarray
    which: np.ndarray


class Brier(NamedTuple):
    """score = reliability - resolution + uncertainty + within, exactly.

    Attributes:
      score: mean of (confidence - label)^2, smaller is better.
      reliability: squared miscalibration of the bins, smaller is better.
      resolution: how much the labels of the bins differ, larger is better.
      uncertainty: variance of the labels, which no confidence changes.
      within: what the bins hide, variance of the confidence minus twice its covariance with the
        label inside them; 0 if all confidences of a bin are equal.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


class Revision(NamedTuple):
    """What a second turn does to the first; NaN where nothing can be conditioned on.

    Attributes:
      first: share right before, Acc1.
      second: share right after, Acc2 = Acc1 CL + (1 - Acc1) CS.
      confidence: CL, share of right first answers that stay right.
      critique: CS, share of wrong first answers that become right.
      right_to_wrong: share of all answers that become wrong, c2i.
      wrong_to_right: share of all answers that become right, i2c.
      relative: RSS = (Acc2 - Acc1^2) / (2 Acc1 (1 - Acc1)); 0.5 exactly if Acc1 = Acc2.
    """

    first: float
    second: float
    confidence: float
    critique: float
    right_to_wrong: float
    wrong_to_right: float
    relative: float


def _rows(numbers: ArrayLike, label: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64.

    Raises:
      ValueError: they are no vectors of one length, there is no row, or a label is not in [0, 1].
    """
    numbers, label = np.asarray(numbers, np.float64), np.asarray(label, np.float64)
    if numbers.ndim != 1 or numbers.shape != label.shape or not len(label):
        raise ValueError(
            f"there are numbers of shape {numbers.shape} and labels of shape {label.shape}; give "
            "one of each for every question, one at least."
        )
    if not ((label >= 0) & (label <= 1)).all():
        raise ValueError("a label is outside [0, 1]; it is a share of right answers.")
    return numbers, label


def bins(
    confidence: ArrayLike,
    label: ArrayLike,
    num_bins: int = 10,
    kind: Literal["width", "mass"] = "width",
) -> Bins:
    """Rows by their confidence.

    Args:
      confidence: in [0, 1], `[N]`.
      label: in [0, 1], `[N]`.
      num_bins: M.
      kind: bins of equal width over [0, 1], the upper edge belongs to a bin; or of equal mass, as
        many rows in each as can be, equal confidences in the order of the rows.

    Raises:
      ValueError: there is no such kind, a confidence or a label is no probability, or there are
        not equally many of them, one at least.
    """
    check_whole(1, 2**31 - 1, num_bins=num_bins)
    confidence, label = _rows(confidence, label)
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("a confidence is outside [0, 1]; pass probabilities.")
    if kind == "width":
        which = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    elif kind == "mass":
        rank = np.argsort(np.argsort(confidence, kind="stable"))
        which = rank * num_bins // len(confidence)
    else:
        raise ValueError(f"there are no bins of equal {kind!r}; take width or mass.")
    total = lambda values: np.bincount(which, values, num_bins)
    number = total(np.ones(len(which)))
    mean = lambda values: total(values) / np.maximum(number, 1)
    return Bins(number / len(which), mean(confidence), mean(label), which)


def calibration_error(table: Bins) -> float:
    """ECE, the sum over bins of share * |label - confidence|.

    References:
      Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599.
    """
    return float((table.share * np.abs(table.label - table.confidence)).sum())


def brier(confidence: ArrayLike, label: ArrayLike, table: Bins | None = None) -> Brier:
    """The Brier score and its parts.

    Args:
      confidence: `[N]`.
      label: `[N]`, in [0, 1].
      table: `bins` of the same rows; ten of equal width without it.

    Raises:
      ValueError: as `bins`, or the table is of other rows.

    References:
      Murphy, A New Vector Partition of the Probability Score, 1973; Stephenson et al., Two Extra
      Components in the Brier Score Decomposition, 2008.
    """
    confidence, label = _rows(confidence, label)
    table = bins(confidence, label) if table is None else table
    if len(table.which) != len(label):
        raise ValueError(f"the table is of {len(table.which)} rows, but there are {len(label)}.")
    in_bin, label_in_bin = table.confidence[table.which], table.label[table.which]
    spread, deviation = confidence - in_bin, label - label_in_bin
    return Brier(
        float(((confidence - label) ** 2).mean()),
        float((table.share * (table.confidence - table.label) ** 2).sum()),
        float((table.share * (table.label - label.mean()) ** 2).sum()),
        float(label.var()),
        float((spread**2 - 2 * spread * deviation).mean()),
    )


def auroc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Chance that a right answer has more confidence than a wrong one, ties counting half.

    Args:
      confidence: `[N]`.
      correct: `[N]`, bool.

    Raises:
      ValueError: all answers are right, or all are wrong; a confidence is not finite.
    """
    confidence, right = _rows(confidence, correct)
    if not np.isfinite(confidence).all() or not np.isin(right, (0, 1)).all():
        raise ValueError("an AUROC needs finite confidences, and answers that are right or wrong.")
    right = right.astype(bool)
    if right.all() or not right.any():
        raise ValueError("an AUROC needs right and wrong answers, but all are of one kind.")
    return scores.auroc(confidence[right], confidence[~right])


def fitted_temperature(logit: ArrayLike, label: ArrayLike) -> float:
    """T for which sigmoid(logit / T) has the smallest cross-entropy, between 1e-3 and 1e3.

    The cross-entropy is convex in 1 / T; its slope is bisected.

    Args:
      logit: log-odds of being right, `[N]`.
      label: `[N]`, in [0, 1].

    Raises:
      ValueError: log-odds that are not finite, or labels that are no probabilities.

    References:
      Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599.
    """
    logit, label = _rows(logit, label)
    if not np.isfinite(logit).all():
        raise ValueError("log-odds are not finite; leave out what is certain.")
    slope = lambda inverse: (logit * (0.5 + 0.5 * np.tanh(inverse * logit / 2) - label)).mean()
    low, high = np.log(1e-3), np.log(1e3)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(np.exp(middle)) > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else float("nan")


def _revision(kept: float, fixed: float, first: float) -> Revision:
    second = kept + fixed
    return Revision(
        float(first),
        float(second),
        _ratio(kept, first),
        _ratio(fixed, 1 - first),
        float(first - kept),
        float(fixed),
        _ratio(second - first**2, 2 * first * (1 - first)),
    )


def revision(first: ArrayLike, second: ArrayLike) -> Revision:
    """Answers that were asked for twice.

    Args:
      first: whether each first answer is right, any shape, for example `[questions, samples]`.
      second: whether the answer after it is, the same shape.

    Raises:
      ValueError: other shapes, or no answer.

    References:
      Yang et al., Confidence v.s. Critique: A Decomposition of Self-Correction Capability for LLMs,
      arXiv 2412.19513.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or not first.size:
        raise ValueError(
            f"there are first answers of shape {first.shape} and second ones of shape "
            f"{second.shape}; every first one needs its second, and one there must be."
        )
    return _revision((first & second).mean(), (~first & second).mean(), first.mean())


def revision_of_options(first: ArrayLike, second: ArrayLike, gold: ArrayLike) -> Revision:
    """The same for multiple choice, in expectation over the options instead of samples.

    Args:
      first: probability of each option, `[Q, C]`, rows sum to 1.
      second: probability of each option after the model has seen one as its answer,
        `[Q, shown, C]`.
      gold: right option, `[Q]`, int.

    Raises:
      ValueError: shapes that do not belong together, rows that are no probabilities, or a right
        option that is none.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    gold = np.asarray(gold)
    fits = first.ndim == 2 and second.shape == (*first.shape, first.shape[1])
    if not fits or gold.shape != first.shape[:1] or not first.size:
        raise ValueError(
            f"the shapes {first.shape}, {second.shape} and {gold.shape} are not those of C options "
            "to Q questions, [Q, C], [Q, C, C] and [Q]."
        )
    for rows in (first, second):
        if not ((rows >= 0).all() and np.abs(rows.sum(-1) - 1).max() < 1e-3):
            raise ValueError("the probabilities of the options must sum to 1.")
    if not np.isin(gold, np.arange(first.shape[1])).all():
        raise ValueError(f"the right options {gold} are not all among the {first.shape[1]}.")
    joint = first * second[np.arange(len(first)), :, gold]  # shown, then right
    right = np.arange(first.shape[1]) == gold[:, None]
    of = lambda values, chosen: np.where(chosen, values, 0).sum(-1).mean()
    return _revision(of(joint, right), of(joint, ~right), of(first, right))
