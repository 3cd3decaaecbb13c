"""The training loop: compiled chunks, one line of metrics per window, checkpoints, signals.

Step n means "n updates done". Everything random at update i comes from `fold_in(key, i)`, the
batch is a function of i, and the state holds the rest, so a run continued from a checkpoint
computes the same bits. The order at the end of a window makes the log agree with that: metrics,
evaluation, flush to disk, and only then the checkpoint of the same step.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtrain.core import Core, StepOutput
from jaxtrain.host import leaves
from jaxtrain.host.checkpoint import Checkpoints
from jaxtrain.host.data import Generated, Pipeline, prefetch
from jaxtrain.host.metrics import Writer
from jaxtrain.parallel import DATA_AXIS, Execution, compile_update, place, place_batch

Rows = dict[str, np.ndarray]  # metrics of a window, [steps, ...]
# (state, start, stop) -> (state, rows); no rows when a signal came before the first step.
Advance = Callable[[Any, int, int], tuple[Any, Rows | None]]
Evaluate = Callable[[Any, int, jax.Array], Mapping[str, Any]]
Bracket = Callable[[int, int], contextlib.AbstractContextManager[Any]]


class Preempted(Exception):
    """The process was asked to stop and did so after a complete window; `step` updates are done."""

    def __init__(self, step: int, saved: bool) -> None:
        super().__init__(f"step {step}" + ("" if saved else ", without a checkpoint"))
        self.step = step


def train(
    core: Core,
    state: Any,
    *,
    data: Generated | Pipeline,
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
) -> tuple[Any, int]:
    """Runs updates `start` to `num_steps`.

    Args:
      core: what to run; built with `axis_name="data"` for the modes pmap and shard_map.
      state: from `core.init` or a checkpoint. It is donated: use the returned one afterwards.
        Leaves already sharded over the mesh stay so, all others are replicated.
      data: made on the device or read on the host.
      key: typed key of the run; folded with 0 for updates, 1 for data, 2 for evaluation.
      num_steps: total number of updates, those before `start` included.
      log_every: steps per window. Its metrics are averaged (in float64) into one line.
      execution: mode and mesh.
      checkpoints: where to save; the last step is always saved.
      writer: where metrics go.
      evaluate: `(state, step, key) -> numbers`, called by every process at multiples of
        `eval_every`; written as a line of its own with the prefix `eval/`.
      eval_every: steps between evaluations, 0 for none.
      start: step the state is at.
      meta: JSON-able dict saved with every checkpoint, `elapsed_seconds` brought up to date.
      bracket: `bracket(start, stop)` is entered around the steps of every window, to profile them.

    Returns:
      The final state and its step.

    Raises:
      ValueError: impossible lengths, or a batch the devices cannot share equally.
      FloatingPointError: a metric (of every trial, if there are several) is not finite, or the
        state holds NaN.
      Preempted: SIGTERM or SIGINT came; the window was finished and saved, or not begun if its
        first batch was still waited for. A second signal acts as if nothing had been installed.
    """
    _check_lengths(num_steps, log_every, eval_every, checkpoints)
    mesh = execution.mesh
    specs = jax.tree.map(lambda x: _spec(x, mesh), state)
    if all(spec == P() for spec in jax.tree.leaves(specs)):
        specs = P()
    state = place(jax.tree.map(lambda x: _as_update_returns(x, mesh), state), mesh, specs)
    meta = dict(meta or {})
    clock = _Clock(meta.get("elapsed_seconds", 0.0))
    step = start
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(_stop_signals())
        if isinstance(data, Generated):
            advance = _generated(core, data, place(key, mesh), log_every, execution, specs, clock)
        else:
            window: list[Any] = []
            # One process alone may stop here; several stop together, after a whole window.
            alone = jax.process_count() == 1
            batches = prefetch(
                data,
                start,
                num_steps,
                place=lambda batch: place_batch(batch, mesh),
                give_up=lambda: alone and bool(signals) and not window,
            )
            stack.enter_context(contextlib.closing(batches))
            advance = _piped(core, batches, window, place(key, mesh), execution, specs, clock)

        def save(step: int, rows: Rows, numbers: Mapping[str, Any]) -> None:
            if checkpoints is not None:
                _check_state(rows, state, step)
                if writer is not None:
                    writer.flush()
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
            _check_metrics(rows, state, begin)
            numbers: dict[str, Any] = {k: np.mean(v, axis=0, dtype=float) for k, v in rows.items()}
            if writer is not None:
                evaluations = num_steps // eval_every - begin // eval_every if eval_every else 0
                left = clock.remaining(num_steps - step, evaluations)
                writer.write(step, numbers)
                writer.progress(step, num_steps, numbers, clock.speed, left)
                writer.timing(step, clock.numbers())
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


def _generated(
    core: Core,
    data: Generated,
    key: jax.Array,
    log_every: int,
    execution: Execution,
    specs: Any,
    clock: _Clock,
) -> Advance:
    """One program for any number of steps: the bounds of its loop are arguments."""

    @jax.jit
    def one(state: Any, index: jax.Array, key: jax.Array, i: jax.Array) -> Any:
        key_update, key_data = (jax.random.fold_in(jax.random.fold_in(key, n), i) for n in (0, 1))
        state, output = core.update(state, data.sample(key_data, index), key_update)
        return state, output.metrics

    def chunk(
        state: Any, index: jax.Array, key: jax.Array, start: jax.Array, stop: jax.Array
    ) -> tuple[Any, StepOutput]:
        def body(i: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            state, buffers = carry
            state, metrics = one(state, index, key, i)
            return state, jax.tree.map(lambda b, m: b.at[i - start].set(m), buffers, metrics)

        _, shapes = jax.eval_shape(one, state, index, key, start)
        buffers = jax.tree.map(lambda m: jnp.zeros((log_every, *m.shape), m.dtype), shapes)
        state, buffers = jax.lax.fori_loop(start, stop, body, (state, buffers))
        return state, StepOutput(buffers)

    program = compile_update(chunk, **execution._asdict(), state_spec=specs)
    devices = execution.mesh.shape[DATA_AXIS]
    if data.batch_size % devices:
        raise ValueError(
            f"a batch of {data.batch_size} does not divide over {devices} devices; choose a batch "
            f"size that is a multiple of {devices}."
        )
    index = place(np.arange(data.batch_size, dtype=np.int32), execution.mesh, P(DATA_AXIS))

    def advance(state: Any, start: int, stop: int) -> tuple[Any, Rows]:
        if not clock.compile_seconds:
            with clock.compiling():  # no steps: changes nothing
                state, _ = program(state, index, key, np.int32(start), np.int32(start))
                jax.block_until_ready(state)
        state, output = program(state, index, key, np.int32(start), np.int32(stop))
        rows = jax.device_get(output.metrics)
        return state, {name: value[: stop - start] for name, value in rows.items()}

    return advance


def _piped(
    core: Core,
    batches: Iterator[tuple[int, Any]],
    window: list[Any],
    key: jax.Array,
    execution: Execution,
    specs: Any,
    clock: _Clock,
) -> Advance:
    """One program per batch, dispatched ahead of the device; metrics are fetched once a window.

    `window` holds the metrics of the window under way.
    """

    def update(state: Any, batch: Any, key: jax.Array, i: jax.Array) -> tuple[Any, StepOutput]:
        key_update = jax.random.fold_in(jax.random.fold_in(key, 0), i)
        state, output = core.update(state, batch, key_update)
        return state, StepOutput(output.metrics)

    program = compile_update(update, **execution._asdict(), state_spec=specs)
    seen: set[tuple[tuple[int, ...], ...]] = set()  # one program per size of batch

    def advance(state: Any, start: int, stop: int) -> tuple[Any, Rows | None]:
        window.clear()
        for i, batch in itertools.islice(batches, stop - start):
            shapes = tuple(x.shape for x in jax.tree.leaves(batch))
            with contextlib.nullcontext() if shapes in seen else clock.compiling():
                state, output = program(state, batch, key, np.int32(i))
            seen.add(shapes)
            window.append(output.metrics)
        if not window:
            return state, None
        return state, jax.tree.map(lambda *steps: np.stack(steps), *jax.device_get(window))

    return advance


def _check_lengths(
    num_steps: int, log_every: int, eval_every: int, checkpoints: Checkpoints | None
) -> None:
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


def _check_metrics(rows: Mapping[str, np.ndarray], state: Any, begin: int) -> None:
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


def _check_state(rows: Mapping[str, np.ndarray], state: Any, step: int) -> None:
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


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects the first SIGTERM or SIGINT instead of dying of it."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    previous = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def catch(number: int, frame: object) -> None:
        caught.append(number)
        restore()

    for number in previous:
        signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore()


class _Clock:
    """Seconds spent training, evaluating and compiling; compilation is not part of the speed."""

    def __init__(self, elapsed_before: float) -> None:
        self.compile_seconds = self.speed = 0.0
        self._origin = time.perf_counter() - elapsed_before
        self._train_seconds = self._window_seconds = 0.0
        self._steps = 0
        self._eval_seconds: float | None = None

    def elapsed(self) -> float:
        """Seconds since the run began, earlier processes included."""
        return time.perf_counter() - self._origin

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Around the first call of a program, which returns when it is compiled and started."""
        began = time.perf_counter()
        yield
        self.compile_seconds += time.perf_counter() - began

    @contextlib.contextmanager
    def training(self, steps: int) -> Iterator[None]:
        began = time.perf_counter() - self.compile_seconds
        yield
        self._window_seconds = time.perf_counter() - self.compile_seconds - began
        self._steps += steps
        self._train_seconds += self._window_seconds
        self.speed = steps / self._window_seconds

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began  # the least of all: the first one compiles
        self._eval_seconds = min(self._eval_seconds or seconds, seconds)

    def remaining(self, steps: int, evaluations: int) -> float:
        """Seconds left; evaluations count as soon as one has been timed."""
        per_step = self._train_seconds / self._steps
        return steps * per_step + evaluations * (self._eval_seconds or 0.0)

    def numbers(self) -> dict[str, float]:
        return {
            "seconds": self._window_seconds,
            "steps_per_second": self.speed,
            "compile_seconds": self.compile_seconds,
            "elapsed_seconds": self.elapsed(),
        }
