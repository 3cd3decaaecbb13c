"""The planner: parameters, FLOPs, memory and collectives of a compiled step."""

import importlib
import importlib.util
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from experiments import plan
from jaxtrain.core import Core, Model, supervised, with_ema
from jaxtrain.host import cli, costs, traffic
from jaxtrain.host.chips import CHIPS, Roofline, roofline
from jaxtrain.host.config import load
from jaxtrain.host.data import Generated
from jaxtrain.host.experiment import Training, planned
from jaxtrain.parallel import make_mesh
from tests.source_tree import ROOT

CONFIG = """
from ml_collections import ConfigDict

def get_config(arg="full"):
    experiment = "toy" if arg == "full" else arg
    return ConfigDict({"experiment": experiment, "batch_size": 32, "num_steps": 1_000,
                       "depth": 1, "unread": 1, "mesh": {"data": -1}})
"""


def toy(config, setup=None):
    """A linear model from 8 to 16 numbers, with an average of its parameters."""
    model = Model(
        lambda key, x: ({"w": jnp.zeros((x.shape[-1], 16)), "b": jnp.zeros(16)}, ()),
        lambda params, state, x, *, key, train: (x @ params["w"] + params["b"][None], state),
    )
    loss = lambda out, batch: (jnp.mean(out**2), {})  # noqa: E731
    if getattr(config, "depth", 1) > 2:
        raise ValueError("depth is too much.")
    core = with_ema(supervised(model, loss, optax.adam(1e-3)), 0.9)
    made = Core(lambda key: core.init(key, {"inputs": jnp.zeros((1, 8))}), core.update)
    data = Generated(lambda key, index: {"inputs": jnp.zeros((len(index), 8))}, config.batch_size)
    return Training(core=lambda config, axis_name: made, data=data)


def toy_plan(config, mesh):
    return planned(toy(config), config, mesh)


def refuse_two(config):
    if config.depth == 2:
        raise cli.UsageError("depth=2 is one too many")


def deeper(config, mesh):
    """What depth=0 stands for: as many as there are devices."""
    if config.depth:
        return config
    config = config.copy_and_resolve_references()
    config.depth = mesh.size
    return config


def call(capsys, monkeypatch, tmp_path, *argv, variant=""):
    (tmp_path / "c.py").write_text(CONFIG)
    monkeypatch.setitem(plan.PLANS, "toy", "toy_module")
    module = types.ModuleType("toy_module")
    module.build, module.validate = toy, refuse_two
    module.settled = deeper
    monkeypatch.setitem(plan.importlib.sys.modules, "toy_module", module)
    code = 0
    try:
        argv = [f"--config={tmp_path / 'c.py'}{variant}", *argv]
        cli.tool(plan.run, needs_config=True, flags=plan.FLAGS, argv=argv)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("memory", ["estimate", "compiler"])
def test_plan_on_this_machine(capsys, monkeypatch, tmp_path, memory):
    code, out, err = call(capsys, monkeypatch, tmp_path, f"--memory={memory}")
    assert code == 0, err
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["toy:full"] == "toy:full on 1 x cpu (data=1)"
    assert lines["parameters"].endswith(" 144")  # 8 * 16 + 16, the average not counted
    # The product itself and the gradient with respect to w; none is needed for the inputs.
    assert f"{2 * 2 * 32 * 8 * 16:.3e} per step" in lines["FLOPs"]
    assert "(100 % float32)" in lines["FLOPs"]
    assert "fits: needs " in lines["verdict"]
    assert lines["collectives"].endswith(" none")
    assert "roofline" not in lines  # no peaks are published for this machine


def test_plan_for_devices_that_do_not_exist(capsys, monkeypatch, tmp_path):
    code, out, err = call(capsys, monkeypatch, tmp_path, "--topology=h100:2x4")
    assert code == 0, err
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["toy:full"] == "toy:full on 8 x NVIDIA H100 80GB HBM3 (data=8)"
    assert "1 all-reduce (576 B)" in lines["collectives"]
    assert "a step takes at least" in lines["roofline"] and "1,000 steps" in lines["run"]
    assert "of 80 GiB per device" in lines["verdict"]


def test_a_value_that_is_left_to_the_devices_is_settled_for_each_and_printed(
    capsys, monkeypatch, tmp_path
):
    argv = ("--config.depth=0", "--topology=h100:1,h100:2")
    code, out, err = call(capsys, monkeypatch, tmp_path, *argv)
    assert code == 2 and err == "error: depth=2 is one too many\n"
    lines = [line for line in out.splitlines() if "these devices" in line]
    assert lines == ["  for these devices depth: 0 -> 1"]


def test_a_step_of_equal_shapes_is_traced_once(capsys, monkeypatch, tmp_path):
    traced, counted = [], plan.counted
    monkeypatch.setattr(plan, "counted", lambda *args: traced.append(args) or counted(*args))
    code, out, err = call(capsys, monkeypatch, tmp_path, "--topology=h100:1, v5e:2x4")
    assert code == 0, err
    assert "toy:full on 1 x NVIDIA H100 80GB HBM3 (data=1)\n" in out
    assert "toy:full on 8 x TPU v5 lite (data=8)\n" in out and len(traced) == 1
    assert out.count("FLOPs per byte") == 2 and out.count("per device\n") == 4


