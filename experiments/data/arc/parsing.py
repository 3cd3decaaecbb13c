"""One ARC task from JSON as people have it: what has one meaning is accepted, the rest is named.

Accepted are a byte order mark, 3.0 for 3, keys besides those of ARC, and a key that comes twice
with the same content.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MAX_SIDE = 30
NUM_COLORS = 10
Pair = tuple[np.ndarray, np.ndarray | None]


class DataError(ValueError):
    """A source or a task that cannot be read, in one sentence.

    Attributes:
      num_tests, has_answers: of the task, as in `tasks.Fault`.
    """

    num_tests = 1
    has_answers = True


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


class Doubled(dict[str, Any]):
    """A JSON object that gives some keys twice with different content; `doubled` are those."""

    doubled: frozenset[str] = frozenset()


def read_json(file: str | Path) -> Any:
    """The content of a JSON file in UTF-8.

    Raises:
      DataError: it cannot be read, or is no JSON.
    """
    try:
        text = Path(file).read_bytes().decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON ({error}).") from error


def parse_task(
    raw: Any, task_id: str, source: str, *, max_rows: int = MAX_SIDE, max_cols: int = MAX_SIDE
) -> Task:
    """Checks one task and converts it to arrays.

    Keys besides those of ARC are allowed, but not a grid under another name in a test pair without
    output, which would pass for one whose answer is unknown.

    Raises:
      DataError: one sentence naming source, task and the first fault.
    """
    where = f"{source}: task {task_id}"
    try:
        if not isinstance(raw, Mapping):
            raise DataError(f"{where}: expected an object with train and test, got {_kind(raw)}.")
        check_once(raw, ("train", "test"), where)
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
        error.num_tests, error.has_answers = num_tests(raw), has_answers(raw)
        raise
    return Task(task_id, train, test)


def parse_grid(
    raw: Any, where: str, max_rows: int = MAX_SIDE, max_cols: int = MAX_SIDE
) -> np.ndarray:
    """Checks one grid, given as a list of rows or as an array.

    Args:
      raw: the grid.
      where: what it is, for the message.
      max_rows: largest number of rows allowed.
      max_cols: largest number of columns allowed.

    Returns:
      Colours, `[rows, cols]`, uint8.

    Raises:
      DataError: if it is empty, ragged, too large, or holds anything but whole numbers 0..9.
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
            if type(value) not in (int, float) or value not in range(NUM_COLORS):
                shown = json.dumps(value, default=str)[:40]
                raise DataError(f"{where}: row {number} holds {shown}, not a colour 0 to 9.")
    if len(raw) > max_rows or len(raw[0]) > max_cols:
        raise DataError(
            f"{where}: {len(raw)} x {len(raw[0])} is larger than the model's "
            f"{max_rows} x {max_cols}."
        )
    return np.array(raw, np.uint8)


def check_once(raw: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    """Raises DataError if an object gives one of these keys twice with different content."""
    doubled = raw.doubled if isinstance(raw, Doubled) else ()
    if wrong := [key for key in keys if key in doubled]:
        raise DataError(f"{where}: {wrong[0]!r} is given twice, with different content.")


def has_tests(task: Any) -> bool:
    """Whether this is an object with a list of test pairs."""
    return isinstance(task, dict) and isinstance(task.get("test"), list) and bool(task["test"])


def num_tests(task: Any) -> int:
    """How many test inputs a task shows, at least 1."""
    return len(task["test"]) if has_tests(task) else 1


def has_answers(task: Any) -> bool:
    """False for a task that shows test inputs without outputs; True also where it shows neither."""
    return not has_tests(task) or not any(
        isinstance(pair, dict) and set(pair) <= {"input", "output"} and pair.get("output") is None
        for pair in task["test"]
    )


def _parse_pair(raw: Any, where: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(raw, Mapping):
        raise DataError(f"{where}: expected an object with input and output, got {_kind(raw)}.")
    if not {"input", "output"} <= set(raw):
        keys = ", ".join(map(str, raw)) or "none"
        raise DataError(f"{where}: expected the keys input and output, found {keys}.")
    check_once(raw, ("input", "output"), where)
    given = parse_grid(raw["input"], f"{where}, input", *size)
    return given, parse_grid(raw["output"], f"{where}, output", *size)


def _parse_test(raw: Any, where: str, size: tuple[int, int]) -> Pair:
    """Like `_parse_pair`, but the output may be missing or null."""
    if isinstance(raw, Mapping) and "input" in raw and raw.get("output") is None:
        others = [x for key, x in raw.items() if key != "input"]
        if not any(isinstance(x, list) for x in others):
            check_once(raw, ("input", "output"), where)
            return parse_grid(raw["input"], f"{where}, input", *size), None
        raw = {key: x for key, x in raw.items() if x is not None}
    return _parse_pair(raw, where, size)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    doubled = frozenset(key for key, value in pairs if value != found[key])
    if doubled:
        found = Doubled(found)
        found.doubled = doubled
    return found


def _integer(text: str) -> int | str:
    """Whole numbers; text where Python would take minutes or refuse, and no grid holds it."""
    return int(text) if len(text) < 20 else text


def _kind(value: Any) -> str:
    names = {dict: "an object", Doubled: "an object", list: "a list", str: "a string"}
    names[type(None)] = "null"
    return names.get(type(value), f"a value of type {type(value).__name__}")
