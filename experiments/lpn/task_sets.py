"""Sets of ARC tasks as configs name them: packages, folders, Kaggle files, Re-ARC samples."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.data.arc import rearc, tasks
from experiments.data.arc.parsing import DataError, Task
from experiments.data.arc.rearc_samples import RearcSamples
from experiments.data.arc.tasks import Fault
from experiments.lpn.arc_solving import fitting
from jaxtrain.host.config import UsageError

HELD_OUT, HELD_OUT_SEED = "rearc", -1  # name of a set of Re-ARC samples; no run has this seed
TaskSet = tuple[list[Task], list[Fault]]  # tasks to solve, and those that cannot be used


def rearc_options(config: ConfigDict) -> rearc.Options:
    """Which Re-ARC samples to draw.

    Raises:
      UsageError: options that do not go together.
    """
    data = config.data
    try:
        return rearc.Options(
            num_pairs=data.num_pairs,
            tasks=tuple(data.tasks),
            overfit_task=data.overfit_task or None,
            only_n_tasks=data.only_n_tasks or None,
            max_rows=config.model.max_rows,
            max_cols=config.model.max_cols,
            max_cells=max(data.lengths),
            verify=data.verify,
            difficulty=tuple(data.difficulty),
        )
    except rearc.RearcError as error:
        raise UsageError(f"data: {error}") from error


def held_out(config: ConfigDict) -> Callable[[], list[Task]]:
    """Draws `evaluation.rearc_tasks` samples of the training generators that training never sees;
    the last pair of each is the test."""
    options, number = rearc_options(config), config.evaluation.rearc_tasks
    workers = config.data.workers or None

    def draw() -> list[Task]:
        try:
            with RearcSamples(
                options, seed=HELD_OUT_SEED, batch_size=number, num_workers=workers, depth=0
            ) as source:
                samples = source.samples(0)
        except (rearc.RearcError, ValueError) as error:
            raise UsageError(f"evaluation.sets: rearc: {error}") from error
        return [
            Task(f"{one.task_id}.{i}", one.pairs()[:-1], one.pairs()[-1:])
            for i, one in enumerate(samples)
        ]

    return draw


def limits(config: ConfigDict) -> dict[str, int]:
    """The largest grid that the model can read."""
    return {"max_rows": config.model.max_rows, "max_cols": config.model.max_cols}


def sizes(config: ConfigDict) -> dict[str, tuple[int, ...]]:
    """Sizes that tasks are padded to in an evaluation."""
    options = config.evaluation
    return {"lengths": tuple(options.lengths), "pair_counts": tuple(options.pair_counts)}


def room(config: ConfigDict) -> dict[str, Any]:
    """What a task may be at most, for `fitting`."""
    most = config.in_context.max_demonstrations if config.train.mode == "in_context" else None
    return {"lengths": sizes(config)["lengths"], "most_demonstrations": most}


def task_sets(config: ConfigDict) -> dict[str, Callable[[], TaskSet]]:
    """The sets of `evaluation.sets`, each read when it is called.

    Raises:
      UsageError: `evaluation.solutions` without a challenge file.
    """
    names = tuple(config.evaluation.sets)
    if config.evaluation.solutions and not any(Path(name).is_file() for name in names):
        raise UsageError(
            "evaluation.solutions belongs to a Kaggle challenge file, which evaluation.sets does "
            "not name"
        )
    return {
        name: rearc_set(config) if name == HELD_OUT else stored_set(config, name) for name in names
    }


def rearc_set(config: ConfigDict) -> Callable[[], TaskSet]:
    """The set of held-out Re-ARC samples."""
    draw, at_most = held_out(config), room(config)
    return lambda: fitting(draw(), **at_most, source=HELD_OUT)


def stored_set(config: ConfigDict, name: str) -> Callable[[], TaskSet]:
    """A set `<version, folder or file>[:split]`, or the tasks of it that `evaluation.tasks` names;
    of a folder or file that has none of those, which are then of another set, all.

    Calling the result raises UsageError when the set as a whole cannot be read.
    """
    source, _, split = (name, "", "") if Path(name).exists() else name.rpartition(":")
    source, split = (source, split) if source else (split, "")
    options, at_most, largest = config.evaluation, room(config), limits(config)
    wanted, number = set(options.tasks), options.limit
    solutions = options.solutions if Path(source).is_file() else None

    def read() -> TaskSet:
        try:
            loaded = tasks.load_tasks(source, split, solutions or None, **largest)
        except DataError as error:
            raise UsageError(f"evaluation.sets: {error}") from error
        every = {_id(one): one for one in tasks.in_order(loaded)}
        if wanted and source not in tasks.VERSIONS and not wanted & every.keys():
            if jax.process_index() == 0:
                print(f"evaluation.tasks names no task of {name}, so all of them are taken")
        elif wanted:
            if missing := wanted - every.keys():
                raise UsageError(
                    f"evaluation.tasks: {name} has no task {', '.join(sorted(missing))}"
                )
            every = {task_id: one for task_id, one in every.items() if task_id in wanted}
        chosen = list(every.values())[: number or None]
        found, unfit = fitting([t for t in chosen if isinstance(t, Task)], **at_most, source=name)
        return found, [*(f for f in chosen if isinstance(f, Fault)), *unfit]

    return read


def _id(one: Task | Fault) -> str:
    return one.id if isinstance(one, Task) else one.task_id


def own_task(config: ConfigDict, file: str) -> Task:
    """One task of the user.

    Raises:
      UsageError: it cannot be read, or is larger than the model or the evaluation allows.
    """
    try:
        task = tasks.load_file(file, **limits(config))
    except DataError as error:
        raise UsageError(f"--predict: {error}") from error
    _, faults = fitting([task], **room(config), source=file)
    if faults:
        raise UsageError(f"--predict: {faults[0].message}")
    return task


# --- What training has seen -----------------------------------------------------------------------


def already_seen(scored: Iterable[Task], trained: Iterable[Task]) -> dict[str, str]:
    """Ids of scored tasks -> the trained one that has all of their pairs, whatever its name and
    whichever of its pairs are the tests. Pairs without a known output are compared by input."""
    pairs = {task.id: _pairs(task) for task in trained}
    inputs = {name: {given for given, _ in of} for name, of in pairs.items()}
    found = {}
    for task in scored:
        own = _pairs(task)
        complete = {pair for pair in own if pair[1] is not None}
        open_ = {given for given, output in own if output is None}
        same = (n for n, of in pairs.items() if complete <= of and open_ <= inputs[n])
        if (name := next(same, None)) is not None:
            found[task.id] = name
    return found


def _pairs(task: Task) -> set[tuple[Any, Any]]:
    def key(grid: np.ndarray | None) -> Any:
        return None if grid is None else (grid.shape, grid.tobytes())

    return {(key(given), key(output)) for given, output in (*task.train, *task.test)}
