"""Data as a pure function of position: a batch depends on the step and on nothing else.

Two kinds. `Generated` data is made on the device, inside the compiled step, example by example from
keys. A `Pipeline` returns NumPy batches on the host. Neither has a state: to resume at step n is to
ask for batch n.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxtrain.host.extras import import_extra

Batch = Any


class Generated(NamedTuple):
    """Data sampled on the device.

    Attributes:
      sample: `(key, index, *arrays) -> batch`. `key` belongs to the step; `index` holds the global
        numbers of the examples wanted, int32 `[local batch]`. Example i takes its randomness from
        `fold_in(key, index[i])`, so that it does not depend on the number of devices.
      batch_size: examples per step over all devices.
      arrays: what `sample` takes besides, a data set for example: the same at every step and on
        every device, an argument of the compiled step where a closure would be constants of it.
    """

    sample: Callable[..., Batch]
    batch_size: int
    arrays: tuple[Any, ...] = ()


class Pipeline(Protocol):
    """Data read on the host."""

    def batch(self, step: int) -> Batch:
        """This process's slice of the batch of update `step` (0 is the first); NumPy leaves."""
        ...


def arrays(tree: Any, batch_size: int, seed: int, shuffle: bool = True) -> Pipeline:
    """A `Pipeline` over arrays in memory.

    Epoch e visits every example once, in an order drawn from `(seed, e)`; examples left over when
    the batch size does not divide their number open the next epoch.

    Args:
      tree: arrays with the same leading axis `[examples, ...]`.
      batch_size: examples per step over all processes.
      seed: fixes the order.
      shuffle: False keeps the given order in every epoch.

    Raises:
      ValueError: no arrays, unequal lengths, or a batch that the processes cannot share equally.
    """
    tree = jax.tree.map(np.asarray, tree)
    shapes = [leaf.shape for leaf in jax.tree.leaves(tree)]
    sizes = {shape[:1] for shape in shapes}
    if len(sizes) != 1 or not min(sizes) or min(sizes) == (0,):
        raise ValueError(
            f"the arrays have shapes {shapes}; give at least one array and the same number of "
            "examples along the first axis of each."
        )
    take = lambda rows: jax.tree.map(lambda leaf: leaf[rows], tree)
    return _Indexed(take, shapes[0][0], _checked(batch_size), seed, shuffle)


def records(
    source: Any,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
    convert: Callable[[Any], Any] = lambda record: record,
) -> Pipeline:
    """A `Pipeline` over anything with `len` and records by number, in the order of `arrays`.

    For example a grain `MapDataset` or data source, the split of a prepared TensorFlow dataset (see
    `tfds_source`), or a list.

    Args:
      source: `len(source)` records, `source[i]` the same one whenever it is asked for.
      batch_size: examples per step over all processes.
      seed: fixes the order.
      shuffle: False keeps the given order in every epoch.
      convert: record -> tree of arrays or numbers, all of the same shape, which are stacked.

    Raises:
      ValueError: no records, or a batch that the processes cannot share equally.
    """
    if not len(source):
        raise ValueError("the data source is empty; give one with at least one record.")

    def take(rows: np.ndarray) -> Batch:
        numbers = rows.tolist()
        many = getattr(source, "__getitems__", None)
        found = many(numbers) if many else [source[i] for i in numbers]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *map(convert, found))

    return _Indexed(take, len(source), _checked(batch_size), seed, shuffle)


def tfds_source(name: str, split: str, data_dir: str | None = None, **options: Any) -> Any:
    """A split of a TensorFlow dataset for `records`; needs no TensorFlow and downloads nothing.

    Args:
      name: of a dataset that was prepared with `file_format="array_record"`, such as `"mnist"`.
      split: such as `"train"` or `"train[:80%]"`.
      data_dir: where it was prepared; default that of tensorflow_datasets.
      **options: of `tfds.data_source`, such as `decoders`.

    Raises:
      ValueError: there is no such prepared dataset, or tensorflow_datasets is not installed.
    """
    tfds = import_extra("tensorflow_datasets", "experiments")
    try:
        return tfds.data_source(name, split=split, data_dir=data_dir, download=False, **options)
    except Exception as error:  # of many kinds, AssertionError among them
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"split {split!r} of the dataset {name!r} cannot be read ({type(error).__name__}: "
            f"{reason}); prepare it once with tfds.builder({name!r}, file_format='array_record')"
            ".download_and_prepare()."
        ) from error


def _checked(batch_size: int) -> int:
    if batch_size < 1 or batch_size % jax.process_count():
        raise ValueError(
            f"batch_size is {batch_size} for {jax.process_count()} processes; "
            "give a positive multiple of the number of processes."
        )
    return batch_size


class _Indexed(NamedTuple):
    take: Callable[[np.ndarray], Batch]
    size: int
    batch_size: int
    seed: int
    shuffle: bool

    def batch(self, step: int) -> Batch:
        """Places `step * batch_size` onwards in the endless sequence of epochs."""
        share = self.batch_size // jax.process_count()
        start = step * self.batch_size + share * jax.process_index()
        epochs, places = np.divmod(np.arange(start, start + share), self.size)
        rows = places
        if self.shuffle:
            orders = {e: _order(self.seed, e, self.size) for e in set(epochs.tolist())}
            rows = np.array([orders[e][i] for e, i in zip(epochs.tolist(), places, strict=True)])
        return self.take(rows)


@functools.lru_cache(maxsize=8)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)


def prefetch(
    pipeline: Pipeline,
    start: int,
    stop: int | None = None,
    depth: int = 2,
    place: Callable[[Batch], Batch] = lambda batch: batch,
    give_up: Callable[[], bool] = lambda: False,
) -> Generator[tuple[int, Batch], None, None]:
    """Yields `(step, place(pipeline.batch(step)))`, prepared ahead by one background thread.

    The thread starts with the first `next` and ends with the generator: at `stop`, on `close()`, or
    on an error, which is raised by the `next` that would have returned that batch. One that is
    still making a batch then is waited for, but no longer than 2 s.

    Args:
      pipeline: where batches come from.
      start: first step.
      stop: step before which to end; None goes on for ever.
      depth: how many batches may wait, 1 or more.
      place: puts a batch where it is needed, usually on the devices.
      give_up: asked several times a second while a batch is waited for; True ends the generator.
    """
    ready: queue.Queue[tuple[int, Batch, BaseException | None]] = queue.Queue(max(depth, 1))
    closed = threading.Event()

    def put(step: int, batch: Batch, error: BaseException | None) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put((step, batch, error), timeout=0.05)

    def produce() -> None:
        step = start
        try:
            while step != stop and not closed.is_set():
                put(step, place(pipeline.batch(step)), None)
                step += 1
        except BaseException as error:
            put(step, None, error)

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in itertools.count() if stop is None else range(start, stop):
            while True:
                with contextlib.suppress(queue.Empty):
                    step, batch, error = ready.get(timeout=0.1)
                    break
                if give_up():
                    return
            if error is not None:
                raise error
            yield step, batch
    finally:
        closed.set()
        thread.join(timeout=2)  # a batch that never comes must not keep the run from ending
