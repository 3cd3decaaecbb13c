"""Scores two attempts per test input under the three rules in use, and writes submissions.

A test output counts as solved only if shape and every cell are right. The rules differ in how
outputs are combined when a task has several test inputs:

* `per_task_mean`: mean over tasks of the share of their outputs that are solved (the LPN authors);
* `per_output`: solved outputs / all outputs (ARC Prize);
* `all_outputs`: share of tasks whose outputs are all solved.

`top_1` looks at the first attempt only, `top_2` takes the better of both, so `top_2` of `accuracy`
is pass@2.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.arc.parsing import DataError, Task, parse_grid
from experiments.data.arc.tasks import Fault
from jaxtrain.host.files import write_text
from jaxtrain.host.proportions import Interval, wilson

RULES = ("per_task_mean", "per_output", "all_outputs")
METRICS = ("shape_accuracy", "accuracy", "pixel_correctness")
TOPS = ("top_1", "top_2")
# Per test input the attempts in order of preference: at least one, of which two count.
Predictions = Mapping[str, Sequence[Sequence[np.ndarray]]]


def grid_metrics(attempt: np.ndarray, target: np.ndarray) -> tuple[float, float, float]:
    """Compares two grids.

    Returns:
      (shape right, all right, share of right cells), the last 0 when the shape is wrong.
    """
    if attempt.shape != target.shape:
        return 0.0, 0.0, 0.0
    right = float(np.mean(attempt == target))
    return 1.0, float(right == 1.0), right


def score_task(task: Task, attempts: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Scores one task whose test outputs are known.

    Args:
      task: the task.
      attempts: attempts per test input.

    Returns:
      Scores, axes test input, `TOPS`, `METRICS`: `[T, 2, 3]`, float64.

    Raises:
      ValueError: if a test input has no attempt or no known output.
    """
    if len(attempts) != len(task.test) or not all(attempts):
        raise ValueError(
            f"task {task.id} has {len(task.test)} test inputs, but attempts for "
            f"{sum(map(bool, attempts))}; give at least one attempt for each."
        )
    rows = []
    for (_, target), guesses in zip(task.test, attempts, strict=True):
        if target is None:
            raise ValueError(f"task {task.id} has a test input without a known output to score.")
        each = np.array([grid_metrics(guess, target) for guess in guesses[:2]])
        rows.append([each[0], each.max(axis=0)])
    return np.array(rows)


