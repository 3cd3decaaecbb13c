"""One checkpoint on disk, verified when it is read. The only file that imports Orbax.

A checkpoint is the folder `<directory>/<step>`. It appears by one rename once everything is on
disk, so a run killed while saving leaves only a folder with a temporary name, which nobody reads.
Each checkpoint holds two items:

  state   every leaf of the state, written by all processes
  meta    JSON: step, metrics, the caller's metadata and, per leaf, dtype, shape and a fingerprint

The fingerprint is computed where the array lives and does not depend on how it is sharded. It is
compared when the checkpoint is read, because the storage format itself notices damage in its
indices but not in every data block.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from jaxtrain.host import leaves


class CheckpointError(ValueError):
    """A checkpoint that cannot be used or written; the message is one sentence."""


class Restored(NamedTuple):
    """What was read from a checkpoint: the tree, its step, and the metadata saved with it."""

    tree: Any
    step: int
    meta: dict[str, Any]


def begin_save(
    path: Path, step: int, state: Any, meta: Mapping[str, Any], best: list[Any]
) -> Callable[[], None]:
    """Starts writing the checkpoint `path`; returns when the arrays are copied.

    Args:
      path: folder that must not exist yet.
      step: number of updates done.
      state: tree of arrays.
      meta: anything that JSON can hold.
      best: what `keep_best` ranks by, and its value here.

    Returns:
      A function that waits until it is committed and raises what went wrong.
    """
    if jax.process_count() > 1:
        state = jax.tree.map(_as_global, state)
    payload = {
        "step": step,
        "best": best,
        "leaves": leaves.describe(state, fingerprints=True),
        "meta": dict(meta),
    }
    meta_item = {"payload": payload, "crc32": _crc32(payload)}
    with _context():
        items = {"state": _without_empty(state), "meta": meta_item}
        return ocp.save_checkpointables_async(path, items).result


def read(
    path: Path,
    abstract: Any,
    field: str = "",
    meta_check: Callable[[dict[str, Any]], None] | None = None,
) -> Restored:
    """Reads and verifies one checkpoint; any fault is a `CheckpointError` naming it."""
    leaves.describe(abstract)  # raises unless all leaves are arrays
    target = jax.tree.map(_target, abstract)
    parts = field.split(".") if field else []
    for part in reversed(parts):
        target = {part: target}
    try:
        with quiet():
            payload = read_meta(path)
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or not ours: {reason(error)}.") from error
    if meta_check is not None:
        meta_check(payload["meta"])
    saved = {k: v for k, v in payload["leaves"].items() if k.split("/")[: len(parts)] == parts}
    if differences := leaves.differences(saved, leaves.describe(target)):
        shown = "; ".join(differences[:5])
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise CheckpointError(f"{path} holds another state: {shown}{more}.")
    try:
        with quiet(), _context(partial=bool(parts)):
            tree = ocp.load_checkpointables(path, {"state": _without_empty(target)})["state"]
            _verify(tree, saved)
    except Exception as error:
        raise CheckpointError(f"{path} is damaged: {reason(error)}.") from error
    tree = jax.tree.map(lambda t, x: x if t.size else jnp.zeros(t.shape, t.dtype), target, tree)
    for part in parts:
        tree = tree[part]
    return Restored(tree, payload["step"], payload["meta"])


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Every leaf of one checkpoint under its path, to look at or compare; keys as their raw words.

    Raises:
      CheckpointError: the checkpoint is damaged or not ours.
    """
    path = Path(path).absolute()
    try:
        with quiet(), _context():
            target = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_replicated()),
                ocp.metadata(path).metadata,
            )
            tree = ocp.load_checkpointables(path, {"state": target})["state"]
            _verify(tree, read_meta(path)["leaves"])
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or not ours: {reason(error)}.") from error
    return {
        leaves.name(key): np.asarray(jax.random.key_data(x) if leaves.is_key(x) else x)
        for key, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def read_meta(path: Path) -> dict[str, Any]:
    """Everything but the arrays; raises whatever is wrong with it."""
    with _context():
        item = ocp.load_checkpointables(path, {"meta": None})["meta"]
    payload = item["payload"]
    if _crc32(payload) != item["crc32"]:
        raise ValueError("its metadata has changed since it was written")
    if str(payload["step"]) != path.name:
        raise ValueError(f"it was saved as step {payload['step']}")
    return payload


def _verify(tree: Any, saved: Mapping[str, Any]) -> None:
    for name, leaf in leaves.describe(tree, fingerprints=True).items():
        if leaf != saved[name]:
            raise ValueError(f"the bytes of {name} have changed since it was written")


def _context(partial: bool = False) -> ocp.Context:
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="meta")
    context = ocp.Context()
    context.checkpointables.registry = registry
    context.pytree.loading.partial_load = partial
    return context


def _without_empty(tree: Any) -> Any:
    """Orbax refuses arrays without elements; their shape is in the metadata."""
    return jax.tree.map(lambda x: x if x.size else None, tree)


def _target(leaf: Any) -> jax.ShapeDtypeStruct:
    """What to load in place of this leaf; a single copy on every device unless it says more."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None or (jax.process_count() > 1 and sharding.is_fully_addressable):
        sharding = _replicated()
    return jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype, sharding=sharding)


def _as_global(leaf: Any) -> Any:
    """Host-local arrays (equal on all processes, as pmap returns them) as one global array."""
    if leaf.is_fully_addressable:
        return jax.device_put(leaf, _replicated())
    return leaf


def _replicated() -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.devices()), ("all",)), PartitionSpec())


def _crc32(payload: Any) -> int:
    return zlib.crc32(json.dumps(payload, sort_keys=True).encode())


def reason(error: BaseException) -> str:
    """The innermost message of a chain of errors, one line."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    text = " ".join(str(error).split()).split(" [tensorstore_spec")[0].split("[source locations")[0]
    return f"{type(error).__name__}: {text[:300]}".rstrip(". ")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what the storage layers print about a damaged checkpoint; we say it ourselves."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [each.level for each in loggers]
    hook = sys.unraisablehook
    try:
        for each in loggers:
            each.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield
            except Exception:
                sys.unraisablehook = lambda unraisable: None
                gc.collect()  # unfinished tasks complain when they are collected
                raise
    finally:
        sys.unraisablehook = hook
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
