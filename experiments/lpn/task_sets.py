"""Sets of ARC tasks as configs name them: packages, folders, Kaggle files, Re-ARC samples."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from experiments.data.arc import rearc
from experiments.data.arc.rearc_samples import RearcSamples
from experiments.data.arc.tasks import DataError, Fault, Task, load_file, load_tasks
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


def task_sets(config: ConfigDict) -> dict[str, Callable[[], TaskSet]]:
    """The sets of `evaluation.sets`, each read when it is called."""
    names = tuple(config.evaluation.sets)
    return {
        name: rearc_set(config) if name == HELD_OUT else stored_set(config, name) for name in names
    }


def rearc_set(config: ConfigDict) -> Callable[[], TaskSet]:
    """The set of held-out Re-ARC samples."""
    draw, room = held_out(config), sizes(config)
    return lambda: fitting(draw(), **room, source=HELD_OUT)


def stored_set(config: ConfigDict, name: str) -> Callable[[], TaskSet]:
    """A set `<version, folder or file>[:split]`, or the tasks of it that `evaluation.tasks` names.

    Calling the result raises UsageError when the set as a whole cannot be read.
    """
    source, _, split = name.partition(":")
    options, room, largest = config.evaluation, sizes(config), limits(config)
    wanted, number, solutions = set(options.tasks), options.limit, options.solutions

    def read() -> TaskSet:
        try:
            tasks, faults = load_tasks(source, split or "training", solutions or None, **largest)
        except DataError as error:
            raise UsageError(f"evaluation.sets: {error}") from error
        if wanted:
            tasks = [task for task in tasks if task.id in wanted]
            faults = [fault for fault in faults if fault.task_id in wanted]
            if missing := wanted - {t.id for t in tasks} - {f.task_id for f in faults}:
                raise UsageError(
                    f"evaluation.tasks: {name} has no task {', '.join(sorted(missing))}"
                )
        tasks, unfit = fitting(tasks[: number or None], **room, source=name)
        return tasks, [*faults, *unfit]

    return read


def own_task(config: ConfigDict, file: str) -> Task:
    """One task of the user.

    Raises:
      UsageError: it cannot be read, or is larger than the model or the evaluation allows.
    """
    room: dict[str, Any] = sizes(config)
    try:
        task = load_file(file, **limits(config))
    except DataError as error:
        raise UsageError(f"--predict: {error}") from error
    _, faults = fitting([task], **room, source=file)
    if faults:
        raise UsageError(f"--predict: {faults[0].message}")
    return task
