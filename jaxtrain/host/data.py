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

Batch = Any


class Generated(NamedTuple):
    """Data sampled on the device.

    Attributes:
      sample: `(key, index) -> batch`. `key` belongs to the step; `index` holds the global numbers
        of the examples wanted, int32 `[local batch]`. Example i takes its randomness from
        `fold_in(key, index[i])`, so that it does not depend on the number of devices.
      batch_size: examples per step over all devices.
    """

    sample: Callable[[jax.Array, jax.Array], Batch]
    batch_size: int


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
    if batch_size < 1 or batch_size % jax.process_count():
        raise ValueError(
            f"batch_size is {batch_size} for {jax.process_count()} processes; "
            "give a positive multiple of the number of processes."
        )
    return _Arrays(tree, shapes[0][0], batch_size, seed, shuffle)


class _Arrays(NamedTuple):
    tree: Any
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
        return jax.tree.map(lambda leaf: leaf[rows], self.tree)


@functools.lru_cache(maxsize=8)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)


def prefetch(
    pipeline: Pipeline,
    start: int,
    stop: int | None = None,
    depth: int = 2,
    place: Callable[[Batch], Batch] = lambda batch: batch,
) -> Generator[tuple[int, Batch], None, None]:
    """Yields `(step, place(pipeline.batch(step)))`, prepared ahead by one background thread.

    The thread starts with the first `next` and ends with the generator: at `stop`, on `close()`, or
    on an error, which is raised by the `next` that would have returned that batch.

    Args:
      pipeline: where batches come from.
      start: first step.
      stop: step before which to end; None goes on for ever.
      depth: how many batches may wait, 1 or more.
      place: puts a batch where it is needed, usually on the devices.
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
            step, batch, error = ready.get()
            if error is not None:
                raise error
            yield step, batch
    finally:
        closed.set()
        thread.join()
