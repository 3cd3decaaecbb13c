"""Scoring rules on cases small enough to count by hand, and the submission format."""

import json

import numpy as np
import pytest

from experiments.data.arc import scoring
from experiments.data.arc.parsing import DataError, Task
from experiments.data.arc.tasks import Fault

A = np.array([[1, 2], [3, 4]], np.uint8)
NEAR = np.array([[1, 2], [3, 5]], np.uint8)  # three of four cells of A
WIDE = np.array([[1, 2, 0], [3, 4, 0]], np.uint8)  # wrong shape


def task(name, *targets):
    return Task(name, ((A, A),), tuple((A, target) for target in targets))


def values(tasks, predictions, skipped=()):
    found = scoring.score(tasks, predictions, skipped)
    return {name: one.value for name, one in found.items()}


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [(A, (1, 1, 1)), (NEAR, (1, 0, 0.75)), (WIDE, (0, 0, 0)), (A[:1], (0, 0, 0))],
)
def test_grid_metrics(attempt, expected):
    assert scoring.grid_metrics(attempt, A) == expected


def test_second_attempt_counts_for_top_2_only():
    found = values([task("x", A)], {"x": [[WIDE, A]]})
    for rule in scoring.RULES:
        for metric in scoring.METRICS:
            assert found[f"{rule}/{metric}/top_1"] == 0
            assert found[f"{rule}/{metric}/top_2"] == 1


def test_third_attempt_never_counts():
    assert values([task("x", A)], {"x": [[WIDE, NEAR, A]]})["per_output/accuracy/top_2"] == 0


def test_one_attempt_is_enough():
    found = values([task("x", A)], {"x": [[NEAR]]})
    assert found["per_output/pixel_correctness/top_1"] == 0.75
    assert found["per_output/pixel_correctness/top_2"] == 0.75


def test_two_test_inputs_half_right_under_each_rule():
    tasks = [task("two", A, NEAR), task("one", A)]
    predictions = {"two": [[A, A], [WIDE, WIDE]], "one": [[A, A]]}
    found = values(tasks, predictions)
    assert found["per_task_mean/accuracy/top_1"] == pytest.approx((0.5 + 1) / 2)
    assert found["per_output/accuracy/top_1"] == pytest.approx(2 / 3)
    assert found["all_outputs/accuracy/top_1"] == pytest.approx(1 / 2)


def test_top_2_is_capped_per_test_input():
    # each attempt is right on another test input: no single attempt solves the task, top 2 does
    found = values([task("x", A, NEAR)], {"x": [[A, WIDE], [WIDE, NEAR]]})
    assert found["all_outputs/accuracy/top_1"] == 0
    assert found["per_output/accuracy/top_1"] == 0.5
    assert all(found[f"{rule}/accuracy/top_2"] == 1 for rule in scoring.RULES)


def test_skipped_tasks_count_as_unsolved():
    skipped = [Fault("bad", "file", "message", num_tests=3)]
    found = values([task("x", A)], {"x": [[A]]}, skipped)
    assert found["per_task_mean/accuracy/top_2"] == 1 / 2
    assert found["per_output/accuracy/top_2"] == 1 / 4
    assert found["all_outputs/accuracy/top_2"] == 1 / 2


def test_the_interval_is_wilsons_with_a_task_as_one_outcome():
    tasks = [task(str(i), A) for i in range(40)]
    predictions = {str(i): [[A if i < 10 else WIDE]] for i in range(40)}
    found = scoring.score(tasks, predictions)["per_output/accuracy/top_1"]
    # The ends solve (p - 1/4)^2 = z^2 p (1 - p) / 40.
    z2 = 1.959963984540054**2
    ends = np.roots([1 + z2 / 40, -(0.5 + z2 / 40), 1 / 16])
    np.testing.assert_allclose(found, (0.25, *sorted(ends)))
    tight = scoring.score(tasks, predictions, confidence=0.5)["per_output/accuracy/top_1"]
    assert found.low < tight.low < tight.value < tight.high < found.high


def test_outputs_of_one_task_are_not_independent_outcomes():
    several = scoring.score([task("x", A, A, A)], {"x": [[A], [A], [A]]})
    one = scoring.score([task("x", A)], {"x": [[A]]})
    assert several["per_output/accuracy/top_1"] == one["per_output/accuracy/top_1"]


