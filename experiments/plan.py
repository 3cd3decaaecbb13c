"""Says whether a configuration fits its devices, without running it.

Compiles one training step of the configuration and reports its parameters, FLOPs, memory per device
and collectives. With --topology=v5e:4x4 the step is compiled for that TPU pod slice by the real TPU
compiler, on any Linux machine that has the package libtpu.
"""

import importlib
import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Any

import jax

from jaxtrain import parallel, trees
from jaxtrain.host import cli, profile
from jaxtrain.host.experiment import planned

# Experiments whose `build` returns an `experiment.Training`.
PLANS = {
    "gpicl": "experiments.gpicl",
    "lpn_arc": "experiments.lpn_arc",
    "lpn_patterns": "experiments.lpn_patterns",
    "meta_rl": "experiments.meta_rl",
    "ppo": "experiments.ppo",
}
# Memory of one device in GiB, from the vendor's system architecture pages.
TPU_MEMORY = {"TPU v4": 32, "TPU v5 lite": 16, "TPU v5": 95, "TPU v6 lite": 32}
_COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "f64": 8}


def described_devices(topology: str) -> list[jax.Device]:
    """The devices of a TPU slice that need not exist.

    Raises:
      UsageError: libtpu is not installed, or knows no such slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise cli.UsageError(
            "--topology needs the TPU compiler; install it with pip install 'jax[tpu]' (Linux only)"
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


def collectives(program: str) -> dict[str, tuple[int, int]]:
    """Kind of collective -> (how many, bytes they produce), from the text of a compiled program."""
    found: dict[str, tuple[int, int]] = {}
    for shapes, kind in re.findall(rf"= (.*?) ({_COLLECTIVES})(?:-start)?\(", program):
        count, size = found.get(kind, (0, 0))
        for dtype, dims in re.findall(r"([a-z]+[0-9]*)\[([0-9,]*)\]", shapes):
            elements = 1
            for dim in filter(None, dims.split(",")):
                elements *= int(dim)
            size += elements * _BYTES.get(dtype, 4)
        found[kind] = (count + 1, size)
    return found


def device_memory(device: jax.Device) -> int:
    """Bytes one device has; on CPU all devices share the machine's memory. 0 when unknown."""
    if device.device_kind in TPU_MEMORY:
        return TPU_MEMORY[device.device_kind] * 2**30
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.device_count()
    return (device.memory_stats() or {}).get("bytes_limit", 0)


def _params(state: Any) -> Any:
    """The parameters inside a training state, however it is wrapped."""
    while not hasattr(state, "params") and hasattr(state, "state"):
        state = state.state
    return getattr(state, "params", state)


def report(jitted: Any, args: tuple[Any, ...], mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Compiles `jitted(*args)` and returns what it costs.

    Args:
      jitted: a jitted function whose first argument is the training state.
      args: its arguments, as arrays or `jax.ShapeDtypeStruct`s.
      mesh: the devices it was made for.

    Returns:
      `parameters`, `flops` (matrix products of one step, all devices), `memory` (bytes per device
      by use, `total` included), `limit` (bytes a device has, 0 when unknown), `collectives`;
      `memory` is empty and `refused` holds the compiler's words when it found the program too
      large.
    """
    traced = jitted.trace(*args)
    found: dict[str, Any] = {
        "parameters": trees.size(_params(args[0])),
        "flops": profile.matmul_flops(traced.jaxpr),
        "limit": device_memory(mesh.devices.flat[0]),
        "memory": {},
        "collectives": {},
        "refused": "",
    }
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return found | {"refused": str(error).splitlines()[0]}
    memory = compiled.memory_analysis()
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }
    parts["total"] = sum(parts.values())
    return found | {"memory": parts, "collectives": collectives(compiled.as_text())}


def verdict(found: Mapping[str, Any]) -> str:
    """One sentence: whether it fits."""
    if found["refused"]:
        return f"does not fit: {found['refused']}"
    total, limit = found["memory"]["total"], found["limit"]
    if not limit:
        return f"needs {_size(total)} per device; how much a device has is not known"
    word = "fits" if total <= limit else "does not fit"
    return f"{word}: needs {_size(total)} of {_size(limit)} per device"


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:.4g} GiB"


def setup_of(mesh: jax.sharding.Mesh) -> cli.Setup:
    """What a run on these devices is built with."""
    return cli.Setup(parallel.Execution("jit", mesh), None, {"mode": "train", "predict": ""})


def run(command: cli.Command) -> None:
    """Prints the plan of the given config."""
    config = command.config
    assert config is not None  # a config is required
    experiment = config.get("experiment", "")
    if experiment not in PLANS:
        raise cli.UsageError(
            f"the config is for experiment {experiment!r}, which has no plan; those that have one: "
            f"{', '.join(PLANS)}"
        )
    topology = command.flags["topology"]
    devices = described_devices(topology) if topology else jax.devices()
    try:
        mesh = parallel.make_mesh(config.mesh.to_dict(), devices)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    cli.check_batch_divides(config, mesh)
    module = importlib.import_module(PLANS[experiment])
    jitted, args = planned(module.build(config, setup_of(mesh)), config, mesh)
    found = report(jitted, args, mesh)
    shape = ", ".join(f"{name}={size}" for name, size in mesh.shape.items())
    print(f"{experiment}:{command.variant} on {mesh.size} x {devices[0].device_kind} ({shape})")
    print(f"  {'parameters':<12} {found['parameters']:,}")
    print(
        f"  {'FLOPs':<12} {found['flops']:.3e} per step in matrix products, "
        f"{found['flops'] / mesh.size:.3e} per device"
    )
    if found["memory"]:
        parts = ", ".join(f"{name} {_size(size)}" for name, size in found["memory"].items())
        print(f"  {'memory':<12} {parts}")
        kinds = [f"{n} {kind} ({_size(size)})" for kind, (n, size) in found["collectives"].items()]
        print(f"  {'collectives':<12} {', '.join(kinds) or 'none'}, each loop body counted once")
    print(f"  {'verdict':<12} {verdict(found)}")


if __name__ == "__main__":
    cli.tool(
        run,
        needs_config=True,
        flags=(cli.define_string("topology", "", "TPU slice, such as v5e:4x4; else this machine"),),
    )
