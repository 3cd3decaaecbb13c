"""Batches of Re-ARC task samples by step, drawn ahead of training."""

import os
import random
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from experiments.data.arc import rearc
from experiments.data.arc.buckets import pack
from experiments.data.arc.pool import Pool
from experiments.data.arc.rearc_cache import Cache
from jaxtta.lpn.grids import Pairs

_CHUNK = 8  # task samples per call to a worker


class RearcSamples:
    """Batches of Re-ARC task samples by step, drawn ahead of use.

    The samples of a step depend only on the constructor's arguments and the step, neither on
    `num_workers` nor on `depth`, nor on which steps were asked for before. Use it as a context
    manager.
    """

    def __init__(
        self,
        options: rearc.Options,
        *,
        seed: int,
        batch_size: int,
        num_workers: int | None = None,
        depth: int = 2,
        cache: str | Path | None = None,
        fresh_share: float = 1.0,
        shard: tuple[int, int] = (0, 1),
    ):
        """Starts the workers, if any are needed.

        Args:
          options: what to draw, fresh or from the cache.
          seed: of the samples.
          batch_size: task samples per step, over all processes.
          num_workers: processes; by default all cores but one. None start if nothing is fresh.
          depth: steps drawn ahead.
          cache: folder of the cache that samples come from if they are not fresh.
          fresh_share: share of fresh samples, 0..1; below 1 needs a cache.
          shard: (index, count) of this process; it gets its equal slice of each batch.

        Raises:
          ValueError: for values that do not go together.
          RearcError: if the cache cannot be used with these options.
        """
        index, count = shard
        if batch_size < 1 or batch_size % count:
            raise ValueError(f"a batch of {batch_size} does not divide over {count} processes.")
        if not 0 <= fresh_share <= 1 or (fresh_share < 1 and cache is None):
            raise ValueError(
                f"fresh_share is {fresh_share}; it must be 0 to 1, and 1 without a cache."
            )
        self._options, self._seed, self._depth = options, seed, depth
        self._cache = None if cache is None else Cache(cache, options)
        self._fresh_share = fresh_share
        size = batch_size // count
        self._batch_size, self._slice = batch_size, range(index * size, (index + 1) * size)
        workers = num_workers or max(1, (os.cpu_count() or 1) - 1)
        self._pool = Pool(workers) if fresh_share > 0 else None
        self._pending: dict[int, list[tuple[list[int], Future[Any]]]] = {}

    def samples(self, step: int) -> list[rearc.Sample]:
        """Returns this process's slice of the batch of one step.

        Raises:
          RearcError: if samples cannot be drawn.
        """
        if self._pool is not None:
            wanted = range(step, step + self._depth + 1)
            self._pending = {s: self._pending.get(s) or self._request(s) for s in wanted}
        found: dict[int, rearc.Sample] = {}
        for indices, future in self._pending.pop(step, []):
            found.update(zip(indices, future.result(), strict=True))
        for i in self._indices(step):
            if i not in found:
                assert self._cache is not None
                found[i] = self._cache.sample_task(self._seed, i)
        return [found[i] for i in self._indices(step)]

    def batch(self, step: int) -> Pairs:
        """Returns the same as one padded batch, cells `[B, N, L]` with L the largest allowed grid.

        This makes it a `Pipeline`. To pad less, group `samples` by size.
        """
        limit = self._options
        length = min(limit.max_cells, limit.max_rows * limit.max_cols)
        return pack([one.pairs() for one in self.samples(step)], length, limit.num_pairs)

    def close(self) -> None:
        """Ends the workers."""
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _indices(self, step: int) -> list[int]:
        return [step * self._batch_size + i for i in self._slice]

    def _request(self, step: int) -> list[tuple[list[int], Future[Any]]]:
        assert self._pool is not None
        fresh = [i for i in self._indices(step) if self._is_fresh(i)]
        chunks = [fresh[i : i + _CHUNK] for i in range(0, len(fresh), _CHUNK)]
        return [
            (chunk, self._pool.submit(rearc.sample_tasks, self._options, self._seed, chunk))
            for chunk in chunks
        ]

    def _is_fresh(self, index: int) -> bool:
        return self._fresh_share >= 1 or _uniform(self._seed, index) < self._fresh_share


def _uniform(seed: int, index: int) -> float:
    return random.Random(f"{seed}/{index}/fresh").random()
