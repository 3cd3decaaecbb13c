"""Sweeps: the expression, the equality with separate runs, resume, and sharding over devices."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from jaxtrain.core import Core, Held, HoldingState, StepOutput
from jaxtrain.host import sweep
from jaxtrain.host.checkpoint import Checkpoints
from jaxtrain.host.config import UsageError
from jaxtrain.host.data import Generated
from jaxtrain.host.loop import train
from jaxtrain.parallel import Execution, make_mesh

TINY = Path(__file__).parents[1] / "tiny"
ROOT = Path(__file__).resolve().parents[3]
SWEEPABLE = ("optimizer.learning_rate", "method.count")
TEXT = "seed=3,5;optimizer.learning_rate=0.05,0.1,0.2"


@pytest.fixture(scope="module")
def tiny():
    modules = []
    for name in ("experiment", "config"):
        spec = importlib.util.spec_from_file_location(f"tiny_{name}", TINY / f"{name}.py")
        modules.append(importlib.util.module_from_spec(spec))
        spec.loader.exec_module(modules[-1])
    experiment, config = modules
    settings = config.get_config("small,model.noise=0.1")
    return (
        experiment,
        settings,
        lambda values: experiment.build_core(sweep.overlay(settings, values)),
    )


def test_trials_share_what_is_held():
    """One copy for all trials, the same numbers as one by one, also after several updates."""
    table = jnp.arange(12.0).reshape(4, 3)
    axes = sweep.parse(TEXT, SWEEPABLE)

    def build(values):
        def update(state, batch, key):
            noise = jax.random.normal(key, (3,))
            arrays, x = state.held.arrays, state.state
            x = x + values["optimizer.learning_rate"] * (arrays[batch].mean(0) + noise)
            return state._replace(state=x), StepOutput({"loss": x.sum()}, batch)

        init = lambda key, arrays: HoldingState(jax.random.normal(key, (3,)), Held(arrays))
        return Core(init, update)

    together, key, batch = sweep.swept(build, axes), jax.random.key(0), jnp.arange(2)
    state = jax.jit(together.init)(key, table)
    for i in range(2):
        state, out = jax.jit(together.update)(state, batch, jax.random.fold_in(key, i))
    assert state.held.arrays.shape == table.shape and state.state.shape == (6, 3)
    assert out.metrics["loss"].shape == (6,) and out.outputs.shape == (2, 6)
    np.testing.assert_array_equal(state.held.arrays, table)
    for trial in range(6):
        values = {name: x[trial] for name, x in axes.values.items()}
        core, seed = build(values), values["seed"]
        one = core.init(jax.random.fold_in(key, seed), table)
        for i in range(2):
            key_trial = jax.random.fold_in(jax.random.fold_in(key, i), seed)
            one, _ = core.update(one, batch, key_trial)
        np.testing.assert_allclose(state.state[trial], one.state, rtol=1e-5)


# --- The expression -------------------------------------------------------------------------------


def test_parse_takes_the_product_with_the_last_axis_fastest():
    axes = sweep.parse(" seed=0:2 ; optimizer.learning_rate = 1e-3,3e-3,1e-2 ", SWEEPABLE)
    assert axes.names == ("seed", "optimizer.learning_rate") and axes.num_trials == 6
    np.testing.assert_array_equal(axes.values["seed"], [0, 0, 0, 1, 1, 1])
    rates = np.float32([1e-3, 3e-3, 1e-2, 1e-3, 3e-3, 1e-2])
    np.testing.assert_array_equal(axes.values["optimizer.learning_rate"], rates)
    assert axes.values["seed"].dtype == np.int32
    assert axes.values["optimizer.learning_rate"].dtype == np.float32


def test_parse_takes_lists_ranges_with_steps_and_types_of_the_config():
    config = ConfigDict({"optimizer": {"learning_rate": 0.1}, "method": {"count": 3}})
    axes = sweep.parse("seed=1:8:3", (), config)
    np.testing.assert_array_equal(axes.values["seed"], [1, 4, 7])
    axes = sweep.parse("method.count=4,2;optimizer.learning_rate=1,2", SWEEPABLE, config)
    assert axes.values["method.count"].dtype == np.int32
    assert axes.values["optimizer.learning_rate"].dtype == np.float32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model.width=1,2",
            "--sweep cannot vary 'model.width' inside one program, only seed, "
            "optimizer.learning_rate, method.count; start one run per value with "
            "--config.model.width=...",
        ),
        ("seed=0:2;seed=5", "--sweep names 'seed' twice; list all its values together"),
        ("seed", "--sweep cannot read 'seed'; write it like"),
        (";", "--sweep is empty; write it like"),
        ("seed=", "as start:stop or a,b,c, but got ''"),
        ("seed=0,0,0", "lists a value of 'seed' twice in '0,0,0'"),
        ("optimizer.learning_rate=0.1,0.1000000001", "lists a value of 'optimizer.learning_rate'"),
        ("optimizer.learning_rate=0.1,nan", "it must be a finite number"),
        ("seed=4294967296", "whole numbers may be as large as 2147483647"),
        ("seed=2147483640:2147483650", "seed=2147483649 is impossible; whole numbers may be as"),
        ("seed=0:99999999999999999999", "seed=99999999999999999998 is impossible; whole numbers"),
        ("seed=0:100000000", "asks for 100,000,000 trials in one program, and 10,000 are the most"),
        ("seed=0:5000;method.count=1,2,3", "asks for 5,000 x 3 trials"),
        ("seed=2:2", "but got '2:2'"),
        ("seed=1:2:3:4", "but got '1:2:3:4'"),
        ("seed=0:4:0", "but got '0:4:0'"),
        ("seed=-1:2", "whole numbers that are not negative for 'seed'"),
        ("seed=0.5", "whole numbers that are not negative for 'seed'"),
        ("method.count=0.5", "needs whole numbers for 'method.count'"),
        ("optimizer.learning_rate=fast", "needs numbers for 'optimizer.learning_rate'"),
    ],
)
def test_parse_refuses_in_one_sentence(text, message):
    config = ConfigDict({"optimizer": {"learning_rate": 0.1}, "method": {"count": 3}})
    with pytest.raises(UsageError) as error:
        sweep.parse(text, SWEEPABLE, config)
    assert message in str(error.value) and "\n" not in str(error.value)


# --- The core -------------------------------------------------------------------------------------


def run_steps(core, state, key, steps, batch):
    update = jax.jit(core.update)
    metrics = []
    for step in range(steps):
        state, out = update(state, batch, jax.random.fold_in(key, step))
        metrics.append(out.metrics["loss"])
    return state, jnp.stack(metrics)


def test_swept_equals_separate_runs(tiny):
    experiment, _, build = tiny
    axes = sweep.parse(TEXT, SWEEPABLE)
    batch = experiment.sample(jax.random.key(9), jnp.arange(16))
    key = jax.random.key(1)
    core = sweep.swept(build, axes)
    state, losses = run_steps(core, core.init(key), key, 20, batch)
    assert losses.shape == (20, 6) and state.params["w"].shape == (6, 3)

    trial = 0
    for seed in (3, 5):
        for rate in (0.05, 0.1, 0.2):
            alone = build({"optimizer.learning_rate": rate})
            state_alone = alone.init(jax.random.fold_in(key, seed))
            for step in range(20):
                key_step = jax.random.fold_in(jax.random.fold_in(key, step), seed)
                state_alone, out = alone.update(state_alone, batch, key_step)
                np.testing.assert_allclose(out.metrics["loss"], losses[step, trial], rtol=1e-5)
            np.testing.assert_allclose(
                state_alone.params["w"], state.params["w"][trial], rtol=1e-5, atol=1e-6
            )
            trial += 1


def test_one_trial_of_a_sweep_can_be_repeated_alone(tiny):
    experiment, _, build = tiny
    batch = experiment.sample(jax.random.key(9), jnp.arange(8))
    key = jax.random.key(1)
    losses = []
    for text in (TEXT, "seed=5;optimizer.learning_rate=0.1"):
        core = sweep.swept(build, sweep.parse(text, SWEEPABLE))
        losses.append(run_steps(core, core.init(key), key, 5, batch)[1])
    np.testing.assert_allclose(losses[0][:, 4], losses[1][:, 0], rtol=1e-5)


def noise_core(values):
    """Reports the batch it saw and the noise it drew."""

    def update(state, batch, key):
        noise = jax.random.normal(key, batch.shape)
        seen = {"batch": batch.mean(), "noise": noise.mean()}
        return state + 1, StepOutput(seen, outputs=batch * 10 + values.get("scale", 0))

    return Core(lambda key: jnp.zeros(()), update)


def test_trials_share_noise_unless_the_seed_is_swept():
    batch, key = jnp.arange(4.0), jax.random.key(0)
    for text, distinct in (("scale=1,2,3", 1), ("seed=0:3", 3)):
        core = sweep.swept(noise_core, sweep.parse(text, ("scale",)))
        state, out = core.update(core.init(key), batch, key)
        np.testing.assert_array_equal(state, [1, 1, 1])
        assert len(np.unique(np.asarray(out.metrics["noise"]))) == distinct
        assert len(np.unique(np.asarray(out.metrics["batch"]))) == 1


def test_outputs_keep_the_batch_in_front():
    core = sweep.swept(noise_core, sweep.parse("scale=1,2", ("scale",)))
    key = jax.random.key(0)
    _, out = core.update(core.init(key), jnp.arange(3.0), key)
    np.testing.assert_array_equal(out.outputs, [[1, 2], [11, 12], [21, 22]])


def test_sample_gives_each_seed_its_own_data():
    sample = lambda key, index: jax.random.normal(key, index.shape)  # noqa: E731
    key, index = jax.random.key(0), jnp.arange(4)
    batches = []
    for text in ("seed=0:3", "seed=2:3"):
        core = sweep.swept(noise_core, sweep.parse(text, ()), sample)
        batches.append(np.asarray(core.update(core.init(key), index, key)[1].metrics["batch"]))
    assert len(np.unique(batches[0])) == 3
    np.testing.assert_allclose(batches[0][2], batches[1][0], rtol=1e-6)


def run_loop(tiny, folder, num_steps, stop_at=None):
    """Trains a sweep of six trials with checkpoints; a second call in the same folder resumes."""
    experiment, config, build = tiny
    axes = sweep.parse(TEXT, SWEEPABLE)
    mesh = make_mesh({"data": 1})
    key = jax.random.key(config.seed)
    core = sweep.swept(build, axes)
    state = sweep.place(core.init(key), axes, mesh)
    with Checkpoints(folder, every=2) as checkpoints:
        state, start, meta = checkpoints.restore_or(state)
        state, _ = train(
            core,
            state,
            data=Generated(experiment.sample, 4),
            key=key,
            num_steps=stop_at or num_steps,
            log_every=2,
            execution=Execution("jit", mesh),
            checkpoints=checkpoints,
            start=start,
            meta=meta,
        )
    return start, jax.device_get(state)


def test_sweep_resumes_to_the_same_bits(tiny, tmp_path):
    _, whole = run_loop(tiny, tmp_path / "whole", 6)
    assert run_loop(tiny, tmp_path / "parts", 6, stop_at=4)[0] == 0
    start, parts = run_loop(tiny, tmp_path / "parts", 6)
    assert start == 4
    assert whole.params["w"].shape == (6, 3) and np.std(whole.params["w"], axis=0).min() > 0
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(a, b)


# --- Devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trials", "shape", "devices", "expected"),
    [
        (6, {"data": -1}, 1, {"data": -1}),
        (6, {"data": -1}, 4, {"seed": 2, "data": -1}),
        (8, {"data": -1}, 8, {"seed": 8, "data": -1}),
        (3, {"data": -1}, 4, {"data": -1}),
        (8, {"data": 4}, 8, {"data": 4}),
        (8, {"model": 2, "data": -1}, 8, {"seed": 4, "model": 2, "data": -1}),
        (8, {"seed": 2, "data": -1}, 8, {"seed": 2, "data": -1}),
    ],
)
def test_trials_get_the_devices_they_divide_over(trials, shape, devices, expected):
    axes = sweep.parse(f"seed=0:{trials}", ())
    assert sweep.mesh_shape(axes, shape, devices) == expected


def test_state_is_replicated_without_a_sweep_or_a_seed_axis():
    axes = sweep.parse("seed=0:3", ())
    assert sweep.state_spec(None, make_mesh({"seed": 1, "data": 1})) == P()
    assert sweep.state_spec(axes, make_mesh({"data": 1})) == P()
    assert sweep.state_spec(axes, make_mesh({"seed": 1, "data": 1})) == P("seed")
    two = jax.sharding.AbstractMesh((2, 1), ("seed", "data"))
    assert sweep.state_spec(sweep.parse("seed=0:4", ()), two) == P("seed")
    with pytest.raises(UsageError, match="3 trials do not divide over the 2 devices of mesh axis"):
        sweep.state_spec(axes, two)


ON_FOUR_DEVICES = """
import importlib.util, sys
from jaxtrain.host import cli

