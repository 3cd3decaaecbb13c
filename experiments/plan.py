"""Says whether a configuration fits its devices and how long it takes there, without running it.

Traces one training step of the configuration and counts it whole: FLOPs and bytes of all matrix
products with every loop as often as it runs, memory per device, collectives, and the least time
that a chip with the published peaks needs. --topology=v5e:4x4 plans for a slice of TPUs and
--topology=h100:8 for GPUs, on any machine. --memory=compiler asks the compiler instead of
estimating: for this machine, and for TPUs where the package libtpu is installed (minutes for large
models).
"""

import importlib
import importlib.util
import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from jaxtrain import parallel, trees
from jaxtrain.host import cli, costs, traffic
from jaxtrain.host.chips import CHIPS, Chip, Roofline, roofline
from jaxtrain.host.config import differences
from jaxtrain.host.experiment import Training, planned, read_keys
from jaxtrain.host.settings import recorded

# Experiments whose `build` returns an `experiment.Training`.
_NAMES = "control gpicl imitation lm_base lm_judges lm_reward lpn_arc lpn_patterns memory meta_rl"
_NAMES += " ppo self_supervised skills soft_actor_critic"
PLANS = {name: f"experiments.{name}" for name in _NAMES.split()}
# The estimate of memory is above what compilers need; 2.2 times in the one case that was compared.
SAFETY = 2.5


def parse_topology(text: str) -> tuple[Chip, tuple[int, ...]]:
    """`"v5e:4x4"` -> the chip and the sides of its slice.

    Raises:
      UsageError: no such chip, or no sizes.
    """
    name, _, sides = text.partition(":")
    if name not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sides):
        raise cli.UsageError(
            f"--topology={text!r} must be CHIP:SIDES, such as v5e:4x4 or h100:8; chips: "
            f"{', '.join(CHIPS)}"
        )
    return CHIPS[name], tuple(map(int, sides.split("x")))


def described_devices(topology: str) -> list[jax.Device]:
    """The devices of a TPU slice that need not exist, for which the TPU compiler compiles.

    Raises:
      UsageError: libtpu is not installed, or knows no such slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise cli.UsageError(
            "--memory=compiler with --topology needs the TPU compiler; install it with "
            "pip install 'jax[tpu]' (Linux only), or leave --memory=estimate"
        )
    # Nothing is run on a TPU here, and libtpu must not wait for a metadata server.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    try:
        slice_ = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise cli.UsageError(
            f"--topology={topology!r} is not a TPU slice ({reason}); write it like v5e:4x4"
        ) from error
    return list(slice_.devices)


def abstract_mesh(shape: Mapping[str, int], devices: int) -> jax.sharding.AbstractMesh:
    """A mesh of devices that do not exist, to trace for; errors as in `parallel.mesh_shape`."""
    sizes = parallel.mesh_shape(shape, devices)
    auto = (jax.sharding.AxisType.Auto,) * len(sizes)
    return jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=auto)


def device_memory(device: jax.Device) -> int:
    """Bytes one device has; on CPU all devices share the machine's memory. 0 when unknown."""
    for chip in CHIPS.values():
        if chip.kind == device.device_kind:
            return chip.memory
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.device_count()
    return (device.memory_stats() or {}).get("bytes_limit", 0)


def _params(state: Any) -> Any:
    """The parameters inside a training state, however it is wrapped."""
    while not hasattr(state, "params") and hasattr(state, "state"):
        state = state.state
    return getattr(state, "params", state)


def held(tree: Any, mesh: parallel.AnyMesh) -> int:
    """Bytes of a state, or of gradients, that each device keeps."""
    return parallel.bytes_per_device(tree, mesh, parallel.state_layout(tree, mesh))


def estimated_memory(peak: int, args: tuple[Any, ...], mesh: parallel.AnyMesh) -> dict[str, int]:
    """Bytes per device by use, of a step with `peak` bytes alive over all devices.

    State and gradients are on every device, or shared by those along `fsdp`, which then hold the
    whole parameters besides while they compute; what else is alive at the dearest moment is split.
    """
    state, params = args[0], _params(args[0])
    parts = {"state": held(state, mesh), "gradients": held(params, mesh)}
    if parallel.FSDP_AXIS in mesh.shape:
        parts["gathered"] = trees.num_bytes(params)
    whole = 2 * trees.num_bytes(state) + trees.num_bytes(params)
    parts["activations"] = max(peak - whole, 0) // mesh.size
    return parts | {"total": sum(parts.values())}


def compiled_memory(traced: Any) -> tuple[dict[str, int], traffic.Collectives, str]:
    """What the compiler says: bytes per device by use, collectives, and its words if it refused."""
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {}, {}, str(error).splitlines()[0]
    memory = compiled.memory_analysis()
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }
    return parts | {"total": sum(parts.values())}, traffic.in_program(compiled.as_text()), ""


