"""Calibration against sums over rows; second turns against counts and the identity they obey."""

import gzip
import json
import math

import numpy as np
import pytest

from jaxtta import scores
from jaxtta.self_evaluation import calibration
from tests.shared_data import DATA

RNG = np.random.default_rng(0)
CONFIDENCE = np.round(RNG.random(203), 2)
CORRECT = RNG.random(203) < CONFIDENCE**2
SOFT = RNG.binomial(30, CONFIDENCE**2) / 30


def test_bins_of_equal_width_are_counted():
    table = calibration.bins(CONFIDENCE, CORRECT, 7)
    for m in range(7):
        low = -1 if m == 0 else m / 7
        rows = (CONFIDENCE > low) & (CONFIDENCE <= (m + 1) / 7)
        means = (rows.mean(), CONFIDENCE[rows].mean(), CORRECT[rows].mean())
        np.testing.assert_allclose([x[m] for x in table[:3]], means)
    expected = scores.expected_calibration_error(CONFIDENCE, CORRECT, 7)
    np.testing.assert_allclose(calibration.calibration_error(table), expected)


def test_bins_of_equal_mass_are_quantiles():
    table = calibration.bins(CONFIDENCE, CORRECT, 10, "mass")
    assert set(np.bincount(table.which)) == {20, 21}
    order = np.argsort(CONFIDENCE, kind="stable")
    assert (np.diff(table.which[order]) >= 0).all()
    gaps = [
        abs(CONFIDENCE[table.which == m].mean() - CORRECT[table.which == m].mean())
        for m in range(10)
    ]
    expected = np.dot(table.share, gaps)
    np.testing.assert_allclose(calibration.calibration_error(table), expected)


@pytest.mark.parametrize("label", [CORRECT, SOFT], ids=["hard", "soft"])
def test_brier_is_the_sum_of_its_parts(label):
    for table in (None, calibration.bins(CONFIDENCE, label, 4, "mass")):
        parts = calibration.brier(CONFIDENCE, label, table)
        assert parts.score == ((CONFIDENCE - label) ** 2).mean()
        total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
        assert abs(parts.score - total) < 1e-14 and abs(parts.within) > 1e-5
    levels = np.round(CONFIDENCE, 1)  # one confidence per bin
    parts = calibration.brier(levels, label, calibration.bins(levels, label, 11))
    means = [label[levels == x].mean() for x in np.unique(levels)]
    share = [(levels == x).mean() for x in np.unique(levels)]
    expected = np.dot(share, (np.unique(levels) - means) ** 2)
    np.testing.assert_allclose(parts.reliability, expected)
    np.testing.assert_allclose(parts.resolution, np.dot(share, (means - label.mean()) ** 2))
    assert abs(parts.within) < 1e-15


def test_auroc_is_the_share_of_pairs():
    gaps = CONFIDENCE[CORRECT][:, None] - CONFIDENCE[~CORRECT]
    expected = (gaps > 0).mean() + (gaps == 0).mean() / 2
    np.testing.assert_allclose(calibration.auroc(CONFIDENCE, CORRECT), expected)
    with pytest.raises(ValueError, match="all are of one kind"):
        calibration.auroc(CONFIDENCE, np.ones(203))


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="pass probabilities"):
        calibration.bins([0.5, 1.5], [0, 1])
    with pytest.raises(ValueError, match="no bins of equal 'size'"):
        calibration.bins([0.5], [0], kind="size")


GOOD = np.full((2, 3), 1 / 3), np.full((2, 3, 3), 1 / 3), np.array([0, 2])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: calibration.bins([], []), r"shape \(0,\) .* one at least"),
        (lambda: calibration.bins([0.5, 0.5], [1]), r"shape \(2,\) and labels of shape \(1,\)"),
        (lambda: calibration.bins([[0.5]], [[1]]), r"shape \(1, 1\)"),
        (lambda: calibration.bins([0.5], [math.nan]), "a label is outside"),
        (lambda: calibration.bins([math.nan], [1]), "pass probabilities"),
        (lambda: calibration.bins([0.5], [1], 0), "num_bins is 0"),
        (lambda: calibration.brier([0.5, 0.5], [1, 2]), "a label is outside"),
        (
            lambda: calibration.brier([0.5, 0.5], [1, 0], calibration.bins([0.5], [1])),
            "the table is of 1 rows, but there are 2",
        ),
        (lambda: calibration.auroc([0.1, math.nan], [0, 1]), "finite confidences"),
        (lambda: calibration.auroc([0.1, 0.2], [0, 0.5]), "right or wrong"),
        (lambda: calibration.auroc([0.1, 0.2], [0, 1, 1]), r"labels of shape \(3,\)"),
        (lambda: calibration.fitted_temperature([math.inf, 1], [1, 0]), "are not finite"),
        (lambda: calibration.fitted_temperature([1.0], [2]), "a label is outside"),
        (lambda: calibration.revision([1, 0], [1]), "every first one needs its second"),
        (lambda: calibration.revision([], []), "one there must be"),
        (lambda: calibration.revision_of_options(GOOD[0], GOOD[1][:, :2], GOOD[2]), "not those of"),
        (lambda: calibration.revision_of_options(2 * GOOD[0], *GOOD[1:]), "must sum to 1"),
        (lambda: calibration.revision_of_options(*GOOD[:2], [0, 3]), "not all among the 3"),
        (lambda: calibration.revision_of_options(*GOOD[:2], [0, -1]), "not all among the 3"),
    ],
)
def test_what_nothing_can_be_said_of_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_the_temperature_of_sharpened_confidences_is_found():
    logit = RNG.normal(size=50) * 3
    for temperature in (0.4, 2.5):
        label = 1 / (1 + np.exp(-logit / temperature))
        np.testing.assert_allclose(calibration.fitted_temperature(logit, label), temperature)


