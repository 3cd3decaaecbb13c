"""Trainings on examples in memory that a run needs on its way: they save and resume like any run.

The updates are those of `jaxtrain.core.on_arrays`, in windows, so that a signal or a crash costs at
most one of them.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.core import Core, random_rows, row_update
from jaxtrain.host.checkpoint import CheckpointError, Checkpoints
from jaxtrain.host.config import UsageError
from jaxtrain.host.loop import Preempted
from jaxtrain.host.signals import stop_signals

WINDOW = 100  # updates between two looks at signals and clock


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
    seconds: float = 60.0,
) -> tuple[Any, dict[str, float]]:
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
      seconds: at least so many between two checkpoints; the last update is always saved.

    Returns:
      The final state, and the means of the metrics over the last updates (at most `WINDOW`).

    Raises:
      FloatingPointError: a metric is not finite.
      Preempted: a signal asked to stop; the updates until then are saved.
      UsageError: the checkpoints there cannot be used.
    """
    options: Any = dict(batch_size=batch_size, prepare=prepare, draw=draw)

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

    state, step, means = jax.jit(init)(*given), 0, {}
    arrays = jax.tree.map(jnp.asarray, arrays)
    saving = None if folder is None else Checkpoints(folder, every=1, keep=1)
    if saving is not None:
        try:
            state, step, meta = saving.restore_or(state)
        except CheckpointError as error:
            raise UsageError(str(error)) from error
        means = meta.get("metrics", {})
    with stop_signals() as caught:
        saved = time.monotonic()
        while step < num_steps and not caught:
            stop = min(step + WINDOW, num_steps)
            state, sums = window(state, arrays, key, np.int32(step), np.int32(stop))
            means = {k: float(x) / (stop - step) for k, x in jax.device_get(sums).items()}
            if wrong := [k for k, mean in means.items() if not np.isfinite(mean)]:
                raise FloatingPointError(
                    f"{name}: metric {wrong[0]!r} is not finite at step {stop}; try a lower "
                    "learning rate"
                )
            step = stop
            due = step == num_steps or caught or time.monotonic() - saved >= seconds
            if saving is not None and due:
                saving.maybe_save(step, state, {"metrics": means}, {}, force=True)
                saved = time.monotonic()
        if saving is not None:
            saving.wait()
        if caught:
            raise Preempted(step, saving is not None, name)
    return state, means
