"""Metrics against loops over their definitions."""

import numpy as np
import pytest

from jaxtta import scores, streams

RNG = np.random.default_rng(0)
LOGITS, LABELS = 2 * RNG.normal(size=(200, 5)), RNG.integers(0, 5, 200)


def test_scores_are_their_definitions():
    found = scores.scores(LOGITS, LABELS)
    nll = brier = wrong = 0.0
    bins = [[] for _ in range(15)]
    for z, y in zip(LOGITS, LABELS, strict=True):
        p = np.exp(z) / np.exp(z).sum()
        nll -= np.log(p[y])
        brier += sum((p[c] - (c == y)) ** 2 for c in range(5))
        wrong += p.argmax() != y
        for b in range(15):
            if b / 15 < p.max() <= (b + 1) / 15:
                bins[b].append((p.max(), p.argmax() == y))
    ece = sum(
        len(b) / 200 * abs(np.mean([r for _, r in b]) - np.mean([c for c, _ in b]))
        for b in bins
        if b
    )
    expected = {"error": wrong / 200, "nll": nll / 200, "brier": brier / 200, "ece": ece}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)
    assert found["largest_class"] == np.bincount(LOGITS.argmax(1)).max() / 200


def test_calibration_bins_are_closed_above_and_do_not_make_up_for_each_other():
    confidence, correct = np.array([0.5, 0.9]), np.array([True, False])
    found = scores.expected_calibration_error(confidence, correct, num_bins=2)
    np.testing.assert_allclose(found, (0.5 + 0.9) / 2)


def test_huge_logits_and_sure_predictions():
    found = scores.scores(np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([0, 0]))
    assert found["error"] == 0.5 and np.isfinite(list(found.values())).all()
    assert found["ece"] == 0.5


def test_open_set_scores_are_their_definitions():
    known, unknown = RNG.normal(1, 1, 40).round(1), RNG.normal(0, 1, 30).round(1)
    right = RNG.random(40) < 0.7
    pairs = [(k > u) + 0.5 * (k == u) for k in known for u in unknown]
    np.testing.assert_allclose(scores.auroc(known, unknown), np.mean(pairs))
    assert scores.auroc(unknown, unknown) == 0.5
    area, before = 0.0, (0.0, 0.0)
    for t in sorted(set(known) | set(unknown), reverse=True):
        point = ((unknown >= t).mean(), ((known >= t) & right).sum() / 40)
        area += (point[0] - before[0]) * (point[1] + before[1]) / 2
        before = point
    np.testing.assert_allclose(scores.oscr(known, right, unknown), area)


def test_false_positives_at_a_true_positive_rate():
    known, unknown = np.arange(100.0), np.arange(-50.0, 50.0)
    # 95 of 100 known scores are at least 5, and so are 45 of the unknown.
    np.testing.assert_allclose(scores.fpr_at_tpr(known, unknown), 0.45)


def test_domains_in_order_of_the_stream():
    stream = streams.continual([3, 1], 10, 4, 0)
    labels = np.arange(10) % 3
    logits = np.eye(3)[labels[stream.image]]
    logits[stream.domain == 1] = np.eye(3)[0]
    logits[~stream.mask] = np.nan
    found = scores.scores_by_domain(logits, labels, stream)
    assert list(found) == [3, 1]
    assert found[3]["error"] == 0 and found[1]["error"] == 0.6


def test_worst_group_energy_and_errors():
    wrong, groups = np.array([1, 0, 0, 0], bool), np.array([0, 0, 1, 1])
    assert scores.worst_group_error(wrong, groups) == 0.5
    np.testing.assert_allclose(scores.energy(LOGITS), np.log(np.exp(LOGITS).sum(-1)))
    with pytest.raises(ValueError, match="labels go up to 9 but the logits have 5"):
        scores.scores(LOGITS, LABELS + 5)
