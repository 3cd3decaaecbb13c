"""Training batches by size: every task once, in its place; the same update however it is cut."""

import functools

import jax
import numpy as np
import optax
import pytest

from experiments.data.arc.rearc import Sample
from experiments.data.arc.task_batches import TaskBatches, micro_batch_size, taken
from jaxtta.lpn import LPN, Block, Config, task_loss, training

PAIRS, SIZE, SIDE = 2, 8, 3
KEY = jax.random.key(0)


class Listed:
    """Tasks whose grids have at most 4 cells in the second half of the batch."""

    def __init__(self, first=0, count=SIZE):
        self.first, self.count = first, count

    def samples(self, step):
        found = []
        for i in range(self.first, self.first + self.count):
            rng = np.random.default_rng([step, i])
            side = SIDE if i < SIZE // 2 else 2
            shapes = rng.integers(1, side + 1, (PAIRS, 2, 2), dtype=np.uint8)
            if i < SIZE // 2:
                shapes[0, 0] = SIDE
            total = int(shapes.astype(int).prod(-1).sum())
            found.append(Sample(f"{i:08x}", shapes, rng.integers(0, 10, total, dtype=np.uint8)))
        return found


def batches(source=None, **changes):
    options = dict(batch_size=SIZE, num_pairs=PAIRS, lengths=(4, 9)) | changes
    return TaskBatches(source or Listed(), **options)


def contents(groups):
    """Place in the batch -> grids of the task with that place."""
    found = {}
    for group in groups:
        for place in np.argwhere(group.weight > 0).tolist():
            pairs = jax.tree.map(lambda x: x[tuple(place)], group.pairs)  # noqa: B023
            assert pairs.mask.all()
            index = int(group.index[tuple(place)])
            assert index not in found
            found[index] = [
                grid.cells[n, : grid.shape[n].prod()].reshape(grid.shape[n]).tolist()
                for n in range(PAIRS)
                for grid in (pairs.inputs, pairs.outputs)
            ]
    return found


@pytest.mark.parametrize(
    "changes", [{}, {"micro_batch": 2}, {"micro_batch": 3}, {"lengths": (9,)}, {"devices": 4}]
)
def test_every_task_is_there_once_under_its_place(changes):
    for step in (0, 5):
        expected = {
            i: [grid.tolist() for pair in sample.pairs() for grid in pair]
            for i, sample in enumerate(Listed().samples(step))
        }
        groups = batches(**changes).batch(step)
        assert contents(groups) == expected
        for group in groups:  # fillers are 1 x 1 grids that count for nothing
            filler = group.weight == 0
            assert not group.pairs.mask[filler].any() and set(group.weight.ravel()) <= {0.0, 1.0}
            assert (group.pairs.inputs.shape[filler] == 1).all()


def test_small_grids_go_to_the_small_bucket_and_shapes_never_change():
    small, large = batches(micro_batch=2).batch(0)
    assert set(small.index[small.weight > 0]) == {4, 5, 6, 7}
    assert set(large.index[large.weight > 0]) == {0, 1, 2, 3}
    assert small.pairs.inputs.cells.shape == (4, 2, PAIRS, 4)  # twice as many tasks a time
    assert large.pairs.inputs.cells.shape == (2, 4, PAIRS, 9)
    shapes = [jax.tree.map(np.shape, batches(micro_batch=2).batch(step)) for step in range(3)]
    assert shapes[0] == shapes[1] == shapes[2]


def test_tasks_fill_larger_buckets_so_that_cells_are_fewest():
    """Against every way to send tasks on, for small numbers."""

    def fewest(counts, sizes, lengths, waiting=0):
        if not counts:
            return 0 if waiting == 0 else np.inf
        here = waiting + counts[0]
        return min(
            n * sizes[0] * lengths[0]
            + fewest(counts[1:], sizes[1:], lengths[1:], max(here - n * sizes[0], 0))
            for n in range(-(-here // sizes[0]) + 1)
        )

    rng = np.random.default_rng(0)
    for _ in range(50):
        counts, sizes = rng.integers(0, 6, 4).tolist(), rng.integers(1, 5, 4).tolist()
        lengths = sorted(rng.integers(1, 20, 4).tolist())
        found = taken(counts, sizes, lengths)
        assert sum(found) == sum(counts) and (np.cumsum(found) <= np.cumsum(counts)).all()
        cells = sum(-(-n // s) * s * c for n, s, c in zip(found, sizes, lengths, strict=True))
        assert cells == fewest(counts, sizes, lengths)
    assert taken([0, 0], [2, 2], [4, 9]) == [0, 0]


def test_a_bucket_with_one_task_sends_it_where_there_is_room():
    class OneSmall(Listed):
        def samples(self, step):
            found = super().samples(step)
            return [*found[: SIZE // 2 - 1], found[-1]]  # three tasks of 9 cells, one of 4

    made = batches(OneSmall(), micro_batch=4, batch_size=4)
    small, large = made.batch(0)
    assert not small.weight.any() and large.weight.sum() == 4
    assert set(large.index[large.weight > 0]) == {0, 1, 2, 3}
    assert made.passes((small, large)) == {
        "micro_batches_of_4_cells": 0,
        "micro_batches_of_9_cells": 1,
    }


def test_processes_hold_slices_of_the_batch():
    whole = contents(batches().batch(1))
    halves = [
        contents(batches(Listed(4 * i, 4), shard=(i, 2), micro_batch=4).batch(1)) for i in (0, 1)
    ]
    assert halves[0].keys() == {0, 1, 2, 3} and halves[0] | halves[1] == whole


def test_micro_batches_fit_the_devices():
    assert micro_batch_size(900, 900, 128, 0) == 128
    assert micro_batch_size(900, 900, 128, 4) == 4
    assert micro_batch_size(100, 900, 128, 4) == 36
    assert micro_batch_size(4, 900, 128, 4) == 128
    assert micro_batch_size(100, 900, 128, 4, devices=8) == 32
    assert micro_batch_size(900, 900, 128, 4, devices=8) == 8


def test_a_grid_larger_than_every_bucket_is_named():
    with pytest.raises(ValueError, match="sample of task 00000000 has a grid of 9 cells"):
        batches(lengths=(4,)).batch(0)


@pytest.mark.ci
def test_buckets_and_micro_batches_change_neither_loss_nor_gradient():
    block = Block(1, 2, 4, 1.0)
    lpn = LPN(Config(SIDE, SIDE, 3, block, block))
    core = training(lpn.init, functools.partial(task_loss, lpn, beta=0.1), optax.sgd(1.0))
    state, update = jax.jit(core.init)(KEY), jax.jit(core.update)

    def run(step, **changes):
        new, output = update(state, batches(**changes).batch(step), KEY)
        return jax.tree.map(lambda a, b: b - a, new.params, state.params), output.metrics

    whole = run(0, lengths=(9,))
    for changes in ({"micro_batch": 2}, {"lengths": (9,), "micro_batch": 3}):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            run(0, **changes),
            whole,
        )
    assert abs(run(1, lengths=(9,))[1]["loss"] - whole[1]["loss"]) > 1e-3