def test_second_turns_by_hand():
    #        kept, kept, spoiled, fixed, still wrong
    first = [[1, 1, 1, 0, 0]]
    second = [[1, 1, 0, 1, 0]]
    found = calibration.revision(first, second)
    expected = (0.6, 0.6, 2 / 3, 1 / 2, 0.2, 0.2, 0.5)
    np.testing.assert_allclose(found, expected)


def test_the_second_accuracy_is_confidence_and_critique():
    for _ in range(20):
        first, second = RNG.random((2, 31, 10)) < RNG.random((2, 1, 1))
        r = calibration.revision(first, second)
        assert abs(r.second - (r.first * r.confidence + (1 - r.first) * r.critique)) < 1e-14
        assert abs(r.second - r.first - (r.wrong_to_right - r.right_to_wrong)) < 1e-14
        low, high = r.first**2, 2 * r.first - r.first**2
        np.testing.assert_allclose(r.relative, (r.second - low) / (high - low))
        # Per question, as the authors write it: sums of P_a P_b and of (1 - P_a) P_c.
        p_a, kept = first.mean(1), (first & second).mean(1)
        p_b = np.divide(kept, p_a, out=np.zeros(31), where=p_a > 0)
        np.testing.assert_allclose(r.confidence, (p_a * p_b).sum() / p_a.sum())


def test_a_copied_turn_changes_nothing_and_undefined_shares_are_no_numbers():
    first = RNG.random(40) < 0.3
    copied = calibration.revision(first, first)
    assert (copied.confidence, copied.critique) == (1, 0) and abs(copied.relative - 0.5) < 1e-15
    all_right = calibration.revision([1, 1], [1, 0])
    assert all_right.confidence == 0.5 and math.isnan(all_right.critique)
    assert math.isnan(all_right.relative) and math.isnan(calibration.revision([0], [1]).confidence)


def test_options_are_what_sampled_answers_tend_to():
    p, q = RNG.dirichlet(np.ones(3), 5), RNG.dirichlet(np.ones(3), (5, 3))
    gold = RNG.integers(0, 3, 5)
    found = calibration.revision_of_options(p, q, gold)
    p_a = p[np.arange(5), gold]
    p_b = q[np.arange(5), gold, gold]
    p_c = [
        sum(p[i, j] * q[i, j, gold[i]] for j in range(3) if j != gold[i]) / (1 - p_a[i])
        for i in range(5)
    ]
    np.testing.assert_allclose(found.confidence, (p_a * p_b).sum() / p_a.sum())
    np.testing.assert_allclose(found.critique, ((1 - p_a) * p_c).sum() / (1 - p_a).sum())
    np.testing.assert_allclose(found.second, (p_a * p_b + (1 - p_a) * p_c).mean())


def test_solvers_of_gsm8k_as_two_turns():
    """The large solver after the small one: 85 % stay right, 48 % of the wrong are mended."""
    path = DATA / "text/gsm8k_model_solutions.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there")
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    first, second = (
        [row[s]["is_correct"] for row in rows] for s in ("6b_finetuning", "175b_verification")
    )
    r = calibration.revision(first, second)
    assert abs(r.first - 0.217) < 1e-3 and abs(r.second - 0.563) < 1e-3
    pairs = list(zip(first, second, strict=True))
    np.testing.assert_allclose(r.confidence, np.mean([b for a, b in pairs if a]))
    np.testing.assert_allclose(r.critique, np.mean([b for a, b in pairs if not a]))
    assert abs(r.confidence - 0.85) < 5e-3 and abs(r.critique - 0.48) < 5e-3
