"""What stops a run: impossible lengths, numbers that are not finite, a state of another kind."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.host import leaves
from jaxtrain.host.checkpoint import Checkpoints
from jaxtrain.host.settings import UsageError, did_you_mean


def check_lengths(
    num_steps: int, log_every: int, eval_every: int, checkpoints: Checkpoints | None
) -> None:
    """Windows must end where evaluations and checkpoints fall."""
    if num_steps < 1 or log_every < 1:
        raise ValueError(f"num_steps is {num_steps} and log_every is {log_every}; give 1 or more.")
    lengths = {"eval_every": eval_every}
    if checkpoints is not None:
        lengths["checkpoint.every"] = checkpoints.every
    for name, length in lengths.items():
        if length % log_every:
            raise ValueError(
                f"{name} is {length}, which is not a multiple of log_every = {log_every}; "
                "change one of them."
            )


def check_fits(size: int, memory: int | None = None) -> None:
    """Refuses a state that no device can hold.

    Args:
      size: bytes of it that every device is to hold.
      memory: bytes of one device; asked of the machine when None.

    Raises:
      UsageError: it takes more bytes than a device has.
    """
    memory = _memory() if memory is None else memory
    if size > memory:
        raise UsageError(
            f"the state of this run takes {size / 2**30:,.1f} GB on a device that has "
            f"{memory / 2**30:,.1f}; make the network smaller, share it with --config.mesh.fsdp=N, "
            "or sweep over fewer trials"
        )


def _memory() -> int:
    """Bytes of the first local device; without an answer those of the machine, shared equally."""
    stats = jax.local_devices()[0].memory_stats() or {}
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(stats.get("bytes_limit", whole // jax.local_device_count()))


def check_keep_best(
    name: str, metrics: Collection[str], watched: Collection[str] | None, every: tuple[int, int]
) -> None:
    """Refuses to rank checkpoints by a metric that their steps do not have.

    Args:
      name: of the metric, with `-` in front where the lowest is the best.
      metrics: what every update measures.
      watched: what the evaluations while training measure, `eval/` left out; None: not known.
      every: steps between checkpoints, and between evaluations (0 for none).

    Raises:
      UsageError: there is no such metric, or not at every checkpoint.
    """
    wanted = name.removeprefix("-")
    if wanted.startswith("eval/"):
        checkpoint, evaluation = every
        if not evaluation or checkpoint % evaluation:
            raise UsageError(
                f"checkpoint.keep_best={name!r} needs an evaluation at every checkpoint; make "
                f"checkpoint.every={checkpoint} a multiple of eval_every={evaluation}"
            )
        if watched is None:
            return
    known = [*metrics, *(f"eval/{measured}" for measured in watched or ())]
    if wanted not in known:
        raise UsageError(
            f"checkpoint.keep_best={name!r} is no metric of this run; choose among "
            f"{', '.join(sorted(known))}{did_you_mean(wanted, known)}"
        )


def check_metrics(rows: Mapping[str, np.ndarray], state: Any, begin: int) -> None:
    """Stops when a metric is not finite; a sweep goes on while one of its trials is."""
    for name, values in rows.items():
        good = np.isfinite(values.reshape(len(values), -1)).any(axis=1)
        if not good.all():
            step = begin + int(np.argmin(good)) + 1
            leaf = _first_nan(state)
            raise FloatingPointError(
                f"metric {name!r} is not finite at step {step}"
                + (f" and state leaf {leaf!r} holds NaN" if leaf else "")
                + "; earlier checkpoints are kept. Try a lower learning rate or --debug_nans."
            )


def check_state(rows: Mapping[str, np.ndarray], state: Any, step: int) -> None:
    """A state with NaN is not saved, so that the last checkpoint is a good one."""
    if all(values.ndim == 1 for values in rows.values()) and (leaf := _first_nan(state)):
        raise FloatingPointError(
            f"state leaf {leaf!r} holds NaN at step {step}; this step was not saved and earlier "
            "checkpoints are kept. Try a lower learning rate or --debug_nans."
        )


_has_nan = jax.jit(lambda x: jnp.isnan(x).any())


def _first_nan(state: Any) -> str | None:
    found = jax.tree_util.tree_leaves_with_path(state)
    floats = [(path, x) for path, x in found if jnp.issubdtype(x.dtype, jnp.inexact)]
    flags = jax.device_get([_has_nan(x) for _, x in floats])
    bad = [path for (path, _), flag in zip(floats, flags, strict=True) if flag]
    return leaves.name(bad[0]) if bad else None


def check_kept(structure: Any, described: Mapping[str, Any], state: Any, step: int) -> None:
    """Structure, shapes and dtypes of the state stay as they were; nothing else enforces it where
    no program is compiled for them."""
    found = leaves.differences(leaves.describe(state), described)
    if not found and jax.tree.structure(state) != structure:
        found = [f"its structure is {jax.tree.structure(state)} where {structure} is expected"]
    if found:
        raise ValueError(
            f"update {step} changed the kind of its state: {'; '.join(found)}. Return the same "
            "structure, shapes and dtypes."
        )
