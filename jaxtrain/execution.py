"""Placement of arrays and the three execution modes: jit, pmap, shard_map."""

import contextlib
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtrain.meshes import (
    DATA_AXIS,
    FSDP_AXIS,
    REPLICATED,
    axes_of,
    batch_layout,
    is_spec,
)
from jaxtrain.protocol import StepOutput

Mode = Literal["jit", "pmap", "shard_map"]
MODES: tuple[Mode, ...] = ("jit", "pmap", "shard_map")


class Execution(NamedTuple):
    """How a run is spread over devices.

    Attributes:
      mode: `"jit"` (global arrays), `"pmap"` or `"shard_map"` (one shard per device).
      mesh: the devices; has an axis named `"data"`, and may have one named `"fsdp"`: the batch is
        spread over both, and the state over the latter (see `meshes.state_layout`).
    """

    mode: Mode
    mesh: Mesh

    @property
    def axis_name(self) -> str | None:
        """What to build the core with: `None` in jit mode, else `"data"`."""
        return None if self.mode == "jit" else DATA_AXIS


def _unchanged(x: Any) -> Any:
    return x


def _put(x: Any, sharding: NamedSharding, *, is_slice: bool) -> Any:
    """Places one leaf. On several processes a host value is the whole array, or a slice of it."""
    if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
        return x
    is_global = isinstance(x, jax.Array) and not x.is_fully_addressable
    if is_global:  # `device_put` cannot cut or gather over processes
        return jax.jit(_unchanged, out_shardings=sharding)(x)
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(x), sharding, is_slice=is_slice)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    x = np.asarray(x)
    if is_slice:
        return jax.make_array_from_process_local_data(sharding, x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def place(tree: Any, mesh: Mesh, spec: Any = REPLICATED) -> Any:
    """Places whole values on a mesh; every process passes the same values.

    Args:
      tree: pytree of arrays or numbers.
      mesh: where to.
      spec: one partition spec, or a tree of them that is a prefix of `tree`; default replicated.

    Returns:
      The tree as global arrays; leaves that are already placed so are not copied.
    """

    def subtree(s: P, part: Any) -> Any:
        sharding = NamedSharding(mesh, s)
        return jax.tree.map(lambda x: _put(x, sharding, is_slice=False), part)

    return jax.tree.map(subtree, spec, tree, is_leaf=is_spec)


def place_batch(batch: Any, mesh: Mesh, spec: P | None = None) -> Any:
    """Places a batch on a mesh, sharded on the leading axis.

    Args:
      batch: pytree of arrays `[batch, ...]`: global arrays, or this process's slice as host values
        (on one process that is the whole batch).
      mesh: where to.
      spec: partition spec of every leaf; default `batch_layout(mesh)`.

    Returns:
      Global arrays `[global batch, ...]`.

    Raises:
      ValueError: the batch does not divide by the number of shards.
    """
    spec = batch_layout(mesh) if spec is None else spec
    _check_divides(batch, mesh, spec)
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda x: _put(x, sharding, is_slice=True), batch)


def _leading_axes(spec: P) -> tuple[str, ...]:
    """Mesh axes over which a spec shards the leading array axis."""
    return axes_of(spec[0]) if len(spec) else ()


def _check_divides(batch: Any, mesh: Mesh, spec: P) -> None:
    num_shards = math.prod(mesh.shape[a] for a in _leading_axes(spec))
    for path, x in jax.tree_util.tree_leaves_with_path(batch):
        shape = np.shape(x)
        if not shape:
            raise ValueError(
                f"batch leaf {jax.tree_util.keystr(path)!r} is a scalar; every leaf of a batch "
                "needs a leading batch axis; pass numbers shared by all examples as extra "
                "arguments."
            )
        is_global = isinstance(x, jax.Array) and not x.is_fully_addressable
        size = shape[0] * (1 if is_global else jax.process_count())
        if size % num_shards:
            raise ValueError(
                f"a batch of {size} does not divide over {num_shards} devices (leaf "
                f"{jax.tree_util.keystr(path)!r}); choose a batch size that is a multiple of "
                f"{num_shards}."
            )


def _report(metrics: Any, outputs: Any) -> Any:
    """A tree with the two branches of `StepOutput`, holding one spec each."""
    return StepOutput(metrics, outputs)


