"""Groups tasks of similar size, so that small grids do not pay for padding to 30 x 30.

A task goes to the smallest bucket that holds its largest grid (in cells, since the model reads
raster streams) and its number of demonstrations. Each bucket is cut into groups of one fixed size,
so a program is compiled once per bucket; missing tasks of the last group are filled with 1 x 1
grids of weight 0. The size of a test output is never looked at: a solver does not know it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.data.arc.parsing import Pair, Task
from jaxtta.lpn.grids import Grid, Pairs

LENGTHS = (16, 36, 64, 100, 144, 225, 400, 625, 900)
PAIR_COUNTS = (4, 10)


class Group(NamedTuple):
    """Some tasks of one bucket. All leaves are NumPy arrays; G = group size.

    Attributes:
      demos: demonstrations, cells `[G, N, L]`; the mask tells real pairs from padding.
      queries: test inputs, cells `[G, T, L]`.
      query_mask: True for real test inputs, `[G, T]`, bool.
      weight: 1 for tasks, 0 for fillers, `[G]`, float32.
      positions: where each task is in the list that was grouped, -1 for fillers, `[G]`, int32.
    """

    demos: Pairs
    queries: Grid
    query_mask: np.ndarray
    weight: np.ndarray
    positions: np.ndarray

    @property
    def length(self) -> int:
        """L, the bucket."""
        return self.demos.inputs.cells.shape[-1]


def longest(task: Task) -> int:
    """Returns the cells of the largest grid of a task that a solver gets to see."""
    seen = [grid for pair in task.train for grid in pair] + [given for given, _ in task.test]
    return max(grid.size for grid in seen)


def group(
    tasks: Sequence[Task],
    *,
    lengths: Sequence[int] = LENGTHS,
    pair_counts: Sequence[int] = PAIR_COUNTS,
    group_size: int | Mapping[int, int] = 8,
) -> list[Group]:
    """Splits tasks into padded groups, short ones first.

    Args:
      tasks: the tasks.
      lengths: bucket sizes in cells.
      pair_counts: bucket sizes in demonstrations; a task that has more than any gets a bucket of
        its own size. There is one program per pair of both sizes that occurs.
      group_size: tasks per group, one number or one per length (long grids need more memory).

    Returns:
      Groups that together hold every task once.

    Raises:
      ValueError: if a task has a grid that fits into no bucket, or a length has no group size.
    """
    buckets: dict[tuple[int, int], list[int]] = {}
    for position, task in enumerate(tasks):
        where = f"task {task.id}"
        length = smallest_room(longest(task), lengths, f"{where} has a grid of", "cells")
        count = min((n for n in pair_counts if n >= len(task.train)), default=len(task.train))
        buckets.setdefault((length, count), []).append(position)
    groups = []
    for (length, count), members in sorted(buckets.items()):
        size = group_size if isinstance(group_size, int) else group_size.get(length, 0)
        if size < 1:
            raise ValueError(f"group_size is {size} for grids of {length} cells; it must be >= 1.")
        # T is fixed per bucket, not per group, so that all its groups share one program.
        num_queries = max(len(tasks[i].test) for i in members)
        shape = dict(length=length, count=count, num_queries=num_queries, size=size)
        for start in range(0, len(members), size):
            chosen = members[start : start + size]
            groups.append(_pad(tasks, chosen, **shape))
    return groups


def restore(groups: Sequence[Group], results: Sequence[Any]) -> list[Any]:
    """Puts results per group back into the order of the tasks.

    Args:
      groups: what `group` returned.
      results: one tree per group whose leaves have a leading axis of the group size.

    Returns:
      One tree of NumPy leaves per task, without that axis.
    """
    found: dict[int, Any] = {}
    for one, result in zip(groups, results, strict=True):
        leaves, treedef = jax.tree.flatten(result)
        leaves = [np.asarray(leaf) for leaf in leaves]
        for row, position in enumerate(one.positions.tolist()):
            if position >= 0:
                found[position] = jax.tree.unflatten(treedef, [leaf[row] for leaf in leaves])
    return [found[position] for position in range(len(found))]


def pack(
    tasks: Sequence[Sequence[Pair]], length: int, num_pairs: int, group_size: int | None = None
) -> Pairs:
    """Pads lists of pairs to one shape. Missing pairs and tasks are 1 x 1 grids with mask False.

    Args:
      tasks: pairs of each task; a missing output becomes a 1 x 1 grid.
      length: L, at least the cells of every grid.
      num_pairs: N, at least the pairs of every task.
      group_size: G, at least the number of tasks, which is the default.

    Returns:
      NumPy arrays, cells `[G, N, L]`.
    """
    lead = (group_size or len(tasks), num_pairs)
    mask: Any = np.zeros(lead, bool)
    # NumPy leaves where the types promise JAX arrays: this runs on the host.
    cells: Any = np.zeros((2, *lead, length), np.uint8)  # Any: NumPy where types promise JAX
    shapes: Any = np.ones((2, *lead, 2), np.int32)
    for t, pairs in enumerate(tasks):
        for n, pair in enumerate(pairs):
            mask[t, n] = True
            for channel, grid in enumerate(pair):
                if grid is not None:
                    cells[channel, t, n, : grid.size] = grid.ravel()
                    shapes[channel, t, n] = grid.shape
    return Pairs(Grid(cells[0], shapes[0]), Grid(cells[1], shapes[1]), mask)


def smallest_room(value: int, sizes: Sequence[int], what: str, unit: str) -> int:
    """Returns the smallest bucket that holds a value.

    Raises:
      ValueError: if none does.
    """
    fitting = [size for size in sizes if size >= value]
    if not fitting:
        raise ValueError(f"{what} {value} {unit}, more than the largest bucket of {max(sizes)}.")
    return min(fitting)


def tokens_saved(groups: Sequence[Group], length: int = 900) -> float:
    """Returns the share of grid tokens saved against padding the same pairs to `length` cells.

    Padding of pairs and filler tasks count on both sides, so this is the gain from sizes alone.
    """
    pairs = np.array([one.demos.mask.size for one in groups])
    lengths = np.array([one.length for one in groups])
    return float(1 - (pairs * lengths).sum() / (pairs.sum() * length))


def _pad(
    tasks: Sequence[Task],
    chosen: list[int],
    *,
    length: int,
    count: int,
    num_queries: int,
    size: int,
) -> Group:
    demos = pack([tasks[i].train for i in chosen], length, count, size)
    tests = [[(given, None) for given, _ in tasks[i].test] for i in chosen]
    queries = pack(tests, length, num_queries, size)
    positions = np.array(chosen + [-1] * (size - len(chosen)), np.int32)
    weight = (positions >= 0).astype(np.float32)
    return Group(demos, queries.inputs, np.asarray(queries.mask), weight, positions)
