"""Checkpoints: asynchronous, atomic, verified when they are read. The only file that imports Orbax.

A checkpoint is the folder `<directory>/<step>`; step n means that n updates are done. It appears by
one rename once everything is on disk, so a run killed while saving leaves only a folder with a
temporary name, which nobody reads. Each checkpoint holds two items:

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
import math
import os
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from jaxtrain.host import leaves
from jaxtrain.host.metrics import finite_mean

logger = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used or written; the message is one sentence."""


class Restored(NamedTuple):
    """What was read from a checkpoint: the tree, its step, and the metadata saved with it."""

    tree: Any
    step: int
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Reading changes nothing on disk. The first save removes what a killed process left half done
    and sets aside (renames, never deletes) damaged checkpoints that `restore_or` had to skip.

    Args:
      directory: folder that holds one folder per step.
      every: save when the step is a multiple of this.
      keep: how many of the newest checkpoints to keep.
      keep_best: a metric whose best checkpoint is kept as well, for example `"eval/accuracy"`
        (highest) or `"-loss"` (lowest). With one value per trial, the mean of the finite ones.

    Raises:
      ValueError: `every` or `keep` is not positive.
    """

    def __init__(
        self, directory: str | Path, *, every: int, keep: int = 3, keep_best: str | None = None
    ) -> None:
        for name, value in (("every", every), ("keep", keep)):
            if value < 1:
                raise ValueError(f"checkpoint.{name} is {value}; give a whole number of 1 or more.")
        self.directory = Path(directory).absolute()
        self.every, self.keep, self.keep_best = every, keep, keep_best
        self._skipped: list[Path] = []
        self._values: dict[int, float | None] = {}
        self._pending: tuple[int, Any] | None = None
        self._last: int | None = None
        self._prepared = False

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exc: object) -> None:
        self.wait()

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, damaged ones included, oldest first."""
        return _steps(self.directory)

    def restore_or(
        self, state: Any, meta_check: Callable[[dict[str, Any]], None] | None = None
    ) -> Restored:
        """Reads the newest good checkpoint, or returns the given state at step 0.

        Args:
          state: the freshly made state, or its `ShapeDtypeStruct`s with shardings; says which
            leaves, shapes, dtypes and shardings are expected.
          meta_check: called with the metadata of a checkpoint before its arrays are read; raises
            to refuse the whole resume (a changed configuration, for example).

        Returns:
          `(state, step, meta)`, the state placed like the given one whatever number of devices
          wrote it.

        Raises:
          CheckpointError: there are checkpoints but none is usable; nothing has been deleted.
        """
        restored, self._skipped = _newest(self.directory, state, meta_check=meta_check)
        if restored is None:
            return Restored(state, 0, {})
        self._last = restored.step
        return restored

    def maybe_save(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, Any],
        force: bool = False,
    ) -> bool:
        """Starts saving if the step is due; every process calls it.

        Returns as soon as the arrays are copied, so the state may be donated afterwards. A save
        still under way is waited for first.

        Args:
          step: number of updates done.
          state: tree of arrays.
          meta: anything that JSON can hold.
          metrics: numbers of this step, for `keep_best`.
          force: save although the step is not due (the last step, or before a preemption).

        Returns:
          Whether a save was started.

        Raises:
          CheckpointError: the step exists already, or the previous save failed.
          ValueError: `keep_best` is not among the metrics of a step that was due.
        """
        due = step % self.every == 0
        if step == self._last or not (due or force):
            return False
        self.wait()
        path = self.directory / str(step)
        value = self._value(step, metrics, required=due)
        if not self._prepared:
            self._prepare()
        if jax.process_index() == 0 and path.exists():
            raise CheckpointError(
                f"{path} exists already; restore from {self.directory} before training, "
                "or choose an empty folder."
            )
        if jax.process_count() > 1:
            state = jax.tree.map(_as_global, state)
        payload = {
            "step": step,
            "best": [self.keep_best, value],
            "leaves": leaves.describe(state, fingerprints=True),
            "meta": dict(meta),
        }
        meta_item = {"payload": payload, "crc32": _crc32(payload)}
        with _context():
            items = {"state": _without_empty(state), "meta": meta_item}
            response = ocp.save_checkpointables_async(path, items)
        self._pending, self._last, self._values[step] = (step, response), step, value
        return True

    def wait(self) -> None:
        """Waits until the last save is committed, then removes checkpoints no longer wanted.

        Raises:
          CheckpointError: the save failed; the checkpoints before it are untouched.
        """
        if self._pending is None:
            return
        (step, response), self._pending = self._pending, None
        try:
            response.result()
        except Exception as error:
            raise CheckpointError(
                f"saving checkpoint {self.directory / str(step)} failed ({_reason(error)}); "
                "older checkpoints are untouched."
            ) from error
        if jax.process_index() == 0:
            self._prune()

    def _value(self, step: int, metrics: Mapping[str, Any], required: bool) -> float | None:
        """The number `keep_best` ranks by, larger is better; None if it cannot be ranked."""
        if self.keep_best is None:
            return None
        name = self.keep_best.removeprefix("-")
        if name not in metrics:
            if not required:
                return None
            raise ValueError(
                f"checkpoint.keep_best is {self.keep_best!r}, but the metrics of step {step} are "
                f"{sorted(metrics)}; name one of them, or let every checkpoint fall on a step that "
                "is evaluated."
            )
        value = finite_mean(metrics[name])
        if math.isnan(value):
            return None
        return -value if self.keep_best.startswith("-") else value

    def _prepare(self) -> None:
        """Before the first save: learns what there is and tidies what earlier processes left."""
        self._prepared = True
        for step in self.steps() if self.keep_best is not None else []:  # by all processes at once
            with contextlib.suppress(Exception), _quiet():
                name, value = _read_meta(self.directory / str(step))["best"]
                self._values[step] = value if name == self.keep_best else None
        if jax.process_index() != 0:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.iterdir():
            if ".orbax-checkpoint-tmp" in leftover.name or leftover.name.endswith(".removing"):
                shutil.rmtree(leftover, ignore_errors=True)
        for path in self._skipped:
            number = 0
            while (target := path.with_name(f"{path.name}.damaged{number or ''}")).exists():
                number += 1
            os.replace(path, target)

    def _prune(self) -> None:
        steps = self.steps()
        kept = set(steps[-self.keep :])
        ranked = [(value, s) for s in steps if (value := self._values.get(s)) is not None]
        if ranked:
            kept.add(max(ranked)[1])
        for step in sorted(set(steps) - kept):
            doomed = self.directory / f"{step}.removing"
            os.replace(self.directory / str(step), doomed)  # never a half-deleted checkpoint
            shutil.rmtree(doomed, ignore_errors=True)


