"""The micro-batch that -1 stands for, against bytes counted by hand."""

import jax
import pytest

from experiments.lpn.micro_batches import cached, num_micro_batches, score_bytes, settled
from experiments.plan import abstract_mesh
from jaxtrain.host.config import UsageError, load
from jaxtrain.parallel import make_mesh

MiB = 2**20


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        # 4 pairs, 6 heads, 205 tokens of 2 grids of 100 cells.
        ("lpn_patterns.py:pattern_4", 4 * 6 * 205 * 205 * 4),
        # 12 pairs of a latent and a demonstration, 101 output tokens that read 204.
        ("lpn_patterns.py:ga_1", 12 * 6 * 101 * 204 * 4),
        ("lpn_patterns.py:rs_5", 12 * 6 * 6 * 101 * 204 * 4),
        ("lpn_arc.py:small", 12 * 6 * 26 * 54 * 4),
        ("lpn_arc.py:paper", 4 * 8 * 1805 * 1805 * 4),
        # No encoder blocks.
        ("lpn_arc.py:small_overfit", 4 * 6 * 82 * 166 * 4),
    ],
)
def test_bytes_of_the_scores_of_a_task(spec, expected):
    assert score_bytes(load(f"configs/{spec}")[0]) == expected


def test_the_largest_divisor_whose_scores_are_cached():
    assert cached(32, 4 * MiB // 8, 1) == 8
    assert cached(32, 4 * MiB // 8 + 1, 1) == 4  # seven fit, and 4 divides 32
    assert cached(36, 4 * MiB // 8, 1) == 6
    assert cached(32, 40 * MiB, 1) == 1 and cached(32, 40 * MiB, 4) == 4
    assert cached(32, 1, 1) == 32
    assert cached(32, 2 * MiB, 4) == 8  # two on each of four devices


def test_only_what_is_left_to_the_devices_is_settled():
    config, _ = load("configs/lpn_arc.py:small,micro_batch=-1")
    cpu = make_mesh({"data": 1}, jax.devices("cpu")[:1])
    assert settled(config, cpu).micro_batch == 8
    assert settled(config, abstract_mesh({"data": 4}, 4)).micro_batch == 0
    assert config.micro_batch == -1
    given, _ = load("configs/lpn_arc.py:small,micro_batch=4")
    assert settled(given, cpu) is given


def test_a_batch_that_does_not_divide_or_is_not_settled_is_refused():
    config, _ = load("configs/lpn_arc.py:small")
    assert num_micro_batches(config, 4) == 4
    for size, devices in ((3, 1), (8, 3), (-1, 1)):
        config.micro_batch = size
        with pytest.raises(UsageError, match=f"micro_batch={size} does not fit batch_size=32 on "):
            num_micro_batches(config, devices)
