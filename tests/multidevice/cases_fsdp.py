"""A state that devices share gives the numbers of one device, and takes its part of the memory."""

import importlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from experiments.plan import PLANS
from jaxtrain import meshes, parallel
from jaxtrain.core import Model, supervised
from jaxtrain.host.checkpoint import Checkpoints
from tests.contract import battery, cores_lpn

MESH = {"data": 2, "fsdp": 4}


@pytest.fixture
def small(monkeypatch):
    """Leaves of 64 numbers are large."""
    monkeypatch.setattr(meshes, "SMALLEST_SHARDED", 64)


def two_layers():
    def init(key, x):
        first, second = jax.random.split(key)
        shape = (x.shape[-1], 16)
        kernels = jax.random.normal(first, shape), jax.random.normal(second, shape[::-1])
        return {"in": kernels[0], "bias": jnp.zeros(16), "out": kernels[1]}, ()

    def apply(params, model_state, x, *, key, train):
        return jnp.tanh(x @ params["in"] + params["bias"][None]) @ params["out"], model_state

    loss = lambda out, batch: (((out - batch["inputs"]) ** 2).mean(), {})
    return supervised(Model(init, apply), loss, optax.adam(1e-2))


def batches(number):
    rng = np.random.default_rng(0)
    return [{"inputs": rng.normal(size=(16, 8)).astype(np.float32)} for _ in range(number)]


def shared(core, init_args, given):
    """Compiled step on `MESH`, and the state of a core shared by its devices."""
    mesh = parallel.make_mesh(MESH)
    state = core.init(*init_args)
    spec = parallel.state_layout(state, mesh)
    step = parallel.compile_update(core.update, mode="jit", mesh=mesh, state_spec=spec)
    return mesh, spec, step, parallel.place(state, mesh, spec)


def test_a_shared_state_gives_the_numbers_of_one_device(small):
    core, data = two_layers(), batches(3)
    args = (jax.random.key(0), data[0])
    mesh, spec, step, state = shared(core, args, data)
    assert spec.params == {"in": P(None, "fsdp"), "bias": P(), "out": P("fsdp")}
    key = jax.random.key(1)
    alone = battery.run(jax.jit(core.update), core.init(*args), data, key)
    state, outs = battery.run(step, state, data, key)
    battery.assert_close((state, outs), alone)
    # Parameters and both moments stay cut.
    for tree in (state.params, state.opt_state[0].mu, state.opt_state[0].nu):
        assert {name: x.sharding.spec for name, x in tree.items()} == spec.params
        assert tree["out"].addressable_shards[0].data.shape == (4, 8)
    on_first = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))
    assert on_first == parallel.bytes_per_device(state, mesh, spec)


def test_activations_are_cut_along_the_batch_and_gradients_as_parameters(small):
    """Parameters are gathered once, and nothing is moved between the layers."""
    core, data = two_layers(), batches(1)
    mesh = parallel.make_mesh(MESH)
    state = jax.eval_shape(core.init, jax.random.key(0), data[0])
    step = parallel.jit_update(core.update, mesh, parallel.state_layout(state, mesh))
    text = step.lower(state, data[0], (jax.random.key(0),)).compile().as_text()
    assert text.count(" all-gather(") == 2 and "all-to-all" not in text
    assert "f32[2,16]" in text and "f32[2,4]" not in text  # 2 rows of the batch, whole


def test_a_checkpoint_of_a_shared_state_is_read_on_any_mesh(small, tmp_path):
    core, data = two_layers(), batches(1)
    mesh, spec, step, state = shared(core, (jax.random.key(0), data[0]), data)
    with Checkpoints(tmp_path, every=1) as checkpoints:
        checkpoints.maybe_save(1, state, {}, {})
    whole = parallel.place(state, parallel.make_mesh({"data": 2}))
    with Checkpoints(tmp_path, every=1) as checkpoints:
        restored = checkpoints.restore_or(whole)
    assert restored.tree.params["in"].sharding.is_fully_replicated
    battery.assert_same_bits(restored.tree, state)


@pytest.mark.ci
def test_a_latent_program_network_is_trained_by_devices_that_share_it(small):
    row = cores_lpn.ROWS[0]
    core, data = row.build(None), [row.batch(i) for i in range(3)]
    _, spec, step, state = shared(core, row.init_args(), data)
    assert sum(s != P() for s in jax.tree.leaves(spec)) > 20
    key = jax.random.key(0)
    alone = battery.run(jax.jit(core.update), core.init(*row.init_args()), data, key)
    battery.assert_close(battery.run(step, state, data, key), alone)


def metrics(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    keys = {"loss", "grad_norm", "fitness_mean", "familiarity"}
    return [{k: v for k, v in line.items() if k in keys} for line in lines]


@pytest.mark.ci
@pytest.mark.parametrize("name", PLANS)
def test_every_command_that_trains_can_share_its_state(name, small, tmp_path):
    command = importlib.import_module(PLANS[name])
    for folder, devices in (("alone", 1), ("shared", 2)):
        flags = (f"--config.mesh.fsdp={devices}", f"--workdir={tmp_path / folder}")
        config = f"--config=configs/{name}.py:debug"
        command.main(argv=[config, "--config.mesh.data=1", "--mode=train", *flags])
    alone, shared = metrics(tmp_path / "alone"), metrics(tmp_path / "shared")
    assert any(alone)
    for a, b in zip(alone, shared, strict=True):
        assert a == pytest.approx(b, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "flags", "sentence"),
    [
        ("ppo", ("--parallel=pmap",), "mesh.fsdp=2 shares one state .* --parallel=pmap cannot"),
        ("ppo", ("--sweep=seed=0:2",), "mesh.fsdp=2 shares one state .* --sweep cannot"),
        ("lr_schedules", (), "keeps its whole state on every device; leave mesh.fsdp=1"),
        ("tta_images", (), "keeps its whole state on every device; leave mesh.fsdp=1"),
    ],
)
def test_what_cannot_share_a_state_says_so(name, flags, sentence, tmp_path, capsys):
    command = importlib.import_module(f"experiments.{name}")
    argv = [f"--config=configs/{name}.py:debug", "--config.mesh.data=1", "--config.mesh.fsdp=2"]
    with pytest.raises(SystemExit) as stop:
        command.main(argv=[*argv, f"--workdir={tmp_path / 'w'}", *flags])
    assert stop.value.code == 2 and not (tmp_path / "w").exists()
    error = capsys.readouterr().err
    assert re.search(sentence, error), error
