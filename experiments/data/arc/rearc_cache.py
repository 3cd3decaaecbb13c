"""Re-ARC pairs on disk, built once and memory-mapped during training.

A cache holds the same number of pairs for each of some generators. A task sample picks a generator
and then different pairs of it, so n pairs give n over 4 task samples of four. Layout:

    index.json                  options, seed, tasks, pairs per task, tasks left out
    samples-<first>-<end>.bin   pairs number first..end-1 of every task, task by task: all shapes
                                (4 bytes a pair), then all cells (1 byte each)

A shard appears by a rename when it is complete, and pair j of a task is a pure function of
(options, seed, task, j). So an interrupted build goes on where it was, a larger one extends a
smaller one, and both end with the same bytes as an uninterrupted one.
"""

import dataclasses
import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data.arc import rearc
from experiments.data.arc.parsing import MAX_SIDE, NUM_COLORS
from experiments.data.arc.pool import Pool
from jaxtrain.replacing import replacing

_MIN_YIELD = 0.05  # generators of which fewer draws pass the filters are left out
_CALL_PAIRS = 16  # pairs drawn per call to a worker


class Cache:
    """A cache opened for reading, restricted to what some options ask for.

    Attributes:
      task_ids: ids of the generators that have enough pairs within the restriction.
      num_pairs: pairs available of each of them, same order.
    """

    def __init__(self, folder: str | Path, options: rearc.Options):
        """Opens a cache.

        Args:
          folder: where it is.
          options: what to draw from it: fewer tasks or smaller grids than it was built for are
            fine, more are not.

        Raises:
          RearcError: if the folder holds no cache, an unfinished or damaged one, or one that was
            built for other or narrower options.
        """
        folder = Path(folder)
        index = _read_index(folder)
        again = "python -m experiments.build_rearc_cache"
        if index is None:
            raise rearc.RearcError(f"{folder} holds no Re-ARC cache; build one with: {again}")
        if not index["samples"]:
            raise rearc.RearcError(f"the Re-ARC cache {folder} is unfinished; run again: {again}")
        _check_covers(folder, _options(index), options)
        self._folder, self._options = folder, options
        self._known = index["tasks"]
        self._shards: list[_Shard] = []
        for first, end in _ranges(index["samples"], index["shard_samples"]):
            shard = _open(folder, first, end, len(self._known))
            if shard is None:
                raise rearc.RearcError(
                    f"the Re-ARC cache {folder} lacks samples {first} to {end - 1} or their file "
                    f"is damaged; run again: {again}"
                )
            self._shards.append(shard)
        self._fitting: dict[str, np.ndarray] = {}
        for task_id in rearc.chosen(options, index["known"]):
            if task_id in self._known:
                numbers = self._numbers(self._known.index(task_id))
                if len(numbers) >= options.num_pairs:
                    self._fitting[task_id] = numbers
            elif task_id not in index["left_out"]:
                raise rearc.RearcError(f"the Re-ARC cache {folder} was built without {task_id}.")
        if not self._fitting:
            raise rearc.RearcError(
                f"no task of the Re-ARC cache {folder} has {options.num_pairs} pairs within "
                f"{options.max_rows} x {options.max_cols} and {options.max_cells} cells."
            )
        self.task_ids = tuple(self._fitting)
        self.num_pairs = tuple(map(len, self._fitting.values()))

    def sample_task(self, seed: int, index: int) -> rearc.Sample:
        """Draws task sample number `index`: a uniform task, then different pairs of it."""
        rng = random.Random(f"{seed}/{index}/cache")
        task_id = rng.choice(self.task_ids)
        numbers = self._fitting[task_id]
        rows = rng.sample(range(len(numbers)), self._options.num_pairs)
        return rearc.join([self.pair(task_id, int(numbers[row])) for row in rows])

    def pair(self, task_id: str, number: int) -> rearc.Sample:
        """Returns one pair, read from disk."""
        shard = self._shards[number // self._shards[0].num_samples]
        row = self._known.index(task_id) * shard.num_samples + number - shard.first
        cells = shard.data[shard.offsets[row] : shard.offsets[row + 1]]
        if cells.max() >= NUM_COLORS:
            raise rearc.RearcError(
                f"the Re-ARC cache {self._folder} is damaged: pair {number} of {task_id} holds a "
                f"colour {cells.max()}; delete that folder and build it anew."
            )
        return rearc.Sample(task_id, shard.shapes[row : row + 1], np.array(cells))

    def _numbers(self, task: int) -> np.ndarray:
        """Which pairs of a task pass the size filters."""
        found = []
        for shard in self._shards:
            rows = slice(task * shard.num_samples, (task + 1) * shard.num_samples)
            fit = rearc.fits(self._options, shard.shapes[rows]).all(axis=-1)
            found.append(shard.first + np.flatnonzero(fit))
        return np.concatenate(found)


class _Shard(NamedTuple):
    """Pairs first..first+num_samples-1 of every task, task by task."""

    first: int
    num_samples: int
    shapes: np.ndarray  # [pairs, 2, 2], uint8, in memory
    data: np.ndarray  # the whole file, mapped
    offsets: np.ndarray  # where in it the cells of each pair begin, [pairs + 1]


def build(
    folder: str | Path,
    options: rearc.Options,
    *,
    seed: int,
    samples: int,
    pool: Pool,
    shard_pairs: int = 16384,
) -> Iterator[tuple[int, int]]:
    """Builds, continues or extends a cache; iterate over it to the end.

    Args:
      folder: where; created with the first file.
      options: what to draw. `num_pairs` plays no role.
      seed: of the pairs.
      samples: pairs per task.
      pool: workers.
      shard_pairs: pairs per file, the most that an interruption can cost.

    Yields:
      (pairs done, pairs in total), first of all what was there already.

    Raises:
      RearcError: if the folder holds a cache with other options, or no generator fits them.
    """
    folder = Path(folder)
    index = _start_index(folder, options, seed, pool, shard_pairs)
    tasks: list[str] = index["tasks"]
    samples = max(samples, index["samples"])  # what is there is kept
    ranges = list(_ranges(samples, index["shard_samples"]))
    missing = [one for one in ranges if _open(folder, *one, len(tasks)) is None]

    def submit(first: int, end: int) -> list[Future[rearc.Sample]]:
        parts = [range(i, min(i + _CALL_PAIRS, end)) for i in range(first, end, _CALL_PAIRS)]
        return [
            pool.submit(sample_pairs, options, seed, task_id, numbers)
            for task_id in tasks
            for numbers in parts
        ]

    done = sum(end - first for first, end in ranges if (first, end) not in missing) * len(tasks)
    yield done, samples * len(tasks)
    calls: dict[tuple[int, int], list[Future[rearc.Sample]]] = {}
    for position, shard in enumerate(missing):
        for one in missing[position : position + 2]:  # no worker waits for the end of a shard
            calls[one] = calls.get(one) or submit(*one)
        parts = []
        for call in calls.pop(shard):
            parts.append(call.result())
            done += len(parts[-1].shapes)
            yield done, samples * len(tasks)
        content = [part.shapes.tobytes() for part in parts]
        content += [part.cells.tobytes() for part in parts]
        _write(_shard_file(folder, *shard), b"".join(content))
    _write_index(folder, index | {"samples": samples})
    keep = {_shard_file(folder, *one) for one in ranges}
    for file in {*folder.glob("samples-*"), *folder.glob(".samples-*.part*")} - keep:
        file.unlink()  # a short last shard that a longer one has replaced


def sample_pairs(
    options: rearc.Options, seed: int, task_id: str, numbers: Sequence[int]
) -> rearc.Sample:
    """Draws several pairs of one generator."""
    return rearc.join([rearc.sample_pair(options, seed, task_id, number) for number in numbers])


def left_out(folder: str | Path) -> list[str]:
    """Returns the tasks that a cache lacks because their generators make no pair that fits."""
    return (_read_index(Path(folder)) or {}).get("left_out", [])


def _start_index(
    folder: Path, options: rearc.Options, seed: int, pool: Pool, shard_pairs: int
) -> dict[str, Any]:
    """Returns the index of an earlier build with the same settings, or begins a new one."""
    described = json.loads(json.dumps(dataclasses.asdict(options) | {"num_pairs": 1}))
    settings = {"seed": seed, "options": described}  # what the bytes of a pair depend on
    index = _read_index(folder)
    if index is None:
        known = pool.submit(rearc.known_tasks).result()
        ids = rearc.chosen(options, known)
        fitting = list(ids)
        if options.verify or not rearc.fits(options, np.array([30, 30])):
            shares = [pool.submit(rearc.yield_of, options, seed, task_id) for task_id in ids]
            passing = (call.result() >= _MIN_YIELD for call in shares)
            fitting = [task_id for task_id, passes in zip(ids, passing, strict=True) if passes]
        if not fitting:
            raise rearc.RearcError(
                f"of none of the {len(ids)} generators 1 pair in {1 / _MIN_YIELD:.0f} fits; allow "
                "larger grids."
            )
        index = settings | {
            "known": known,
            "tasks": fitting,
            "left_out": [task_id for task_id in ids if task_id not in fitting],
            "shard_samples": max(1, shard_pairs // len(fitting)),
            "samples": 0,  # pairs per task that are complete
        }
        _write_index(folder, index)
        return index
    have, want = (one["options"] | {"seed": one["seed"]} for one in (index, settings))
    differing = [
        f"{name}={have[name]} instead of {want[name]}" for name in want if have[name] != want[name]
    ]
    if differing:
        raise rearc.RearcError(
            f"{folder} holds a Re-ARC cache with {', '.join(differing)}; choose another folder."
        )
    return index


def _check_covers(folder: Path, built: rearc.Options, wanted: rearc.Options) -> None:
    limits = ("max_rows", "max_cols", "max_cells")
    for name in limits + ("verify", "difficulty"):
        have, want = getattr(built, name), getattr(wanted, name)
        if have < want if name in limits else have != want:
            raise rearc.RearcError(
                f"the Re-ARC cache {folder} was built with {name}={have}, but {name}={want} is "
                "wanted; build another one or change the option."
            )


def _options(index: dict[str, Any]) -> rearc.Options:
    stored: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in index["options"].items()
    }
    return rearc.Options(**stored)


def _read_index(folder: Path) -> dict[str, Any] | None:
    file = folder / "index.json"
    try:
        index = json.loads(file.read_text())
        _options(index)
        if not (
            index["samples"] >= 0
            and index["shard_samples"] > 0
            and {"seed", "known", "tasks", "left_out"} <= index.keys()
        ):
            raise ValueError("it is no index")
        return index
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise rearc.RearcError(f"{file} is damaged ({error}); build the cache anew.") from error


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    _write(folder / "index.json", json.dumps(index, indent=1).encode())


def _ranges(samples: int, shard_samples: int) -> Iterator[tuple[int, int]]:
    for first in range(0, samples, shard_samples):
        yield first, min(first + shard_samples, samples)


def _shard_file(folder: Path, first: int, end: int) -> Path:
    return folder / f"samples-{first:07d}-{end:07d}.bin"


def _open(folder: Path, first: int, end: int, num_tasks: int) -> _Shard | None:
    """Maps a shard, or returns None if it is missing or damaged."""
    num_pairs = (end - first) * num_tasks
    try:
        data = np.memmap(_shard_file(folder, first, end), np.uint8, "r")
    except (FileNotFoundError, ValueError):  # ValueError: an empty file cannot be mapped
        return None
    if len(data) < 4 * num_pairs:
        return None
    shapes = np.array(data[: 4 * num_pairs]).reshape(num_pairs, 2, 2)
    if not ((shapes >= 1) & (shapes <= MAX_SIDE)).all():
        return None
    sizes = shapes.astype(np.int64).prod(axis=-1).sum(axis=-1)
    offsets = 4 * num_pairs + np.concatenate([[0], np.cumsum(sizes)])
    if offsets[-1] != len(data):
        return None
    return _Shard(first, end - first, shapes, data, offsets)


def _write(file: Path, content: bytes) -> None:
    with replacing(file) as part:
        part.write_bytes(content)
