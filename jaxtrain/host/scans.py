"""Trainings on arrays in memory that a run needs on its way: they save and resume like any run.

`trained` runs the updates of `jaxtrain.core.on_arrays`, `saving` the steps of any function that
takes a `jaxtrain.protocol.Scan`. Both go in windows, so that a signal or a crash costs at most one.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from jaxtrain.core import Core, random_rows, row_update
from jaxtrain.host.checkpoint import CheckpointError, Checkpoints
from jaxtrain.host.config import UsageError
from jaxtrain.host.loop import Preempted
from jaxtrain.host.signals import stop_signals
from jaxtrain.protocol import Scan

WINDOW = 100  # updates between two looks at signals and clock
SECONDS = 60.0  # at least so many between two checkpoints; the last update is always saved
Means = dict[str, float]


def trained(
    core: Core,
    init: Callable[..., Any],
    given: tuple[Any, ...],
    arrays: Any,
    key: jax.Array,
    *,
    name: str,
    folder: Path | None,
    num_steps: int,
    batch_size: int,
    prepare: Callable[[Any], Any] = lambda batch: batch,
    draw: Callable[[jax.Array, int, int], tuple[jax.Array, jax.Array]] = random_rows,
) -> tuple[Any, Means]:
    """Trains, or goes on where an earlier start of the run stopped.

    Args:
      core: any core.
      init: makes the state; compiled here.
      given: arguments of `init`.
      arrays: tree of arrays `[N, ...]`.
      key: of the draws and of the updates.
      name: what is trained, for messages.
      folder: where its checkpoints go; None for none.
      num_steps, batch_size, prepare, draw: as for `on_arrays`.

    Returns:
      The final state, and the means of the metrics over the last updates (at most `WINDOW`).

    Raises:
      FloatingPointError: a metric is not finite.
      Preempted: a signal asked to stop; the updates until then are saved.
      UsageError: the checkpoints there cannot be used.
    """
    options: Any = dict(batch_size=batch_size, prepare=prepare, draw=draw)
    arrays = jax.tree.map(jnp.asarray, arrays)

    @jax.jit
    def window(state: Any, arrays: Any, key: jax.Array, start: jax.Array, stop: jax.Array) -> Any:
        update = row_update(core, arrays, key, **options)
        sums = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(update, state, start)[1]
        )

        def body(i: jax.Array, carry: Any) -> Any:
            state, sums = carry
            state, metrics = update(state, i)
            return state, jax.tree.map(jnp.add, sums, metrics)

        return jax.lax.fori_loop(start, stop, body, (state, sums))

    def advance(state: Any, start: int, stop: int) -> tuple[Any, Means]:
        state, sums = window(state, arrays, key, np.int32(start), np.int32(stop))
        means = {k: float(x) / (stop - start) for k, x in jax.device_get(sums).items()}
        if wrong := [k for k, mean in means.items() if not np.isfinite(mean)]:
            raise FloatingPointError(
                f"{name}: metric {wrong[0]!r} is not finite at step {stop}; try a lower learning "
                "rate"
            )
        return state, means

    return _in_windows(advance, jax.jit(init)(*given), num_steps, WINDOW, name, folder)


def saving(name: str, folder: Path | None, *, window: int = WINDOW) -> Scan:
    """A scan in windows whose carry and outputs are saved, for functions that take a `Scan`.

    The steps, and so the results, are those of `jax.lax.scan`. What the body closes over is an
    argument of the compiled windows. It is run on the host and cannot be compiled.

    Args:
      name: what is trained, for messages.
      folder: where its checkpoints go, of this function alone; None for none.
      window: steps between two looks at signals and clock.

    Raises:
      FloatingPointError: (when called) a number of the carry or of the outputs is NaN.
      Preempted, UsageError: (when called) as `trained`.
    """

    def scan(body: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any) -> tuple[Any, Any]:
        init, xs = jax.tree.map(jnp.asarray, (init, xs))
        number = len(jax.tree.leaves(xs)[0])
        first = jax.tree.map(lambda x: x[0], xs)
        closed, shapes = jax.make_jaxpr(body, return_shape=True)(init, first)

        @jax.jit
        def run(state: Any, xs: Any, consts: Any, start: jax.Array, stop: jax.Array) -> Any:
            step = jax.extend.core.jaxpr_as_fun(closed.replace(consts=consts))

            def one(i: jax.Array, state: Any) -> Any:
                carry, outputs = state
                leaves = step(*jax.tree.leaves((carry, jax.tree.map(lambda x: x[i], xs))))
                carry, y = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
                return carry, jax.tree.map(lambda all, y: all.at[i].set(y), outputs, y)

            state = jax.lax.fori_loop(start, stop, one, state)
            floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
            return state, sum(jnp.isnan(x).sum() for x in floats)

        def advance(state: Any, start: int, stop: int) -> tuple[Any, Means]:
            state, bad = run(state, xs, closed.consts, np.int32(start), np.int32(stop))
            if bad:
                raise FloatingPointError(
                    f"{name}: {bad} numbers are NaN at step {stop}; try a lower learning rate"
                )
            return state, {}

        outputs = jax.tree.map(lambda y: jnp.zeros((number, *y.shape), y.dtype), shapes[1])
        return _in_windows(advance, (init, outputs), number, window, name, folder)[0]

    return scan


def _in_windows(
    advance: Callable[[Any, int, int], tuple[Any, Means]],
    state: Any,
    num_steps: int,
    window: int,
    name: str,
    folder: Path | None,
) -> tuple[Any, Means]:
    """The state after `num_steps` updates from what was saved, and the means of the last window."""
    step, means = 0, {}
    saves = None if folder is None else Checkpoints(folder, every=1, keep=1)
    if saves is not None:
        try:
            state, step, meta = saves.restore_or(state)
        except CheckpointError as error:
            raise UsageError(str(error)) from error
        means = meta.get("metrics", {})
    with stop_signals() as caught:
        saved = time.monotonic()
        while step < num_steps and not caught:
            stop = min(step + window, num_steps)
            state, means = advance(state, step, stop)
            step = stop
            due = step == num_steps or caught or time.monotonic() - saved >= SECONDS
            if saves is not None and due:
                saves.maybe_save(step, state, {"metrics": means}, {}, force=True)
                saved = time.monotonic()
        if saves is not None:
            saves.wait()
        if caught:
            raise Preempted(step, saves is not None, name)
    return state, means