def load(path: str | Path, abstract: Any, *, field: str = "") -> Restored:
    """Reads a checkpoint, or one field of its state.

    Args:
      path: a checkpoint, a folder of checkpoints (the newest good one is taken), or a run folder
        that holds `checkpoints/`.
      abstract: expected tree of arrays or `ShapeDtypeStruct`s; its shardings are used.
      field: dotted path of the wanted part of the state, such as `"params"`; empty for all of it.

    Raises:
      CheckpointError: there is no checkpoint, or none that fits.
    """
    path = Path(path).absolute()
    if (path / "checkpoints").is_dir():
        path = path / "checkpoints"
    if path.name.isdecimal() and path.is_dir():
        return _load(path, abstract, field)
    restored, _ = _newest(path, abstract, field)
    if restored is None:
        raise CheckpointError(f"{path} holds no checkpoint; give the folder of a run or of a step.")
    return restored


def load_params(path: str | Path, abstract: Any) -> Any:
    """Reads the field `params` of a saved state; see `load`."""
    return load(path, abstract, field="params").tree


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Every leaf of one checkpoint under its path, to look at or compare; keys as their raw words.

    Raises:
      CheckpointError: the checkpoint is damaged or not ours.
    """
    path = Path(path).absolute()
    try:
        with _quiet(), _context():
            target = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_replicated()),
                ocp.metadata(path).metadata,
            )
            tree = ocp.load_checkpointables(path, {"state": target})["state"]
            _verify(tree, _read_meta(path)["leaves"])
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or not ours: {_reason(error)}.") from error
    return {
        leaves.name(key): np.asarray(jax.random.key_data(x) if leaves.is_key(x) else x)
        for key, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def _newest(
    directory: Path,
    abstract: Any,
    field: str = "",
    meta_check: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[Restored | None, list[Path]]:
    """The newest good checkpoint and the newer ones that had to be skipped."""
    skipped: dict[Path, str] = {}
    for step in reversed(_steps(directory)):
        path = directory / str(step)
        try:
            restored = _load(path, abstract, field, meta_check)
            reason = ""
        except CheckpointError as error:
            reason = str(error)
        if _all_processes(not reason):
            return restored, list(skipped)
        skipped[path] = reason or f"{path}: another process could not read it."
        logger.warning("Skipped a checkpoint. %s", skipped[path])
    if skipped:
        raise CheckpointError(
            f"no checkpoint in {directory} can be used (nothing was deleted; to start over, choose "
            f"an empty folder): {' '.join(skipped.values())}"
        )
    return None, []


def _load(
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
        with _quiet():
            payload = _read_meta(path)
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or not ours: {_reason(error)}.") from error
    if meta_check is not None:
        meta_check(payload["meta"])
    saved = {k: v for k, v in payload["leaves"].items() if k.split("/")[: len(parts)] == parts}
    if differences := leaves.differences(saved, leaves.describe(target)):
        shown = "; ".join(differences[:5])
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise CheckpointError(f"{path} holds another state: {shown}{more}.")
    try:
        with _quiet(), _context(partial=bool(parts)):
            tree = ocp.load_checkpointables(path, {"state": _without_empty(target)})["state"]
            _verify(tree, saved)
    except Exception as error:
        raise CheckpointError(f"{path} is damaged: {_reason(error)}.") from error
    tree = jax.tree.map(lambda t, x: x if t.size else jnp.zeros(t.shape, t.dtype), target, tree)
    for part in parts:
        tree = tree[part]
    return Restored(tree, payload["step"], payload["meta"])


def _read_meta(path: Path) -> dict[str, Any]:
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


def _steps(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal() and p.is_dir())


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


def _all_processes(ok: bool) -> bool:
    if jax.process_count() == 1:
        return ok
    return bool(np.all(multihost_utils.process_allgather(np.array(ok))))


def _crc32(payload: Any) -> int:
    return zlib.crc32(json.dumps(payload, sort_keys=True).encode())


def _reason(error: BaseException) -> str:
    """The innermost message of a chain of errors, one line."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    text = " ".join(str(error).split()).split(" [tensorstore_spec")[0].split("[source locations")[0]
    return f"{type(error).__name__}: {text[:300]}".rstrip(". ")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