def test_a_task_is_solved_by_all_its_outputs():
    tasks = [task("two", A, NEAR), task("one", A)]
    predictions = {"two": [[A, WIDE], [WIDE, NEAR]], "one": [[A]]}
    np.testing.assert_array_equal(scoring.solved(tasks, predictions), [[False, True], [True, True]])


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="there are no tasks to score"):
        scoring.score([], {})
    with pytest.raises(ValueError, match="no prediction for 1 tasks, the first is x"):
        scoring.score([task("x", A)], {})
    with pytest.raises(ValueError, match="task x has 2 test inputs, but attempts for 1"):
        scoring.score([task("x", A, A)], {"x": [[A]]})
    with pytest.raises(ValueError, match="task x has 2 test inputs, but attempts for 1"):
        scoring.score([task("x", A, A)], {"x": [[A], []]})
    with pytest.raises(ValueError, match="without a known output"):
        scoring.score([task("x", None)], {"x": [[A]]})


def test_inputs_without_a_second_attempt_are_counted():
    every = {"a": [[A, NEAR], [A, A.copy()]], "b": [[WIDE, A], [A, WIDE]], "c": [[NEAR, NEAR]]}
    assert scoring.with_one_attempt(every) == 2
    assert scoring.with_one_attempt({"a": [[A], [A, A, NEAR]]}) == 1


def test_submission_covers_every_task(tmp_path):
    tasks = [task("a", None, None), task("b", A)]
    skipped = [Fault("bad", "file", "message", num_tests=2)]
    predictions = {"a": [[A, NEAR], [WIDE, A]], "b": [[NEAR]]}
    content = scoring.submission(tasks, predictions, skipped)
    file = tmp_path / "submission.json"
    scoring.write_submission(file, content)
    assert [path.name for path in tmp_path.iterdir()] == ["submission.json"]
    read = json.loads(file.read_text())
    assert read["a"] == [
        {"attempt_1": [[1, 2], [3, 4]], "attempt_2": [[1, 2], [3, 5]]},
        {"attempt_1": [[1, 2, 0], [3, 4, 0]], "attempt_2": [[1, 2], [3, 4]]},
    ]
    assert read["b"] == [{"attempt_1": NEAR.tolist(), "attempt_2": NEAR.tolist()}]
    assert len(read["bad"]) == 2
    scoring.check_submission(read, {"a": 2, "b": 1, "bad": 2})


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        (float("nan"), "task b: entry 2, attempt_2: row 1 holds NaN, not a colour"),
        (3.0, "task b: entry 2, attempt_2: a cell is no integer"),
        (True, "row 1 holds true"),
        (10, "row 1 holds 10"),
    ],
)
def test_a_grid_of_anything_but_colours_is_not_written(tmp_path, cell, sentence):
    entry = lambda grid: {"attempt_1": [[1]], "attempt_2": grid}
    content = {"a": [entry([[2]])], "b": [entry([[0, 9]]), entry([[1, cell]])]}
    with pytest.raises(DataError, match=sentence):
        scoring.write_submission(tmp_path / "submission.json", content)
    assert not list(tmp_path.iterdir())


GOOD = {"attempt_1": [[1]], "attempt_2": [[2, 3]]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object"),
        ({}, "misses 1 tasks, the first is a"),
        ({"a": [GOOD], "b": [GOOD]}, "has unknown 1 tasks, the first is b"),
        ({"a": [GOOD, GOOD]}, "task a: 2 entries, expected 1"),
        ({"a": GOOD}, "task a: no list of entries, expected 1"),
        ({"a": [{"attempt_1": [[1]]}]}, "task a: entry 1: expected the keys"),
        ({"a": [GOOD | {"attempt_2": [[10]]}]}, "entry 1, attempt_2: row 1 holds 10"),
        ({"a": [GOOD | {"attempt_2": [[1, 2], [3]]}]}, "attempt_2: row 2 has 1 cells"),
        ({"a": [GOOD | {"attempt_1": []}]}, "attempt_1: the grid is empty"),
    ],
)
def test_schema_check_names_the_fault(content, message):
    with pytest.raises(DataError, match=message):
        scoring.check_submission(content, {"a": 1})
