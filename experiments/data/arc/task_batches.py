"""Training batches from Re-ARC samples: tasks grouped by size, cut into micro-batches.

A bucket that would run a micro-batch for a few tasks alone sends them to the next larger one that
has room: `taken` finds the split with the fewest cells. The update is the same however tasks are
spread, since a task's random numbers belong to its place in the batch.
"""

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
    largest grid, or to a larger one that has room left.

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
        sizes = [self._micro[length] for length in self._lengths]
        counts = taken([len(members[n]) for n in self._lengths], sizes, self._lengths)
        groups, waiting = [], []
        for length, count in zip(self._lengths, counts, strict=True):
            waiting += members[length]
            chosen, waiting = waiting[:count], waiting[count:]
            groups.append(self._group(samples, chosen, length))
        return tuple(groups)

    def passes(self, batch: Sequence[Tasks]) -> dict[str, int]:
        """Name of the loop over a bucket's micro-batches in `jaxtta.lpn.train` -> its passes."""
        used = [int((np.asarray(group.weight) > 0).any(0).sum()) for group in batch]
        return {
            f"micro_batches_of_{length}_cells": n
            for length, n in zip(self._lengths, used, strict=True)
        }

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


def taken(counts: Sequence[int], sizes: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """How many tasks every bucket computes, so that all micro-batches together have fewest cells.

    Args:
      counts: tasks whose smallest bucket this is; they may also go to any later one.
      sizes: tasks per micro-batch.
      lengths: cells per task, in rising order.

    Returns:
      Tasks per bucket. Among equally good splits the one that leaves tasks in small buckets.
    """
    carried = np.arange(sum(counts) + 1)  # tasks that earlier buckets sent on
    rest = np.where(carried == 0, 0, np.inf)  # cells of all later buckets
    choices = []
    for count, size, length in reversed(list(zip(counts, sizes, lengths, strict=True))):
        passes = np.arange(-(-int(carried[-1]) // size), -1, -1)[:, None]
        left = np.maximum(carried + count - passes * size, 0)
        cells = passes * size * length + rest[np.minimum(left, carried[-1])]
        choices.append(passes[cells.argmin(0), 0])
        rest = cells.min(0)
    found, waiting = [], 0
    for count, size, passes in zip(counts, sizes, reversed(choices), strict=True):
        found.append(min(waiting + count, int(passes[waiting]) * size))
        waiting += count - found[-1]
    return found


def micro_batch_size(
    length: int, longest: int, batch_size: int, micro_batch: int, devices: int = 1
) -> int:
    """Tasks per micro-batch of a bucket, a multiple of `devices` and at most the batch."""
    if not micro_batch:
        return batch_size
    size = min(batch_size, micro_batch * max(1, longest // length))
    return max(devices, size // devices * devices)
