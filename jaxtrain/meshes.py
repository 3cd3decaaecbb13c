"""Meshes of devices, and how a batch and a state lie on one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxtrain import trees

AnyMesh = Mesh | AbstractMesh
DATA_AXIS, FSDP_AXIS = "data", "fsdp"
SMALLEST_SHARDED = 2**14  # numbers in a leaf
REPLICATED = P()
SHARDED = P(DATA_AXIS)


def mesh_shape(shape: Mapping[str, int], num_devices: int) -> dict[str, int]:
    """The sizes of a mesh of at most `num_devices`: -1 resolved, an axis `"fsdp"` of 1 left out.

    Raises:
      ValueError: a size is impossible, or does not fit the number of devices.
    """
    shape = {name: size for name, size in shape.items() if (name, size) != (FSDP_AXIS, 1)}
    unknown = [name for name, size in shape.items() if size == -1]
    if not shape or len(unknown) > 1 or any(s < 1 and s != -1 for s in shape.values()):
        raise ValueError(
            f"mesh {shape} is impossible: give every axis a size of at least 1, and -1 to at most "
            "one of them."
        )
    fixed = math.prod(size for size in shape.values() if size != -1)
    if fixed > num_devices or (unknown and num_devices % fixed):
        raise ValueError(
            f"mesh {shape} needs {'a multiple of ' if unknown else ''}{fixed} devices but there "
            f"are {num_devices}; change the sizes so that they multiply to the number of devices."
        )
    return shape | {name: num_devices // fixed for name in unknown}


def make_mesh(
    shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """Builds a mesh from axis sizes.

    Args:
      shape: axis name to size, for example `{"data": -1}`; one size may be -1, meaning all devices
        that the others leave. Without a -1, the first devices are used.
      devices: default all devices of all processes.

    Returns:
      A mesh with `Auto` axes.

    Raises:
      ValueError: as `mesh_shape`, or a process has no device in it.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(shape, len(devices))
    if (used := math.prod(shape.values())) < len(devices):
        devices = devices[:used]
        if len({d.process_index for d in devices}) < jax.process_count():
            raise ValueError(
                f"mesh {shape} leaves some of the {jax.process_count()} processes without a "
                "device; use all devices, or start fewer processes."
            )
    return jax.make_mesh(
        tuple(shape.values()),
        tuple(shape),
        axis_types=(AxisType.Auto,) * len(shape),
        devices=devices,
    )


def batch_layout(mesh: AnyMesh) -> P:
    """How a batch is spread: its leading axis over `"data"` and, where there is one, `"fsdp"`."""
    return P((DATA_AXIS, FSDP_AXIS)) if FSDP_AXIS in mesh.shape else SHARDED


def num_shards(mesh: AnyMesh) -> int:
    """Parts that a batch is split into."""
    return math.prod(mesh.shape.get(axis, 1) for axis in (DATA_AXIS, FSDP_AXIS))


def state_layout(state: Any, mesh: AnyMesh) -> Any:
    """How a state is spread: replicated, or its large leaves over the mesh axis `"fsdp"`.

    A leaf of at least `SMALLEST_SHARDED` numbers is cut along the longest of its axes that divides.
    Every device then holds a part of the parameters and of what the optimiser keeps for them
    (Rajbhandari et al., ZeRO, arXiv 1910.02054); see `gathered`. It is for mode `"jit"`.

    Args:
      state: arrays or their `jax.ShapeDtypeStruct`s.
      mesh: the devices.

    Returns:
      `P()`, or a tree of specs like `state`.
    """
    if FSDP_AXIS not in mesh.shape:
        return REPLICATED

    def leaf(x: Any) -> P:
        axes = [i for i, n in enumerate(x.shape) if n % mesh.shape[FSDP_AXIS] == 0]
        if math.prod(x.shape) < SMALLEST_SHARDED or not axes:
            return P()
        longest = max(axes, key=lambda i: x.shape[i])
        return P(*[None] * longest, FSDP_AXIS)

    return jax.tree.map(leaf, state)


def gathered(params: Any) -> Any:
    """Parameters as a gradient is computed with: whole on every device.

    This and `spread` change no number, and nothing at all but in an update that `jit_update` traces
    for a mesh with an axis `"fsdp"`. Without them the compiler would follow the parts of parameters
    into the activations.
    """
    if FSDP_AXIS not in jax.sharding.get_abstract_mesh().shape:
        return params
    return jax.lax.with_sharding_constraint(params, P())


def spread(grads: Any) -> Any:
    """Gradients as they are kept: summed over the batch, each part where its parameters are."""
    mesh = jax.sharding.get_abstract_mesh()
    if FSDP_AXIS not in mesh.shape:
        return grads
    return jax.lax.with_sharding_constraint(grads, state_layout(grads, mesh))


def bytes_per_device(tree: Any, mesh: AnyMesh, spec: Any) -> int:
    """Bytes that each device holds of a tree; `spec` is one partition spec or a prefix tree."""

    def subtree(s: P, part: Any) -> int:
        shards = math.prod(mesh.shape[axis] for entry in s for axis in axes_of(entry))
        return trees.num_bytes(part) // shards

    return sum(jax.tree.leaves(jax.tree.map(subtree, spec, tree, is_leaf=is_spec)))


def is_spec(x: Any) -> bool:
    """For trees of partition specs, which are tuples."""
    return isinstance(x, P)


def axes_of(entry: Any) -> tuple[str, ...]:
    """Mesh axes that an entry of a spec names."""
    return (entry,) if isinstance(entry, str) else tuple(entry or ())
