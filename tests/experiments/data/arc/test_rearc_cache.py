"""Re-ARC pairs on disk: building, extending, repairing, and what a cache serves."""

import json
import os

import numpy as np
import pytest

from experiments.data.arc import rearc, rearc_cache
from experiments.data.arc.rearc import Options
from tests.experiments.data.arc.rearc_cases import FAST, TINY, build, equal, installed


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
def test_what_a_cache_says_of_itself_is_checked(pool, tmp_path):
    build(tmp_path, pool)
    index = json.loads((tmp_path / "index.json").read_text())
    for changes in ({"samples": "7"}, {"shard_samples": 0}, {"options": {"x": 1}}, {"options": []}):
        (tmp_path / "index.json").write_text(json.dumps(index | changes))
        with pytest.raises(rearc.RearcError, match="index.json is damaged"):
            rearc_cache.Cache(tmp_path, TINY)
    (tmp_path / "index.json").write_text(json.dumps(index | {"samples": 10**15}))
    with pytest.raises(rearc.RearcError, match="lacks samples 14 to 20 or"):
        rearc_cache.Cache(tmp_path, TINY)
    (tmp_path / "index.json").write_text(json.dumps(index))
    file = sorted(tmp_path.glob("samples-*"))[0]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"\x0a")
    damaged = rearc_cache.Cache(tmp_path, TINY)
    with pytest.raises(rearc.RearcError, match="pair 6 of .* holds a colour 10"):
        damaged.pair(FAST[-1], 6)
    file.write_bytes(b"\x1f\x00" + whole[2:])
    with pytest.raises(rearc.RearcError, match="lacks samples 0 to 6 or their file is damaged"):
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