@pytest.mark.parametrize("topology", ["v5e", "v5e:", "v9:2x2", "v5e:0x4", "v5e:many"])
def test_a_topology_that_is_none(capsys, monkeypatch, tmp_path, topology):
    code, out, err = call(capsys, monkeypatch, tmp_path, f"--topology={topology}")
    assert code == 2 and not out
    assert f"--topology={topology!r} must be CHIP:SIDES, such as v5e:4x4" in err


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--config.depth=2", "error: depth=2 is one too many\n"),
        ("--config.depth=3", "error: depth is too much.\n"),
        ("--config.unread=2", "error: unread would have no effect, because nothing in this run "),
        ("--topology=h100:1,,h100:8", "error: --topology='h100:1,,h100:8' has a comma without a "),
    ],
)
def test_what_the_command_would_refuse_has_no_plan(capsys, monkeypatch, tmp_path, flag, said):
    code, out, err = call(capsys, monkeypatch, tmp_path, flag)
    assert code == 2 and not out and err.startswith(said) and err.count("\n") == 1


def test_keys_of_the_frame_have_an_effect(capsys, monkeypatch, tmp_path):
    assert call(capsys, monkeypatch, tmp_path, "--config.num_steps=2")[0] == 0


def test_memory_is_what_the_arrays_need():
    config = types.SimpleNamespace(batch_size=32)
    jitted, args = toy_plan(config, make_mesh({"data": 1}))
    one, two = make_mesh({"data": 1}), plan.abstract_mesh({"data": 2}, 2)
    memory = plan.make_plan(plan.counted(jitted, args), args, one, compiles=True).memory
    # Parameters, two Adam moments and the average, a step counter, the batch, a key of two words.
    state = 4 * (4 * 144 + 1)
    assert memory["arguments"] == pytest.approx(state + 4 * (32 * 8 + 2), rel=0.02)
    assert memory["results"] < 200  # the state is donated; metrics are left
    assert memory["total"] == sum(size for name, size in memory.items() if name != "total")
    estimate = plan.make_plan(plan.counted(jitted, args), args, one).memory
    assert estimate["state"] == state and estimate["gradients"] == 4 * 144
    halved = plan.make_plan(plan.counted(jitted, args), args, two).memory
    assert halved["activations"] == estimate["activations"] // 2


def test_activations_are_what_the_state_before_and_after_and_the_gradients_leave():
    """Parameters of 40 bytes in a state of 120, of which two are alive at the dearest moment."""

    class State(NamedTuple):
        params: np.ndarray
        moments: np.ndarray

    state = State(np.zeros(10, np.float32), np.zeros(20, np.float32))
    mesh = plan.abstract_mesh({"data": 2}, 2)
    found = plan.estimated_memory(10_000, (state,), mesh)
    activations = (10_000 - 2 * 120 - 40) // 2
    assert found == {
        "state": 120,
        "gradients": 40,
        "activations": activations,
        "total": 160 + activations,
    }
    assert plan.estimated_memory(279, (state,), mesh)["activations"] == 0


