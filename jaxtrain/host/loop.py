"""The training loop: windows of steps, one line of metrics per window, checkpoints, signals.

Step n means "n updates done". Everything random at update i comes from `fold_in(key, i)`, the
batch is a function of i, and the state holds the rest, so a run continued from a checkpoint
computes the same bits. The order at the end of a window makes the log agree with that: metrics,
evaluation, flush to disk, and only then the checkpoint of the same step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtrain.core import Core, HostCore
from jaxtrain.host import checks
from jaxtrain.host.advance import Rows, batches_on_host, generated, hosted, piped
from jaxtrain.host.checkpoint import Checkpoints
from jaxtrain.host.clock import Clock
from jaxtrain.host.config import UsageError
from jaxtrain.host.data import Generated, Pipeline, prefetch
from jaxtrain.host.metrics import Writer
from jaxtrain.host.signals import stop_signals
from jaxtrain.parallel import Execution, place, place_batch

Evaluate = Callable[[Any, int, jax.Array], Mapping[str, Any]]
Bracket = Callable[[int, int], contextlib.AbstractContextManager[Any]]
Check = Callable[[Mapping[str, np.ndarray]], None]
# Metrics that are means over events which an update may lack -> the metric with their number.
COUNTED = {"episode_return": "num_episodes"}
# How metrics begin of which a line has not the mean of its updates but the largest.
LARGEST = "largest_mismatch"


class Preempted(Exception):
    """The process was asked to stop and did so after a complete window.

    Args:
      step: updates done.
      saved: whether there is a checkpoint of them.
      of: what was being trained, where a run trains several things.
    """

    def __init__(self, step: int, saved: bool, of: str = "") -> None:
        where = f"step {step}" + (f" of {of}" if of else "")
        super().__init__(where + ("" if saved else ", without a checkpoint"))
        self.step = step


def train(
    core: Core | HostCore,
    state: Any,
    *,
    data: Generated | Pipeline | None,
    key: jax.Array,
    num_steps: int,
    log_every: int,
    execution: Execution,
    checkpoints: Checkpoints | None = None,
    writer: Writer | None = None,
    evaluate: Evaluate | None = None,
    eval_every: int = 0,
    start: int = 0,
    meta: Mapping[str, Any] | None = None,
    bracket: Bracket | None = None,
    check: Check | None = None,
) -> tuple[Any, int]:
    """Runs updates `start` to `num_steps`.

    Args:
      core: what to run; a `Core` is built with `axis_name="data"` for the modes pmap and shard_map.
      state: from `core.init` or a checkpoint. It is donated: use the returned one afterwards.
        Leaves already sharded over the mesh stay so, all others are replicated.
      data: made on the device or read on the host; a `HostCore` may go without, its batch is `()`.
      key: typed key of the run; folded with 0 for updates, 1 for data, 2 for evaluation.
      num_steps: total number of updates, those before `start` included.
      log_every: steps per window. Its metrics are averaged (in float64) into one line, those of
        `COUNTED` over their events; without any they are missing (`null`), never 0 or an old value.
        Of those that begin with `LARGEST` the line has the largest.
      execution: mode and mesh.
      checkpoints: where to save; the last step is always saved.
      writer: where metrics go.
      evaluate: `(state, step, key) -> numbers`, called by every process at multiples of
        `eval_every`; written as a line of its own with the prefix `eval/`.
      eval_every: steps between evaluations, 0 for none.
      start: step the state is at.
      meta: JSON-able dict saved with every checkpoint, `elapsed_seconds` and the number of lines of
        metrics (`metrics_lines`) brought up to date.
      bracket: `bracket(start, stop)` is entered around the steps of every window, to profile them.
      check: called with the metrics of every window, `[steps, ...]` each, after they are written
        and before anything is saved; stops the run by a RuntimeError that says why in a sentence.

    Returns:
      The final state and its step.

    Raises:
      ValueError: impossible lengths, a batch the devices cannot share equally, or a `HostCore`
        that changes the structure, a shape or a dtype of its state.
      UsageError: `check` stopped the run.
      FloatingPointError: a metric (of every trial, if there are several) is not finite, or the
        state holds NaN.
      Preempted: SIGTERM, SIGINT or SIGHUP came; the window was finished and saved, or not begun if
        its first batch was still waited for. A second signal acts as if nothing had been installed.
    """
    checks.check_lengths(num_steps, log_every, eval_every, checkpoints)
    mesh = execution.mesh
    specs = jax.tree.map(lambda x: _spec(x, mesh), state)
    if all(spec == P() for spec in jax.tree.leaves(specs)):
        specs = P()
    state = place(jax.tree.map(lambda x: _as_update_returns(x, mesh), state), mesh, specs)
    meta = dict(meta or {})
    clock = Clock(meta.get("elapsed_seconds", 0.0))
    step = start
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(stop_signals())
        key_run = place(key, mesh)
        window: list[Any] = []  # metrics of the window under way
        # One process alone may stop while it waits; several stop together, after a whole window.
        alone = jax.process_count() == 1
        give_up = lambda: alone and bool(signals) and not window
        if isinstance(core, HostCore):
            batches = batches_on_host(data, key_run, start, num_steps, give_up)
            stack.enter_context(contextlib.closing(batches))
            advance = hosted(core, batches, window, key_run, state, execution, specs)
        elif isinstance(data, Generated):
            advance = generated(core, data, key_run, log_every, execution, specs, clock)
        elif data is None:
            raise ValueError("a Core needs data; only a HostCore may go without.")
        else:
            on_mesh = lambda batch: place_batch(batch, mesh)
            batches = prefetch(data, start, num_steps, place=on_mesh, give_up=give_up)
            stack.enter_context(contextlib.closing(batches))
            advance = piped(core, batches, window, key_run, execution, specs, clock)

        def save(step: int, rows: Rows, numbers: Mapping[str, Any]) -> None:
            if checkpoints is not None:
                checks.check_state(rows, state, step)
                if writer is not None:
                    writer.flush()
                    meta["metrics_lines"] = writer.lines
                meta["elapsed_seconds"] = clock.elapsed()
                checkpoints.maybe_save(step, state, meta, numbers, force=True)

        while step < num_steps:
            begin, step = step, min((step // log_every + 1) * log_every, num_steps)
            with bracket(begin, step) if bracket else contextlib.nullcontext():
                with clock.training(step - begin):
                    state, rows = advance(state, begin, step)
            if rows is None:
                if begin > start:
                    save(begin, {}, {})
                if checkpoints is not None:
                    checkpoints.wait()
                raise Preempted(begin, saved=checkpoints is not None)
            checks.check_metrics(rows, state, begin)
            numbers = _averaged(rows)
            if writer is not None:
                evaluations = num_steps // eval_every - begin // eval_every if eval_every else 0
                left = clock.remaining(num_steps - step, evaluations)
                writer.write(step, numbers)
                writer.progress(step, num_steps, numbers, clock.speed, left)
                writer.timing(step, clock.numbers())
            if check is not None:
                try:
                    check(rows)
                except RuntimeError as error:
                    raise UsageError(f"stopped after update {step}: {error}") from error
            if evaluate is not None and eval_every and step % eval_every == 0:
                key_eval = place(jax.random.fold_in(jax.random.fold_in(key, 2), step), mesh)
                with clock.evaluating():
                    found = jax.device_get(evaluate(state, step, key_eval))
                found = {f"eval/{name}": value for name, value in found.items()}
                numbers |= found
                if writer is not None:
                    writer.write(step, found)
            stopping = _any_process(bool(signals)) and step < num_steps
            if checkpoints is not None:
                if step % checkpoints.every == 0 or step == num_steps or stopping:
                    save(step, rows, numbers)
                if stopping or step == num_steps:
                    checkpoints.wait()
            if stopping:
                raise Preempted(step, saved=checkpoints is not None)
    return state, step


def _averaged(rows: Rows) -> dict[str, Any]:
    """Means over the steps of a window."""
    numbers: dict[str, Any] = {k: np.mean(v, axis=0, dtype=float) for k, v in rows.items()}
    for name, number in COUNTED.items():
        if {name, number} <= rows.keys():
            total = np.sum(rows[name] * rows[number], axis=0, dtype=float)
            with np.errstate(invalid="ignore"):  # 0 / 0 is missing
                numbers[name] = total / np.sum(rows[number], axis=0, dtype=float)
    for name in rows:
        if name.startswith(LARGEST):
            numbers[name] = np.max(rows[name], axis=0).astype(float)
    return numbers


def _spec(x: jax.Array, mesh: Mesh) -> P:
    sharding = getattr(x, "sharding", None)
    if isinstance(sharding, NamedSharding) and sharding.mesh == mesh:
        spec = list(sharding.spec)
        while spec and spec[-1] is None:  # P(None) is P() said another way
            spec.pop()
        return P(*spec)
    return P()


def _as_update_returns(x: jax.Array, mesh: Mesh) -> jax.Array:
    """Without the differences to a later state (weak type, kind of sharding) that make JAX trace
    the update again."""
    if getattr(x, "weak_type", False):
        x = jax.lax.convert_element_type(x, x.dtype)
    if jax.process_count() == 1:
        x = jax.device_put(x, NamedSharding(mesh, _spec(x, mesh)))
    return x


def _any_process(flag: bool) -> bool:
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