class Plan(NamedTuple):
    """What one training step costs.

    Attributes:
      parameters: numbers in the parameters.
      cost: of the step over all devices, with loops as often as they run.
      memory: bytes per device by use, `total` included; empty when the compiler refused.
      limit: bytes a device has, 0 when unknown.
      collectives: kind -> (how many, bytes); of a compiled program each loop body counts once.
      refused: the compiler's words when it found the program too large.
      least: the least time of a step, None where no peaks are known.
    """

    parameters: int
    cost: costs.Cost
    memory: Mapping[str, int]
    limit: int
    collectives: traffic.Collectives
    refused: str = ""
    least: Roofline | None = None


class Counted(NamedTuple):
    """A traced step, what it costs, and the bytes alive at its dearest moment, over all devices."""

    traced: Any
    cost: costs.Cost
    peak: int


def counted(
    jitted: Any, args: tuple[Any, ...], passes: Mapping[str, float] | None = None
) -> Counted:
    """Counts `jitted(*args)`, arrays or `jax.ShapeDtypeStruct`s; `passes` as in `costs.cost`."""
    traced = jitted.trace(*args)
    return Counted(traced, costs.cost(traced.jaxpr, passes), costs.peak_bytes(traced.jaxpr))


def make_plan(
    step: Counted,
    args: tuple[Any, ...],
    mesh: parallel.AnyMesh,
    *,
    chip: Chip | None = None,
    limit: int = 0,
    compiles: bool = False,
) -> Plan:
    """The plan of a step.

    Args:
      step: counted.
      args: its arguments, the training state first.
      mesh: the devices that share the work.
      chip: each of them; None for no times.
      limit: bytes each of them has.
      compiles: whether the compiler is asked about memory and collectives.
    """
    params, refused = _params(args[0]), ""
    times = sum(loop.passes for loop in step.cost.loops if loop.name) or 1
    kinds = traffic.expected(params, mesh, times)
    least = chip and roofline(
        chip, step.cost, mesh.size, held(args[0], mesh), traffic.sent(kinds, mesh)
    )
    if compiles:
        memory, kinds, refused = compiled_memory(step.traced)
    else:
        memory = estimated_memory(step.peak, args, mesh)
    return Plan(trees.size(params), step.cost, memory, limit, kinds, refused, least)


def verdict(plan: Plan, config: Any = None) -> str:
    """One sentence: whether it fits and, if not, which setting helps."""
    if plan.refused:
        return f"does not fit: {plan.refused}{_advice(config, state_is_large=False)}"
    total, limit = plan.memory["total"], plan.limit
    if not limit:
        return f"needs {_size(total)} per device; how much a device has is not known"
    if total <= limit:
        return f"fits: needs {_size(total)} of {_size(limit)} per device"
    kept = plan.memory.get("state", plan.memory.get("arguments", 0))
    advice = _advice(config, state_is_large=2 * kept > limit)
    if "activations" in plan.memory and total < SAFETY * limit:
        return (
            f"may not fit: needs at most {_size(total)} of {_size(limit)} per device; ask with "
            f"--memory=compiler{advice}"
        )
    return f"does not fit: needs {_size(total)} of {_size(limit)} per device{advice}"


def _advice(config: Any, *, state_is_large: bool) -> str:
    """Which settings of a config make a step need less memory."""
    if state_is_large:
        return (
            "; the state of every device is most of it: raise mesh.fsdp, or use a smaller model or "
            "larger devices"
        )
    if config is None:
        return ""
    model, knobs = config.get("model", {}), []
    if "micro_batch" in config:
        knobs.append(f"lower micro_batch={config.micro_batch or config.batch_size}")
    if model.get("remat") is False:
        knobs.append("set model.remat=True")
    if model.get("dtype") == "float32":
        knobs.append("set model.dtype=bfloat16")
    return f"; {' or '.join(knobs or [f'lower batch_size={config.batch_size}'])}"


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:.4g} GiB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def lines(plan: Plan, config: Any, devices: int) -> dict[str, str]:
    """What is printed: a word -> what is said about it."""
    cost, total = plan.cost, plan.cost.total_flops
    types = ", ".join(
        f"{100 * n / total:.0f} % {dtype}" for dtype, n in cost.flops.items() if total
    )
    found = {
        "parameters": f"{plan.parameters:,}",
        "FLOPs": f"{total:.3e} per step in matrix products ({types or 'none'}), "
        f"{total / devices:.3e} per device",
        "bytes": f"{_size(cost.bytes)} per step read and written by them, "
        f"{total / max(cost.bytes, 1):.3g} FLOPs per byte",
    }
    for loop in cost.loops:
        share = 100 * loop.passes * loop.flops / total
        name, bound = loop.name or "of unknown length", f"at most {loop.most} passes, "
        counted = f"counted {loop.passes:.3g} times, {share:.0f} % of the FLOPs"
        found[f"loop {name}"] = (bound if loop.name else "") + counted
    if plan.memory:
        found["memory"] = ", ".join(f"{name} {_size(n)}" for name, n in plan.memory.items())
        kinds = [f"{n:.3g} {kind} ({_size(size)})" for kind, (n, size) in plan.collectives.items()]
        found["collectives"] = ", ".join(kinds) or "none"
    if plan.least is not None:
        parts = ", ".join(f"{name} {_duration(s)}" for name, s in plan.least._asdict().items())
        found["roofline"] = (
            f"a step takes at least {_duration(plan.least.seconds)} ({parts}); "
            f"{plan.least.bound} bound it"
        )
        whole = _duration(plan.least.seconds * config.num_steps)
        found["run"] = f"{config.num_steps:,} steps take at least {whole}"
    return found | {"verdict": verdict(plan, config)}


