"""Intervals of proportions against published tables, their defining equations and coverage."""

import numpy as np
import pytest

from jaxtrain.host import proportions
from jaxtrain.host.proportions import gain, over_trials, percent, wilson


# Newcombe 1998 (two-sided intervals for the single proportion), table I, method 3.
@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_the_published_table(right, count, low, high):
    found = wilson(right / count, count)
    np.testing.assert_allclose(found, (right / count, low, high), atol=6e-5)


def test_both_ends_solve_the_equation_that_defines_them():
    z = 1.6448536269514722  # of a level of 90 %
    share, count = np.array([0.2, 0.5, 0.97]), np.array([5, 40, 1000])
    _, *ends = wilson(share, count, level=0.9)
    for end in ends:
        np.testing.assert_allclose((end - share) ** 2, z**2 * end * (1 - end) / count, rtol=1e-9)


def test_everything_right_or_wrong_has_an_interval_that_stays_inside():
    z2 = 1.959963984540054**2
    np.testing.assert_allclose(wilson(1.0, 10), (1, 10 / (10 + z2), 1))
    np.testing.assert_allclose(wilson(0.0, 10), (0, 0, z2 / (10 + z2)))
    assert wilson(0.3, np.inf) == (0.3, 0.3, 0.3)


def test_trials_stay_inside_where_students_interval_does_not():
    mean, low, high = over_trials([[0.0, 0.0, 0.1], [1.0, 0.96, 1.0]])
    assert (0 <= low).all() and (low < mean).all() and (mean < high).all() and (high <= 1).all()
    t, s2 = 4.302652729696142, np.var([0.0, 0.0, 0.1], ddof=1) / 3  # of 2 degrees of freedom
    for end in (low[0], high[0]):
        effective = mean[0] * (1 - mean[0]) / s2
        np.testing.assert_allclose((end - mean[0]) ** 2, t**2 * end * (1 - end) / effective)


def test_trials_that_agree_and_a_single_one():
    assert over_trials([0.25, 0.25]) == (0.25, 0.25, 0.25)
    mean, low, high = over_trials([0.5])
    assert mean == 0.5 and np.isnan(low) and np.isnan(high)
    with pytest.raises(ValueError, match="divide percentages by 100"):
        over_trials([38.0, 40.0])


def test_gain_against_newcombes_example():
    # Both right 36, before only 2, after only 12, none wrong twice: 0.2 [0.0569, 0.3404].
    after = np.repeat([True, True, False], [36, 12, 2])
    before = np.repeat([True, False, True], [36, 12, 2])
    np.testing.assert_allclose(gain(before, after), (0.2, 0.0569, 0.3404), atol=6e-5)
    back = gain(after, before)
    np.testing.assert_allclose(back, (-0.2, -0.3404, -0.0569), atol=6e-5)


def test_the_correlation_of_agreeing_pairs_is_that_of_a_corrected_table():
    # Both 20, after only 10, before only 2, neither 18: phi = (20 18 - 10 2 - 50 / 2) / root.
    after, before = np.repeat([[1, 1, 0, 0], [1, 0, 1, 0]], [20, 10, 2, 18], axis=1)
    phi = 315 / np.sqrt(30 * 20 * 22 * 28)
    z2 = 1.959963984540054**2 / 50
    ends = {p: sorted(np.roots([1 + z2, -(2 * p + z2), p * p])) for p in (0.6, 0.44)}
    a, b = 0.6 - ends[0.6][0], ends[0.44][1] - 0.44
    c, d = 0.44 - ends[0.44][0], ends[0.6][1] - 0.6
    low = 0.16 - np.sqrt(a * a - 2 * phi * a * b + b * b)
    high = 0.16 + np.sqrt(c * c - 2 * phi * c * d + d * d)
    np.testing.assert_allclose(gain(before, after), (0.16, low, high))


def test_gain_of_nothing_is_around_zero_and_covers_as_often_as_it_says():
    nothing = gain(np.zeros(100, bool), np.zeros(100, bool))
    assert nothing.value == 0 and -0.06 < nothing.low < 0 < nothing.high < 0.06
    rng = np.random.default_rng(0)
    before = rng.random((1000, 80)) < 0.3
    after = np.where(before, rng.random((1000, 80)) < 0.9, rng.random((1000, 80)) < 0.2)
    truth = 0.3 * 0.9 + 0.7 * 0.2 - 0.3
    found = [gain(b, a) for b, a in zip(before, after, strict=True)]
    assert np.mean([one.low < truth < one.high for one in found]) == pytest.approx(0.95, abs=0.02)


def test_pairs_that_agree_make_the_gain_tighter():
    right = np.arange(100) < 30
    moved = right | (np.arange(100) >= 90)
    apart = gain(right, moved)
    assert apart.low > 0
    assert wilson(0.3, 100).high > wilson(0.4, 100).low, "the single intervals overlap"


def test_percent_prints_what_there_is():
    assert percent(proportions.Interval(0.125, 0.03149, 0.2101)) == "12.5 [3.1, 21.0]"
    assert percent(over_trials([0.5]), 2) == percent(over_trials([0.5, 0.5]), 2) == "50.00"