def compile_update(
    update: Callable[..., tuple[Any, StepOutput]],
    *,
    mode: Mode,
    mesh: Mesh,
    state_spec: Any = REPLICATED,
    batch_spec: P | None = None,
    donate: bool = True,
) -> Callable[..., tuple[Any, StepOutput]]:
    """Compiles an update for a mesh; all modes take and return the same arrays.

    In `pmap` and `shard_map` mode `update` sees one shard of the batch and must have been built
    with `axis_name="data"`; in `jit` mode it sees the global batch and `axis_name=None`. All shapes
    below are global. On several processes host values in the batch are this process's slice, host
    values elsewhere are equal on all processes, and results are global arrays.

    Args:
      update: `(state, batch, *replicated) -> (state, StepOutput)`.
      mode: `"jit"`, `"pmap"` or `"shard_map"` (checked).
      mesh: has the axis of `batch_spec`; `pmap` needs a mesh with no other axis, and an axis
        `"fsdp"` is for `"jit"`.
      state_spec: partition spec of the state, or a prefix tree of them; only `P()` outside `jit`.
      batch_spec: partition spec of every batch leaf; default `batch_layout(mesh)`.
      donate: whether the buffers of `state` are reused for the result; the caller must then not
        touch the state it passed in.

    Returns:
      `step(state, batch, *replicated) -> (state, StepOutput)`. Metrics are replicated; outputs are
      sharded like the batch and in batch order.

    Raises:
      ValueError: unknown mode, a mesh or spec that the mode cannot use, or (when called) a batch
        that does not divide by the number of devices.
    """
    if mode not in MODES:
        raise ValueError(f"unknown execution mode {mode!r}; choose one of {', '.join(MODES)}.")
    batch_spec = batch_layout(mesh) if batch_spec is None else batch_spec
    if mode != "jit" and FSDP_AXIS in mesh.shape:
        raise ValueError(
            f"mode {mode!r} keeps the state replicated but the mesh has an axis {FSDP_AXIS!r}; use "
            "mode 'jit' for a sharded state."
        )
    axes = _leading_axes(batch_spec)
    missing = [a for a in axes if a not in mesh.shape]
    if missing:
        raise ValueError(
            f"the batch is sharded over axis {missing[0]!r} but the mesh has axes "
            f"{tuple(mesh.shape)}; add {missing[0]!r} to the mesh."
        )
    if mode != "jit" and state_spec != P():
        raise ValueError(
            f"mode {mode!r} keeps the state replicated but state_spec is {state_spec}; use mode "
            "'jit' for a sharded state."
        )
    if mode == "pmap" and (len(axes) != 1 or tuple(mesh.shape) != axes):
        raise ValueError(
            f"mode 'pmap' needs a mesh with one axis, which shards the batch, but the mesh has "
            f"axes {tuple(mesh.shape)} and the batch uses {axes}; use mode 'jit' or 'shard_map'."
        )

    run: Callable[..., tuple[Any, StepOutput]]
    if mode == "pmap":
        run = _pmapped(_packed(update), mesh, batch_spec, donate)
    elif mode == "shard_map":
        mapped = jax.shard_map(
            _packed(update),
            mesh=mesh,
            in_specs=(P(), batch_spec, P()),
            out_specs=(P(), _report(P(), batch_spec)),
        )
        run = jit_update(
            lambda state, batch, *replicated: mapped(state, batch, replicated),
            mesh,
            batch_spec=batch_spec,
            donate=donate,
        )
    else:
        run = jit_update(update, mesh, state_spec, batch_spec=batch_spec, donate=donate)

    def step(state: Any, batch: Any, *replicated: Any) -> tuple[Any, StepOutput]:
        batch = place_batch(batch, mesh, batch_spec)
        return run(place(state, mesh, state_spec), batch, place(replicated, mesh))

    return step


def _packed(update: Callable[..., tuple[Any, StepOutput]]) -> Callable[..., Any]:
    return lambda state, batch, replicated: update(state, batch, *replicated)


def jit_update(
    update: Callable[..., tuple[Any, StepOutput]],
    mesh: Mesh,
    state_spec: Any = REPLICATED,
    *,
    batch_spec: P | None = None,
    donate: bool = True,
) -> Any:
    """The jitted `(state, batch, replicated) -> (state, StepOutput)` inside `compile_update`.

    `replicated` is a tuple. The function can be traced, lowered and compiled for a mesh whose
    devices do not exist. Arguments as in `compile_update`.
    """
    batch_spec = batch_layout(mesh) if batch_spec is None else batch_spec
    sharding = lambda spec: NamedSharding(mesh, spec)
    state_sharding = jax.tree.map(sharding, state_spec, is_leaf=is_spec)

    def on_mesh(state: Any, batch: Any, replicated: tuple[Any, ...]) -> tuple[Any, StepOutput]:
        named = mesh.abstract_mesh if FSDP_AXIS in mesh.shape else None
        with jax.sharding.use_abstract_mesh(named) if named else contextlib.nullcontext():
            return update(state, batch, *replicated)

    return jax.jit(
        on_mesh,
        in_shardings=(state_sharding, sharding(batch_spec), sharding(P())),
        out_shardings=(state_sharding, _report(sharding(P()), sharding(batch_spec))),
        donate_argnums=(0,) if donate else (),
    )


def _pmapped(
    update: Callable[..., tuple[Any, StepOutput]], mesh: Mesh, batch_spec: P, donate: bool
) -> Callable[..., tuple[Any, StepOutput]]:
    """`update(state, batch, replicated)` under pmap, on and to global arrays."""
    num_local = mesh.local_mesh.size
    per_device = lambda x: x.reshape(num_local, -1, *x.shape[1:])
    flat = lambda x: x.reshape(-1, *x.shape[2:])

    # The last argument gives pmap an axis to map when the batch has no leaves.
    mapped = jax.pmap(
        lambda state, batch, replicated, _: update(state, batch, replicated),
        axis_name=_leading_axes(batch_spec)[0],
        in_axes=(None, 0, None, 0),
        out_axes=(None, _report(None, 0)),
        devices=list(mesh.devices.flat),
        donate_argnums=(0,) if donate else (),
    )

    def run(state: Any, batch: Any, replicated: tuple[Any, ...]) -> tuple[Any, StepOutput]:
        if jax.process_count() > 1:
            batch = multihost_utils.global_array_to_host_local_array(batch, mesh, batch_spec)
        batch = jax.tree.map(per_device, batch)
        state, out = mapped(state, batch, replicated, np.zeros(num_local, np.int8))
        out = out._replace(outputs=jax.tree.map(flat, out.outputs))
        if jax.process_count() > 1:
            specs = (P(), _report(P(), batch_spec))
            return multihost_utils.host_local_array_to_global_array((state, out), mesh, specs)
        return state, out

    return run
