"""The three ways a run advances by a window of steps.

`generated`: data made on the device, a whole window in one program. `piped`: batches from the host,
a program per batch. `hosted`: an update that is Python. Update i has the key
`fold_in(fold_in(run key, 0), i)` in all of them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.core import Core, HostCore, StepOutput
from jaxtrain.host import checks, leaves
from jaxtrain.host.clock import Clock
from jaxtrain.host.data import Generated, Pipeline, prefetch
from jaxtrain.parallel import Execution, batch_layout, compile_update, num_shards, place

Rows = dict[str, np.ndarray]  # metrics of a window, [steps, ...]
# (state, start, stop) -> (state, rows); no rows when a signal came before the first step.
Advance = Callable[[Any, int, int], tuple[Any, Rows | None]]


def generated(
    core: Core,
    data: Generated,
    key: jax.Array,
    log_every: int,
    execution: Execution,
    specs: Any,
    clock: Clock,
) -> Advance:
    """One program for any number of steps: the bounds of its loop are arguments."""

    @jax.jit
    def one(state: Any, index: jax.Array, arrays: Any, key: jax.Array, i: jax.Array) -> Any:
        key_update, key_data = (jax.random.fold_in(jax.random.fold_in(key, n), i) for n in (0, 1))
        state, output = core.update(state, data.sample(key_data, index, *arrays), key_update)
        return state, output.metrics

    def chunk(
        state: Any, index: jax.Array, arrays: Any, key: jax.Array, start: jax.Array, stop: jax.Array
    ) -> tuple[Any, StepOutput]:
        def body(i: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            state, buffers = carry
            state, metrics = one(state, index, arrays, key, i)
            return state, jax.tree.map(lambda b, m: b.at[i - start].set(m), buffers, metrics)

        _, shapes = jax.eval_shape(one, state, index, arrays, key, start)
        buffers = jax.tree.map(lambda m: jnp.zeros((log_every, *m.shape), m.dtype), shapes)
        state, buffers = jax.lax.fori_loop(start, stop, body, (state, buffers))
        return state, StepOutput(buffers)

    program = compile_update(chunk, **execution._asdict(), state_spec=specs)
    devices = num_shards(execution.mesh)
    if data.batch_size % devices:
        raise ValueError(
            f"a batch of {data.batch_size} does not divide over {devices} devices; choose a batch "
            f"size that is a multiple of {devices}."
        )
    places = np.arange(data.batch_size, dtype=np.int32)
    index = place(places, execution.mesh, batch_layout(execution.mesh))
    arrays = place(data.arrays, execution.mesh)

    def advance(state: Any, start: int, stop: int) -> tuple[Any, Rows]:
        if not clock.compile_seconds:
            with clock.compiling():  # no steps: changes nothing
                state, _ = program(state, index, arrays, key, np.int32(start), np.int32(start))
                jax.block_until_ready(state)
        state, output = program(state, index, arrays, key, np.int32(start), np.int32(stop))
        rows = jax.device_get(output.metrics)
        return state, {name: value[: stop - start] for name, value in rows.items()}

    return advance


def piped(
    core: Core,
    batches: Iterator[tuple[int, Any]],
    window: list[Any],
    key: jax.Array,
    execution: Execution,
    specs: Any,
    clock: Clock,
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


def hosted(
    core: HostCore,
    batches: Iterator[tuple[int, Any]],
    window: list[Any],
    key: jax.Array,
    state: Any,
    execution: Execution,
    specs: Any,
) -> Advance:
    """One call of Python per batch; what it compiles counts as training time.

    `window` holds the metrics of the window under way. A state that comes back as NumPy arrays is
    copied, so that the core may fill the same buffers again.
    """
    if execution.mode != "jit" or jax.process_count() > 1:
        raise ValueError(
            f"a HostCore runs in one process and in mode 'jit' but here are {jax.process_count()} "
            f"in mode {execution.mode!r}; choose those, or write a Core."
        )
    kind = jax.tree.structure(state), leaves.describe(state)
    key_of = jax.jit(lambda key, i: jax.random.fold_in(jax.random.fold_in(key, 0), i))
    owned = lambda x: x if isinstance(x, jax.Array) else jnp.array(x)

    def advance(state: Any, start: int, stop: int) -> tuple[Any, Rows | None]:
        window.clear()
        for i, batch in itertools.islice(batches, stop - start):
            state, output = core.update(state, batch, key_of(key, np.int32(i)))
            checks.check_kept(*kind, state, i)
            state = place(jax.tree.map(owned, state), execution.mesh, specs)
            window.append(output.metrics)
            if window[0].keys() != output.metrics.keys():
                raise ValueError(
                    f"update {i} reports the metrics {sorted(output.metrics)} but one before it "
                    f"{sorted(window[0])}; report the same names in every update."
                )
        if not window:
            return state, None
        return state, jax.tree.map(lambda *steps: np.stack(steps), *jax.device_get(window))

    return advance


def batches_on_host(
    data: Generated | Pipeline | None,
    key: jax.Array,
    start: int,
    stop: int,
    give_up: Callable[[], bool],
) -> Generator[tuple[int, Any], None, None]:
    """`(step, batch)` for `hosted`: `()` without data, NumPy arrays as a pipeline makes them."""
    if data is None:
        return ((i, ()) for i in range(start, stop))
    if not isinstance(data, Generated):
        return prefetch(data, start, stop, give_up=give_up)
    sample, index = data.sample, jnp.arange(data.batch_size)

    @jax.jit
    def batch(key: jax.Array, i: jax.Array) -> Any:
        return sample(jax.random.fold_in(jax.random.fold_in(key, 1), i), index)

    return ((i, batch(key, np.int32(i))) for i in range(start, stop))