spec = importlib.util.spec_from_file_location("experiment", sys.argv[1] + "/experiment.py")
experiment = importlib.util.module_from_spec(spec)
sys.modules["experiment"] = experiment
spec.loader.exec_module(experiment)
layouts = []

def watched(config, setup):
    layouts.append(dict(setup.execution.mesh.shape))
    return experiment.build(config, setup)

watched.__module__ = "experiment"

def start(*argv):
    print("$", *argv)
    try:
        cli.main(
            watched,
            sweepable=("optimizer.learning_rate",),
            flags=(cli.define_string("fault", "none", ""),),
            argv=[f"--config={sys.argv[1]}/config.py:small,model.noise=0.1", *argv],
        )
    except SystemExit as stop:
        print("exit", stop.code)

text = "--sweep=seed=3,5;optimizer.learning_rate=0.1,0.2"
start("--workdir=sharded", text)
start("--workdir=data", text, "--config.mesh.data=4")
start("--workdir=one", text, "--config.mesh.data=1")
quiet = "--config.model.noise=0"  # under an axis name every shard draws its own noise
start("--workdir=pmap", text, "--parallel=pmap", quiet)
start("--workdir=one_quiet", text, "--config.mesh.data=1", quiet)
start("--workdir=bad", "--config.batch_size=6")
print(layouts)
"""


@pytest.mark.multidevice
def test_sharded_sweep_equals_the_unsharded_one(tmp_path):
    """Four devices: trials sharded, batch sharded (jit and pmap), or everything on one device."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", ON_FOUR_DEVICES, str(TINY)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    layouts = [{"seed": 4, "data": 1}, {"data": 4}, {"data": 1}, {"data": 4}, {"data": 1}]
    assert done.stdout.splitlines()[-1] == str(layouts)

    def losses(name):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return np.array([json.loads(line)["loss"] for line in lines])

    expected = losses("one")
    assert expected.shape == (2, 4) and len(np.unique(expected)) == 8
    for name in ("sharded", "data"):
        np.testing.assert_allclose(losses(name), expected, rtol=1e-5)
    np.testing.assert_allclose(losses("pmap"), losses("one_quiet"), rtol=1e-5)
    assert np.abs(losses("one_quiet") / expected - 1).min() > 1e-4  # the noise was there

    assert "exit 2" in done.stdout and not (tmp_path / "bad").exists()
    assert (
        "error: batch_size=6 does not divide over the 4 devices of mesh axis 'data'; use a "
        "multiple of 4, or fewer devices with --config.mesh.data=N\n"
    ) in done.stderr
