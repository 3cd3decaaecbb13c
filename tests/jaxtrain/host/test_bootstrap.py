"""Bootstrap intervals against the normal ones where those are right."""

import numpy as np
import pytest

from jaxtrain.host.bootstrap import resampled


def test_independent_values_have_the_interval_of_their_mean():
    values = np.random.default_rng(0).normal(size=(1, 400))
    value, low, high = resampled(values)
    assert value == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert value - low == pytest.approx(half, rel=0.1)
    assert high - value == pytest.approx(half, rel=0.1)


def test_seeds_that_differ_widen_it_however_many_problems_there_are():
    values = np.broadcast_to(np.arange(4.0)[:, None], (4, 100))
    value, low, high = resampled(values)
    assert value == 1.5 and low < 0.6 and high > 2.4
    value, low, high = resampled(values.T)
    assert value == 1.5 and low < 0.6 and high > 2.4


def test_a_ratio_is_one_of_sums():
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 5, (3, 50))
    values = rng.binomial(counts, 0.3)
    found = resampled(values, counts)
    assert found.value == pytest.approx(values.sum() / counts.sum())
    assert found.low < found.value < found.high
    assert found == resampled(values, counts)


def test_nothing_to_divide_by_is_no_number():
    assert np.isnan(resampled(np.zeros((2, 3)), np.zeros((2, 3)))).all()