def test_memory_and_links_of_a_shared_state(monkeypatch):
    """Of 8 x 16 kernels four devices hold a quarter each; the biases are too small to share."""
    monkeypatch.setattr("jaxtrain.meshes.SMALLEST_SHARDED", 100)
    mesh = plan.abstract_mesh({"data": 2, "fsdp": -1}, 8)
    jitted, args = toy_plan(types.SimpleNamespace(batch_size=32), mesh)
    memory = plan.make_plan(plan.counted(jitted, args), args, mesh).memory
    kept = 4 * (8 * 16 // 4 + 16)
    assert memory["state"] == 4 * kept + 4 and memory["gradients"] == kept
    assert memory["gathered"] == 4 * 144
    kinds = traffic.expected(args[0].state.params, mesh, times=3)
    assert kinds == {
        "all-gather": (1, 576),
        "reduce-scatter": (3, 3 * 576),
        "all-reduce": (3, 3 * 576 / 4),
    }
    assert traffic.sent(kinds, mesh) == 0.75 * 576 + 0.75 * 3 * 576 + 2 * 0.5 * 3 * 576 / 4
    alone = traffic.expected(args[0].state.params, make_mesh({"data": 1}), times=3)
    assert not alone and traffic.sent(alone, make_mesh({"data": 1})) == 0


def planned_with(total, limit=16 * 2**30, refused="", state=0):
    memory = {} if refused else {"state": state, "total": total}
    return plan.Plan(1, costs.Cost({}, 0.0), memory, limit, {}, refused)


def test_verdict():
    assert plan.verdict(planned_with(3 * 2**30)) == "fits: needs 3 GiB of 16 GiB per device"
    large = planned_with(17 * 2**30)
    assert plan.verdict(large) == "does not fit: needs 17 GiB of 16 GiB per device"
    assert "is not known" in plan.verdict(large._replace(limit=0))
    refused = planned_with(0, refused="out of memory")
    assert plan.verdict(refused) == "does not fit: out of memory"
    config = ConfigDict({"batch_size": 8, "model": {"remat": False, "dtype": "float32"}})
    assert plan.verdict(large, config).endswith(
        "; set model.remat=True or set model.dtype=bfloat16"
    )
    config = ConfigDict({"batch_size": 8, "micro_batch": 4, "model": {"remat": True}})
    assert plan.verdict(refused, config).endswith("; lower micro_batch=4")
    assert plan.verdict(large, ConfigDict({"batch_size": 8})).endswith("; lower batch_size=8")
    estimate = large._replace(memory={"activations": 17 * 2**30, "total": 17 * 2**30})
    assert plan.verdict(estimate).startswith("may not fit: needs at most 17 GiB of 16 GiB")
    estimate.memory["total"] = 41 * 2**30
    assert plan.verdict(estimate).startswith("does not fit")
    kept = planned_with(17 * 2**30, state=10 * 2**30)
    assert "use a smaller model or larger devices" in plan.verdict(kept, config)


def test_program_too_large_for_the_compiler_is_reported():
    class Refusing:
        jaxpr = jax.make_jaxpr(lambda x: x)(1.0)
        trace = lower = lambda self, *args: self

        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 20G of 16G hbm used\nmore")

    found = plan.make_plan(
        plan.counted(Refusing(), ()), (np.zeros(3),), make_mesh({"data": 1}), compiles=True
    )
    assert plan.verdict(found) == "does not fit: RESOURCE_EXHAUSTED: 20G of 16G hbm used"


def test_the_least_time_of_a_step():
    """One second on each resource by turns, from the chip's own numbers."""
    chip = CHIPS["h100"]
    products = {"bfloat16": chip.flops["bfloat16"], "float32": chip.flops["float32"]}
    assert roofline(chip, costs.Cost(products, 0.0), 2, 0, 0) == Roofline(1, 0, 0)
    moved = costs.Cost({}, 2 * chip.bandwidth)
    least = roofline(chip, moved, 4, chip.bandwidth / 8, 0)
    assert least == pytest.approx(Roofline(0, 0.75, 0)) and least.bound == "memory"
    sums = roofline(chip, costs.Cost({}, 0.0), 4, 0, 1.5 * chip.link)
    assert sums == Roofline(0, 0, 1.5) and sums.seconds == 1.5


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is not None, reason="the TPU compiler is installed here"
)
def test_topology_without_the_tpu_compiler(capsys, monkeypatch, tmp_path):
    argv = ("--topology=v5e:4x4", "--memory=compiler")
    code, out, err = call(capsys, monkeypatch, tmp_path, *argv)
    assert code == 2 and not out
    assert "needs the TPU compiler; install it with pip install 'jax[tpu]'" in err


@pytest.mark.optional_dep
@pytest.mark.ci
def test_topology_with_the_tpu_compiler(capsys, monkeypatch, tmp_path):
    pytest.importorskip("libtpu")
    asks = "--memory=compiler"
    code, out, err = call(capsys, monkeypatch, tmp_path, "--topology=v5e:4x4", asks)
    assert code == 0, err
    assert "toy:full on 16 x TPU v5 lite (data=16)" in out
    assert "all-reduce" in out and "of 16 GiB per device" in out
    code, _, err = call(capsys, monkeypatch, tmp_path, "--topology=v5e:8x8", asks)
    assert code == 2 and "batch_size=32 does not divide over the 64 devices" in err
    code, _, err = call(capsys, monkeypatch, tmp_path, "--topology=v5e:3x5", asks)
    assert code == 2 and "--topology='v5e:3x5' is not a TPU slice" in err


def test_experiment_without_a_plan(capsys, monkeypatch, tmp_path):
    code, _, err = call(capsys, monkeypatch, tmp_path, variant=":other")
    assert code == 2
    assert err == (
        "error: the config is for experiment 'other', which has no plan; those that have one: "
        f"{', '.join(plan.PLANS)}\n"
    )


def test_no_command_that_trains_lacks_a_plan():
    sources = {path.stem: path.read_text() for path in (ROOT / "experiments").glob("*.py")}
    trains = {name for name, source in sources.items() if "-> Training:" in source}
    assert trains <= set(plan.PLANS)


@pytest.mark.parametrize("name", plan.PLANS)
def test_every_command_that_trains_has_a_plan(name):
    """The step of the debug variant, traced with the shapes that the run has."""
    config, _ = load(f"configs/{name}.py:debug")
    mesh = make_mesh({"data": 1})
    training = importlib.import_module(plan.PLANS[name]).build(config, plan.setup_of(mesh))
    step, (state, batch, replicated) = planned(training, config, mesh)
    traced = step.trace(state, batch, replicated)
    assert jax.tree.structure(traced.out_info[0]) == jax.tree.structure(state)
    assert costs.matmul_flops(traced.jaxpr) > 0