def score(
    tasks: Sequence[Task],
    predictions: Predictions,
    skipped: Sequence[Fault] = (),
    *,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Scores a set of tasks under every rule, 0..1, with Wilson's intervals.

    A task counts as one outcome of the interval, which is exact where it is solved or not and never
    too narrow for shares; under `per_output` tasks weigh as much as they have outputs, which leaves
    (sum of weights)^2 / (sum of squared weights) outcomes.

    Args:
      tasks: tasks with known test outputs.
      predictions: attempts by task id.
      skipped: tasks that could not be loaded; they count as unsolved.
      confidence: coverage of the intervals.

    Returns:
      Scores by `"<rule>/<metric>/<top>"`, for example `per_output/accuracy/top_2`.

    Raises:
      ValueError: if there is nothing to score, or a task has no prediction or no known output.
    """
    missing = [task.id for task in tasks if task.id not in predictions]
    if missing:
        raise ValueError(f"no prediction for {len(missing)} tasks, the first is {missing[0]}.")
    per_task = [score_task(task, predictions[task.id]) for task in tasks]
    per_task += [np.zeros((fault.num_tests, 2, 3)) for fault in skipped]
    if not per_task:
        raise ValueError("there are no tasks to score.")
    counts = np.array([len(one) for one in per_task], float)
    ones = np.ones(len(per_task))
    ratios = {
        "per_task_mean": (np.array([one.mean(axis=0) for one in per_task]), ones),
        "per_output": (np.array([one.sum(axis=0) for one in per_task]), counts),
        "all_outputs": (np.array([one.min(axis=0) for one in per_task]), ones),
    }
    result = {}
    for rule, (above, below) in ratios.items():
        outcomes = below.sum() ** 2 / (below**2).sum()
        found = wilson(above.sum(axis=0) / below.sum(), outcomes, confidence)
        for i, top in enumerate(TOPS):
            for j, metric in enumerate(METRICS):
                result[f"{rule}/{metric}/{top}"] = Interval(*(float(x[i, j]) for x in found))
    return result


def solved(tasks: Sequence[Task], predictions: Predictions) -> np.ndarray:
    """Whether all outputs of each task are solved by the first attempts and by the better of both,
    `[tasks, 2]`, bool."""
    rows = [score_task(task, predictions[task.id])[..., 1].min(axis=0) for task in tasks]
    return np.array(rows, bool).reshape(-1, len(TOPS))


def with_one_attempt(predictions: Predictions) -> int:
    """Number of test inputs whose attempts are all the same grid."""
    return sum(
        all(np.array_equal(attempts[0], other) for other in attempts[1:])
        for every in predictions.values()
        for attempts in every
    )


def submission(
    tasks: Sequence[Task], predictions: Predictions, skipped: Sequence[Fault] = ()
) -> dict[str, Any]:
    """Builds a Kaggle ARC Prize submission: two attempts for every test input of every task.

    A lone attempt is given twice. Tasks that could not be loaded get 1 x 1 black grids, because
    every task of the challenge must appear.
    """

    def entry(attempts: Sequence[np.ndarray]) -> dict[str, Any]:
        first, second = attempts[0], attempts[min(1, len(attempts) - 1)]
        return {
            "attempt_1": np.asarray(first).tolist(),
            "attempt_2": np.asarray(second).tolist(),
        }

    result = {task.id: [entry(one) for one in predictions[task.id]] for task in tasks}
    for fault in skipped:
        result[fault.task_id] = [entry([np.zeros((1, 1), int)])] * fault.num_tests
    return result


def check_submission(content: Any, num_tests: Mapping[str, int]) -> None:
    """Checks a submission against the challenge it answers.

    Args:
      content: the decoded JSON.
      num_tests: number of test inputs by task id.

    Raises:
      DataError: one sentence naming the first thing that would be rejected.
    """
    if not isinstance(content, dict):
        raise DataError("submission: expected an object with one entry per task id.")
    for kind, ids in (
        ("misses", num_tests.keys() - content.keys()),
        ("has unknown", content.keys() - num_tests.keys()),
    ):
        if ids:
            raise DataError(f"submission {kind} {len(ids)} tasks, the first is {min(ids)}.")
    for task_id, number in num_tests.items():
        entries = content[task_id]
        if not isinstance(entries, list) or len(entries) != number:
            found = len(entries) if isinstance(entries, list) else "no list of"
            raise DataError(f"submission: task {task_id}: {found} entries, expected {number}.")
        for i, one in enumerate(entries, 1):
            where = f"submission: task {task_id}: entry {i}"
            if not isinstance(one, dict) or set(one) != {"attempt_1", "attempt_2"}:
                raise DataError(f"{where}: expected the keys attempt_1 and attempt_2.")
            for name, grid in one.items():
                parse_grid(grid, f"{where}, {name}")


def write_submission(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes a submission so that the file is never seen half written.

    Raises:
      DataError: a grid that holds anything but whole numbers 0 to 9, or none; nothing is written.
    """
    for task_id, entries in content.items():
        for i, one in enumerate(entries, 1):
            for name, grid in one.items():
                where = f"submission: task {task_id}: entry {i}, {name}"
                parse_grid(grid, where)
                if not all(type(cell) is int for row in grid for cell in row):
                    raise DataError(f"{where}: a cell is no integer.")
    write_text(path, json.dumps(content))
