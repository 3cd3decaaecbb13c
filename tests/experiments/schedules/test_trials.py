"""Combinations of schedule, rate and seed, their rates, and the best of them."""

import jax.numpy as jnp
import numpy as np

from experiments.schedules.trials import looked_up, product, tuned


def test_trials_are_all_combinations_with_the_last_name_fastest():
    axes = product(schedule=range(2), peak=(0.5, 1.5), seed=range(2))
    assert axes.names == ("schedule", "peak", "seed")
    np.testing.assert_array_equal(axes.values["schedule"], [0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(axes.values["peak"], [0.5, 0.5, 1.5, 1.5] * 2)
    np.testing.assert_array_equal(axes.values["seed"], [0, 1] * 4)
    assert [axes.values[name].dtype for name in axes.names] == [np.int32, np.float32, np.int32]


def test_rates_are_those_of_a_row_times_the_peak_and_end_with_the_last():
    table = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    rate = looked_up(table, {"schedule": jnp.int32(1), "peak": jnp.float32(10)})
    assert [float(rate(step)) for step in (0, 2, 9)] == [40, 60, 60]


def test_the_best_peak_has_the_lowest_mean_of_those_that_did_not_diverge():
    losses = np.array([[[1, 3], [2, 1], [0, np.nan]], [[5, 5], [6, 6], [-np.inf, np.inf]]])
    values, best = tuned(losses)
    assert best.tolist() == [1, 0]
    np.testing.assert_array_equal(values, [[2, 1], [5, 5]])
