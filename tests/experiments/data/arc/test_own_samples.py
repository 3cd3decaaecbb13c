"""Samples of own tasks: demonstrations as they are, drawn by seed and place, in given shares."""

import numpy as np
import pytest

from experiments.data.arc.own_samples import Mixture, Own, usable
from experiments.data.arc.parsing import Task
from experiments.data.arc.rearc import Sample


def task(name, num_pairs, value=1, side=2):
    grids = [np.full((side, side + i), value, np.uint8) for i in range(num_pairs)]
    return Task(name, tuple((grid, grid + 1) for grid in grids), ((grids[0] * 0 + 9, None),))


def test_a_sample_is_distinct_demonstrations_of_one_task():
    own = Own((task("a", 5), task("b", 2, value=4)), num_pairs=3)
    seen, orders = set(), set()
    for i in range(60):
        sample = own.sample(np.random.default_rng(i))
        pairs = sample.pairs()
        number, value = {"a": (3, 1), "b": (2, 4)}[sample.task_id]
        widths = tuple(given.shape[1] for given, _ in pairs)
        assert len(pairs) == number == len(set(widths))  # no pair twice: it would be its own answer
        for given, output in pairs:
            assert (given == value).all() and (output == value + 1).all()  # never the test input
        seen.add((sample.task_id, frozenset(widths)))
        orders.add((sample.task_id, widths))
    assert len(seen) == 10 + 1 and len(orders) > 20  # every choice of three of five, and the two


def test_tasks_that_cannot_be_trained_on_are_named():
    tasks = [task("ok", 2), task("lone", 1), task("large", 2, side=5)]
    kept, faults = usable(tasks, max_cells=25, source="mine")
    assert [t.id for t in kept] == ["ok"]
    assert [f.message for f in faults] == [
        "mine: task lone: it has one demonstration, and leave-one-out needs two.",
        "mine: task large: it has a grid of 30 cells, more than the largest bucket of 25.",
    ]


class Numbered:
    """Another source, whose sample i of a step is called `<step>.<i>`."""

    def samples(self, step):
        return [Sample(f"{step}.{i}", np.ones((1, 2, 2), np.uint8), np.zeros(2, np.uint8))
                for i in range(400)]  # fmt: skip


def mixture(shard=(0, 1), seed=3):
    own = {name: Own((task(name, 4),), 3) for name in ("one", "two")}
    weights = {"one": 1.0, "rearc": 2.0, "two": 5.0}
    return Mixture(
        own, weights, seed=seed, batch_size=400, other=("rearc", Numbered()), shard=shard
    )


def names(samples):
    return [sample.task_id for sample in samples]


def test_sets_come_in_their_shares_and_samples_depend_on_seed_and_place_only():
    drawn = names(mixture().samples(7))
    shares = [drawn.count("one") / 400, drawn.count("two") / 400]
    # Three standard deviations of a share of 400 draws.
    assert shares == pytest.approx([1 / 8, 5 / 8], abs=0.075)
    assert all(name == f"7.{i}" for i, name in enumerate(drawn) if name not in ("one", "two"))
    again = mixture()
    again.samples(2)
    assert names(again.samples(7)) == drawn
    assert names(mixture(seed=4).samples(7)) != drawn != names(mixture().samples(8))


def test_processes_draw_their_slices():
    own = {"one": Own((task("one", 6),), 3)}
    make = lambda shard: Mixture(own, {"one": 1.0}, seed=0, batch_size=8, shard=shard)  # noqa: E731
    cells = lambda shard: [s.shapes.tolist() for s in make(shard).samples(1)]  # noqa: E731
    assert cells((0, 2)) + cells((1, 2)) == cells((0, 1)) and len(cells((0, 2))) == 4
