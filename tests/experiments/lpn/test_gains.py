"""Gains of a search over its start, and of a control over the control of the start."""

import numpy as np

from experiments.lpn.gains import gain_table, gains_over


def solved(*tasks):
    return np.array(tasks, bool).repeat(2).reshape(-1, 2)


def test_a_search_is_compared_with_the_mean_and_a_control_with_the_control():
    right = {
        "mean": solved(1, 0, 0, 0),
        "mean_shuffled": solved(1, 1, 0, 0),
        "ascent": solved(1, 1, 1, 0),
        "ascent_shuffled": solved(0, 1, 0, 0),
    }
    found = gains_over("mean", right)
    assert list(found) == ["ascent", "ascent_shuffled"]
    assert [one.value for one in found["ascent"]] == [0.5, 0.5]
    assert [one.value for one in found["ascent_shuffled"]] == [-0.25, -0.25]
    lines = gain_table(found, "mean").splitlines()
    assert "tasks gained over mean" in lines[0] and "50.0 [" in lines[1] and "-25.0 [" in lines[2]


def test_a_control_that_was_not_run_is_no_gain():
    assert gains_over("mean", {"mean": solved(1, 0)}) == {}
