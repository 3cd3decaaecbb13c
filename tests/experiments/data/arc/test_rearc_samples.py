"""Batches of Re-ARC samples by step: fresh, from the cache, by process."""

import numpy as np
import pytest

from experiments.data.arc import rearc, rearc_cache
from experiments.data.arc.rearc import Options
from experiments.data.arc.rearc_samples import RearcSamples
from tests.experiments.data.arc.rearc_cases import FAST, TINY, build, equal, installed


@installed
def test_stream_resumes_by_step_and_splits_by_process():
    options = Options(tasks=FAST, num_pairs=2)
    direct = [rearc.sample_task(options, 7, i) for i in range(24)]
    with RearcSamples(options, seed=7, batch_size=6, num_workers=2) as stream:
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
    with RearcSamples(options, seed=7, batch_size=6, num_workers=1, shard=(1, 2), depth=0) as half:
        assert all(map(equal, half.samples(3), direct[21:24]))


def test_stream_refuses_what_does_not_go_together(tmp_path):
    with pytest.raises(ValueError, match="a batch of 5 does not divide over 2 processes"):
        RearcSamples(Options(), seed=0, batch_size=5, shard=(0, 2))
    with pytest.raises(ValueError, match="fresh_share is 0.5"):
        RearcSamples(Options(), seed=0, batch_size=4, fresh_share=0.5)
    with pytest.raises(rearc.RearcError, match="holds no Re-ARC cache; build one with"):
        RearcSamples(Options(), seed=0, batch_size=4, fresh_share=0.5, cache=tmp_path)


@installed
def test_stream_mixes_fresh_samples_and_the_cache(pool, tmp_path):
    build(tmp_path, pool)
    cache = rearc_cache.Cache(tmp_path, TINY)
    with RearcSamples(TINY, seed=2, batch_size=40, cache=tmp_path, fresh_share=0) as stream:
        stored = stream.samples(1)
    assert all(equal(stored[i], cache.sample_task(2, 40 + i)) for i in range(40))
    with RearcSamples(
        TINY, seed=2, batch_size=40, cache=tmp_path, fresh_share=0.25, num_workers=2
    ) as stream:
        mixed = stream.samples(1)
    fresh = [equal(mixed[i], rearc.sample_task(TINY, 2, 40 + i)) for i in range(40)]
    kept = [equal(mixed[i], stored[i]) for i in range(40)]
    assert [a != b for a, b in zip(fresh, kept, strict=True)] == [True] * 40
    assert 1 <= sum(fresh) <= 22  # 10 expected, standard deviation 2.7