def setup_of(mesh: Any) -> cli.Setup:
    """What a run on these devices is built with."""
    return cli.Setup(parallel.Execution("jit", mesh), None, {"mode": "train", "predict": ""})


class Target(NamedTuple):
    """Where a plan is for: the devices, what they are called, and what they have."""

    mesh: Any
    kind: str
    limit: int
    chip: Chip | None


def target(config: Any, topology: str, *, compiles: bool) -> Target:
    """The devices of `--topology`, or of this machine where it is empty.

    Raises:
      UsageError: there are no such devices, or the batch does not divide over them.
    """
    shape, chip, limit, kind = config.mesh.to_dict(), None, 0, ""
    mesh: Any
    try:
        if topology:
            chip, sides = parse_topology(topology)
            limit, kind = chip.memory, chip.kind
        if compiles or not topology:
            devices = described_devices(topology) if topology else jax.devices()
            limit, kind = limit or device_memory(devices[0]), devices[0].device_kind
            mesh = parallel.make_mesh(shape, devices)
        else:
            mesh = abstract_mesh(shape, math.prod(sides))
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    cli.check_batch_divides(config, mesh)
    return Target(mesh, kind, limit, chip)


def run(command: cli.Command) -> None:
    """Prints the plans of the given config.

    Raises:
      UsageError: keys without effect, what `validate` and `build` of the command refuse, or no such
        devices.
    """
    asked = command.config
    assert asked is not None  # a config is required
    experiment = asked.get("experiment", "")
    if experiment not in PLANS:
        raise cli.UsageError(
            f"the config is for experiment {experiment!r}, which has no plan; those that have one: "
            f"{', '.join(PLANS)}"
        )
    compiles = command.flags["memory"] == "compiler"
    module = importlib.import_module(PLANS[experiment])
    steps: dict[str, Counted] = {}
    topologies = [text.strip() for text in command.flags["topology"].split(",")]
    if not all(topologies) and len(topologies) > 1:
        raise cli.UsageError(f"--topology={','.join(topologies)!r} has a comma without a slice")
    for topology in topologies:
        mesh, kind, limit, chip = target(asked, topology, compiles=compiles)
        config = module.settled(asked, mesh) if hasattr(module, "settled") else asked
        watched, reads = recorded(config)
        try:
            module.validate(config)
            training: Training = module.build(watched, setup_of(mesh))
            jitted, args = planned(training, watched, mesh)
        except ValueError as error:
            raise cli.UsageError(str(error)) from error
        read_keys(training, watched)
        cli.check_effect(command.changed, reads.keys)
        # A step of equal shapes is the same program for other devices, and takes long to trace.
        same = f"{trees.describe(args)} {topology if compiles else ''}"
        if same not in steps:
            shards = parallel.num_shards(mesh)
            passes = training.passes(config, shards) if training.passes else None
            steps[same] = counted(jitted, args, passes)
        plan = make_plan(steps[same], args, mesh, chip=chip, limit=limit, compiles=compiles)
        shape = ", ".join(f"{name}={size}" for name, size in mesh.shape.items())
        print(f"{experiment}:{command.variant} on {mesh.size} x {kind} ({shape})")
        found = lines(plan, config, mesh.size)
        width = max(map(len, found))
        for change in differences(asked, config):
            print(f"  for these devices {change}")
        for name, text in found.items():
            print(f"  {name:<{width}} {text}")
        if plan.memory and compiles:
            print("  of collectives in a loop one pass is counted")
        elif plan.memory:
            print("  memory is an estimate; --memory=compiler asks the compiler")


FLAGS = (
    cli.define_string(
        "topology",
        "",
        "slices of TPUs or GPUs, such as v5e:4x4 or h100:1,h100:8; else this machine",
    ),
    cli.define_enum(
        "memory", "estimate", ("estimate", "compiler"), "who says how much memory it needs"
    ),
)

if __name__ == "__main__":
    cli.tool(run, needs_config=True, flags=FLAGS)
