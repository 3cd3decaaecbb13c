"""Numbers of class-incremental learning, by hand."""

import numpy as np
import pytest

from experiments.incremental import scores

# Three tasks of two classes, one image of every class; the classes given after each task.
LABELS = np.arange(6)
PREDICTED = np.array([[0, 1, 0, 0, 1, 1], [0, 3, 2, 2, 3, 3], [4, 3, 2, 3, 5, 5]])


def test_numbers_are_those_counted_by_hand():
    found = scores.measured(PREDICTED, LABELS, 2)
    assert found.right.tolist() == [False, False, True, True, False, True]
    assert found.crossed.tolist() == [True, True, False, False, False, False]
    np.testing.assert_allclose(found.seen, [1, 2 / 4, 3 / 6])
    # The first task was right in 1, then in 1/2, in the end in 0; the second in 1/2, then in 1.
    assert found.forgetting == pytest.approx((1 - 0.5) / 2)
    np.testing.assert_allclose(found.confusion, [[0, 0.5, 0.5], [0, 1, 0], [0, 0, 1]])
    values = {name: number(found) for name, number in scores.NUMBERS.items()}
    expected = {"accuracy": 1 / 2, "crossed": 1 / 3, "within": 1 / 6, "forgetting": 0.25}
    assert values == pytest.approx(expected)


def test_differences_are_of_the_same_seeds_and_images(tmp_path):
    better = PREDICTED.copy()
    better[-1, :2] = [0, 1]
    rows = {
        "head_only": [scores.measured(PREDICTED, LABELS, 2)] * 2,
        "ovor": [scores.measured(better, LABELS, 2)] * 2,
    }
    found = scores.summary(rows)
    np.testing.assert_allclose(found["ovor_accuracy"], 5 / 6)
    (name,) = found["differences"]
    parts = found["differences"][name]
    assert name == "ovor over head_only"
    assert parts["right"]["value"] == pytest.approx(1 / 3)
    assert parts["crossed"]["value"] == pytest.approx(-1 / 3)
    assert "33.3" in scores.table(rows) and "-33.33" in scores.comparisons(found["differences"])
    scores.draw(rows, tmp_path / "tasks.png")
    assert (tmp_path / "tasks.png").stat().st_size > 1000
