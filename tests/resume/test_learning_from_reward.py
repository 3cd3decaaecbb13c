"""Runs that learn from reward: killed in the middle they end with the same bits, and eight seeds in
one program are eight runs."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxtrain.core import Core
from jaxtrain.host import sweep
from jaxtrain.host.checkpoint import load_arrays
from tests.contract import battery, cores_lm
from tests.resume import reward_run

pytestmark = pytest.mark.ci  # mostly compilation
ROOT = Path(__file__).parents[2]
NAMES = [row.name for row in cores_lm.ROWS if row.random]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_killed_between_two_saves_ends_with_the_same_bits(name, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reward_run.run(name, whole)
    command = [sys.executable, "-m", "tests.resume.reward_run", name, str(killed), "6"]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
    )
    assert result.returncode == -9, result.stdout + result.stderr
    log = lambda folder: (folder / "metrics.jsonl").read_bytes()
    assert log(killed) == b"".join(log(whole).splitlines(True)[:5])
    reward_run.run(name, killed)
    assert log(killed) == log(whole) and log(whole).count(b"\n") == 6
    x, y = (load_arrays(folder / "checkpoints/6") for folder in (whole, killed))
    assert x.keys() == y.keys() and all(x[name].tobytes() == y[name].tobytes() for name in x)


@pytest.mark.parametrize("name", NAMES)
def test_eight_seeds_in_one_program_are_eight_runs(name):
    row, places, key = reward_run.row_of(name), np.arange(4), jax.random.key(2)
    core, args, axes = row.build(None), row.init_args(), sweep.parse("seed=0:8", ())
    together = sweep.swept(lambda _: Core(lambda _: core.init(*args), core.update), axes)
    update = jax.jit(together.update)
    state, outs = battery.run(update, together.init(key), [places] * 3, key)
    alone = jax.jit(core.update)
    for seed in range(8):
        mine, found = core.init(*args), []
        for i in range(3):
            step_key = jax.random.fold_in(jax.random.fold_in(key, i), seed)
            mine, out = alone(mine, places, step_key)
            found.append(out)
        of_seed = jax.tree.map(lambda x, seed=seed: x[seed], state)
        battery.assert_close(of_seed, mine)
        for one, of_all in zip(found, outs, strict=True):
            np.testing.assert_allclose(one.outputs, of_all.outputs[:, seed], rtol=1e-5)
    assert len({float(x) for x in outs[0].metrics["gradient_norm"]}) > 4
