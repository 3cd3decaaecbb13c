"""What the tests of Re-ARC share: three fast generators, and when the real ones are there."""

import importlib.util

import numpy as np
import pytest

from experiments.data.arc import rearc_cache
from experiments.data.arc.rearc import Options

FAST = ("007bbfb7", "25ff71a9", "d037b0a7")
TINY = Options(tasks=FAST)
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="the extra rearc is not installed"
)


def installed(test):
    return pytest.mark.optional_dep(needs_package(test))


def equal(a, b):
    return a.task_id == b.task_id and all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a[1:], b[1:], strict=True)
    )


def build(folder, pool, samples=20, options=TINY, stop_after=None, **kwargs):
    kwargs = {"seed": 0, "shard_pairs": 21} | kwargs  # 7 samples of 3 tasks a file
    last = None
    for last in rearc_cache.build(folder, options, samples=samples, pool=pool, **kwargs):
        if stop_after is not None and last[0] > stop_after:
            return
    assert last == (samples * 3, samples * 3)
