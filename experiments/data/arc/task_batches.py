"""Training batches from Re-ARC samples: tasks grouped by size, cut into micro-batches."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from experiments.data.arc import buckets
from experiments.data.arc.rearc import Sample
from jaxtta.lpn.grids import Grid, Pairs
from jaxtta.lpn.train import Tasks


class Samples(Protocol):
    """A source of task samples by step, such as `rearc_samples.RearcSamples`."""

    def samples(self, step: int) -> Sequence[Sample]:
        """This process's slice of the batch of one step."""
        ...


class TaskBatches:
    """Pipeline of `Tasks`, one group per bucket length.

    Every batch has the same shapes: each bucket has room for the whole batch, and what is not used
    has weight 0 and is skipped on the device. A task goes to the smallest bucket that holds its
    largest grid.

    Args:
      source: where samples come from.
      batch_size: tasks per step over all processes.
      num_pairs: pairs per task.
      lengths: bucket sizes in cells, the last one at least the largest grid.
      micro_batch: tasks per micro-batch in the bucket of the longest grids; shorter buckets take
        more, so
        that all micro-batches have about as many cells. 0 for the whole batch at once.
      shard: (index, count) of this process.
      devices: micro-batches are made a multiple of this.
    """

    def __init__(
        self,
        source: Samples,
        *,
        batch_size: int,
        num_pairs: int,
        lengths: Sequence[int],
        micro_batch: int = 0,
        shard: tuple[int, int] = (0, 1),
        devices: int = 1,
    ):
        self._source, self._num_pairs, self._lengths = source, num_pairs, tuple(sorted(lengths))
        index, count = shard
        self._size = batch_size // count
        self._first = index * self._size
        self._micro = {
            length: micro_batch_size(length, self._lengths[-1], batch_size, micro_batch, devices)
            // count
            for length in self._lengths
        }

    def batch(self, step: int) -> tuple[Tasks, ...]:
        samples = self._source.samples(step)
        members: dict[int, list[int]] = {length: [] for length in self._lengths}
        for i, sample in enumerate(samples):
            longest = int(sample.shapes.astype(int).prod(-1).max())
            what = f"a sample of task {sample.task_id} has a grid of"
            members[buckets.smallest_room(longest, self._lengths, what, "cells")].append(i)
        return tuple(self._group(samples, chosen, n) for n, chosen in members.items())

    def _group(self, samples: Sequence[Sample], chosen: list[int], length: int) -> Tasks:
        m = self._micro[length]
        n = -(-self._size // m)
        packed = buckets.pack([samples[i].pairs() for i in chosen], length, self._num_pairs, m * n)
        index = np.zeros(m * n, np.int32)
        weight = np.zeros(m * n, np.float32)
        index[: len(chosen)] = [self._first + i for i in chosen]
        weight[: len(chosen)] = 1

        def cut(x: np.ndarray) -> np.ndarray:  # micro-batch after micro-batch
            return np.ascontiguousarray(np.swapaxes(x.reshape(n, m, *x.shape[1:]), 0, 1))

        def cut_grid(grid: Grid) -> Grid:
            return Grid(cut(np.asarray(grid.cells)), cut(np.asarray(grid.shape)))

        pairs = Pairs(
            cut_grid(packed.inputs), cut_grid(packed.outputs), cut(np.asarray(packed.mask))
        )
        return Tasks(pairs, cut(index), cut(weight))


def micro_batch_size(
    length: int, longest: int, batch_size: int, micro_batch: int, devices: int = 1
) -> int:
    """Tasks per micro-batch of a bucket, a multiple of `devices` and at most the batch."""
    if not micro_batch:
        return batch_size
    size = min(batch_size, micro_batch * max(1, longest // length))
    return max(devices, size // devices * devices)
