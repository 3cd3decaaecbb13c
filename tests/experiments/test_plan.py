"""The planner: parameters, FLOPs, memory and collectives of a compiled step."""

import importlib
import importlib.util
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import plan
from jaxtrain.core import Core, Model, supervised, with_ema
from jaxtrain.host import cli, profile
from jaxtrain.host.config import load
from jaxtrain.host.data import Generated
from jaxtrain.host.experiment import Training, planned
from jaxtrain.parallel import make_mesh

CONFIG = """
from ml_collections import ConfigDict

def get_config(arg="full"):
    experiment = "toy" if arg == "full" else arg
    return ConfigDict({"experiment": experiment, "batch_size": 32, "mesh": {"data": -1}})
"""


def toy(config, setup=None):
    """A linear model from 8 to 16 numbers, with an average of its parameters."""
    model = Model(
        lambda key, x: ({"w": jnp.zeros((x.shape[-1], 16)), "b": jnp.zeros(16)}, ()),
        lambda params, state, x, *, key, train: (x @ params["w"] + params["b"][None], state),
    )
    loss = lambda out, batch: (jnp.mean(out**2), {})  # noqa: E731
    core = with_ema(supervised(model, loss, optax.adam(1e-3)), 0.9)
    made = Core(lambda key: core.init(key, {"inputs": jnp.zeros((1, 8))}), core.update)
    data = Generated(lambda key, index: {"inputs": jnp.zeros((len(index), 8))}, config.batch_size)
    return Training(core=lambda config, axis_name: made, data=data)


def toy_plan(config, mesh):
    return planned(toy(config), config, mesh)


def call(capsys, monkeypatch, tmp_path, *argv, variant=""):
    (tmp_path / "c.py").write_text(CONFIG)
    monkeypatch.setitem(plan.PLANS, "toy", "toy_module")
    module = types.ModuleType("toy_module")
    module.build = toy
    monkeypatch.setitem(plan.importlib.sys.modules, "toy_module", module)
    code = 0
    flags = (cli.define_string("topology", "", ""),)
    try:
        argv = [f"--config={tmp_path / 'c.py'}{variant}", *argv]
        cli.tool(plan.run, needs_config=True, flags=flags, argv=argv)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_plan_on_this_machine(capsys, monkeypatch, tmp_path):
    code, out, err = call(capsys, monkeypatch, tmp_path)
    assert code == 0, err
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["toy:full"] == "toy:full on 1 x cpu (data=1)"
    assert lines["parameters"].endswith(" 144")  # 8 * 16 + 16, the average not counted
    # The product itself and the gradient with respect to w; none is needed for the inputs.
    assert f"{2 * 2 * 32 * 8 * 16:.3e} per step" in lines["FLOPs"]
    assert "fits: needs " in lines["verdict"]
    assert lines["collectives"].endswith("none, each loop body counted once")


def test_memory_is_what_the_arrays_need():
    config = types.SimpleNamespace(batch_size=32)
    jitted, args = toy_plan(config, make_mesh({"data": 1}))
    found = plan.report(jitted, args, make_mesh({"data": 1}))
    # Parameters, two Adam moments and the average, a step counter, the batch, a key of two words.
    expected = 4 * (4 * 144 + 1 + 32 * 8 + 2)
    assert found["memory"]["arguments"] == pytest.approx(expected, rel=0.02)
    assert found["memory"]["results"] < 200  # the state is donated; metrics are left
    assert found["memory"]["total"] == sum(
        size for name, size in found["memory"].items() if name != "total"
    )


def test_verdict():
    fits = {"refused": "", "memory": {"total": 3 * 2**30}, "limit": 16 * 2**30}
    assert plan.verdict(fits) == "fits: needs 3 GiB of 16 GiB per device"
    large = fits | {"memory": {"total": 17 * 2**30}}
    assert plan.verdict(large) == "does not fit: needs 17 GiB of 16 GiB per device"
    assert "is not known" in plan.verdict(fits | {"limit": 0})
    assert plan.verdict({"refused": "out of memory"}) == "does not fit: out of memory"


def test_program_too_large_for_the_compiler_is_reported():
    class Refusing:
        jaxpr = jax.make_jaxpr(lambda x: x)(1.0)
        trace = lower = lambda self, *args: self

        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 20G of 16G hbm used\nmore")

    found = plan.report(Refusing(), (np.zeros(3),), make_mesh({"data": 1}))
    assert plan.verdict(found) == "does not fit: RESOURCE_EXHAUSTED: 20G of 16G hbm used"


def test_collectives_are_read_from_program_text():
    text = """
      %all-reduce.4 = f32[64,64]{1,0} all-reduce(%dot.10), channel_id=1
      %fusion = f32[6,64,64]{2,1,0} fusion(%x, %all-reduce.4, %copy.16), kind=kLoop
      %ar = (bf16[8]{0:T(8)}, f32[]) all-reduce-start(%a, %b), to_apply=%add
      %done = (bf16[8], f32[]) all-reduce-done(%ar)
      %g = s32[4,2] all-gather(%c), dimensions={0}
    """
    assert plan.collectives(text) == {
        "all-reduce": (2, 64 * 64 * 4 + 8 * 2 + 4),
        "all-gather": (1, 32),
    }


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is not None, reason="the TPU compiler is installed here"
)
def test_topology_without_the_tpu_compiler(capsys, monkeypatch, tmp_path):
    code, out, err = call(capsys, monkeypatch, tmp_path, "--topology=v5e:4x4")
    assert code == 2 and not out
    assert err == (
        "error: --topology needs the TPU compiler; install it with pip install 'jax[tpu]' "
        "(Linux only)\n"
    )


@pytest.mark.optional_dep
@pytest.mark.ci
def test_topology_with_the_tpu_compiler(capsys, monkeypatch, tmp_path):
    pytest.importorskip("libtpu")
    code, out, err = call(capsys, monkeypatch, tmp_path, "--topology=v5e:4x4")
    assert code == 0, err
    assert "toy:full on 16 x TPU v5 lite (data=16)" in out
    assert "all-reduce" in out and "of 16 GiB per device" in out
    code, _, err = call(capsys, monkeypatch, tmp_path, "--topology=v5e:8x8")
    assert code == 2 and "batch_size=32 does not divide over the 64 devices" in err
    code, _, err = call(capsys, monkeypatch, tmp_path, "--topology=v5e:many")
    assert code == 2 and "--topology='v5e:many' is not a TPU slice" in err


def test_experiment_without_a_plan(capsys, monkeypatch, tmp_path):
    code, _, err = call(capsys, monkeypatch, tmp_path, variant=":other")
    assert code == 2
    assert err == (
        "error: the config is for experiment 'other', which has no plan; those that have one: "
        f"{', '.join(plan.PLANS)}\n"
    )


@pytest.mark.parametrize("name", plan.PLANS)
def test_every_command_that_trains_has_a_plan(name):
    """The step of the debug variant, traced with the shapes that the run has."""
    config, _ = load(f"configs/{name}.py:debug")
    mesh = make_mesh({"data": 1})
    training = importlib.import_module(plan.PLANS[name]).build(config, plan.setup_of(mesh))
    step, (state, batch, replicated) = planned(training, config, mesh)
    traced = step.trace(state, batch, replicated)
    assert jax.tree.structure(traced.out_info[0]) == jax.tree.structure(state)
    assert profile.matmul_flops(traced.jaxpr) > 0
