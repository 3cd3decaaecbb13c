"""Returns of agents that decide seldom."""

import numpy as np

from experiments.rl import held


def test_returns_are_measured_at_every_length():
    found = held.returns_by_length(lambda length: -10.0 * length, (1, 4, 6))
    np.testing.assert_array_equal(found, [-10, -40, -60])


def test_a_number_per_length_and_the_score():
    curves = np.array([[0.0, -4.0], [-2.0, -2.0]])
    found = held.summary(curves, (1, 3), offset=4.0, max_return=2.0)
    assert list(found) == ["return_held_1", "return_held_3", "fas"]
    np.testing.assert_array_equal(found["return_held_3"], [-4, -2])
    np.testing.assert_allclose(found["fas"], [4 / 6, 4 / 6])
    one = held.summary(curves[0], (1, 3), offset=0.0, max_return=1.0)
    np.testing.assert_allclose(one["fas"], -4 / 3)


def test_a_figure_has_a_line_per_agent(tmp_path):
    held.figure({"a": np.ones((2, 3)), "b": np.zeros(3)}, (1, 2, 4), tmp_path / "held.png")
    assert (tmp_path / "held.png").stat().st_size > 1000
