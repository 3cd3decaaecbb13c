"""The protocol of an algorithm, and ways to make cores from cores and models."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.protocol import Core as Core
from jaxtrain.protocol import HostCore as HostCore
from jaxtrain.protocol import Model as Model
from jaxtrain.protocol import StepOutput as StepOutput
from jaxtrain.schedules.applied import applied_rate


class TrainState(NamedTuple):
    """State of gradient training.

    Attributes:
      params: parameters.
      opt_state: state of the Optax optimiser.
      model_state: what the network carries besides parameters (batch statistics); `()` if nothing.
    """

    params: Any
    opt_state: Any
    model_state: Any = ()


class EmaState(NamedTuple):
    """State of `with_ema`.

    Attributes:
      state: state of the wrapped core.
      ema: running average of its parameters, same shapes and dtypes.
    """

    state: Any
    ema: Any


def _inputs(batch: Any) -> Any:
    if not isinstance(batch, dict) or "inputs" not in batch:
        given = f"the keys {sorted(batch)}" if isinstance(batch, dict) else f"a {type(batch)}"
        raise ValueError(
            f"supervised training needs a batch that is a dict with 'inputs' but got {given}; "
            "rename the network's input to 'inputs'."
        )
    return batch["inputs"]


def supervised(
    model: Model,
    loss: Callable[[Any, Any], tuple[jax.Array, dict[str, jax.Array]]],
    optimizer: optax.GradientTransformation,
    *,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """Ordinary training: one optimiser step on the mean loss of each batch.

    Args:
      model: the network.
      loss: `(outputs, batch) -> (mean loss [], named scalars [])`, of one shard under `axis_name`.
      optimizer: any Optax transformation.
      axis_name: mapped device axis, `None` for global arrays. Batch-norm layers of the network need
        the same one, otherwise running statistics are those of shards, averaged.

    Returns:
      A core with `init(key, batch)`; `batch` is a dict with `inputs` and what `loss` reads. Metrics
      are `loss`, those that `loss` returns, and `learning_rate` where the optimiser keeps it in its
      state (`schedules.applied_rate`).

    Raises:
      ValueError: (when called) the batch has no `inputs` or the loss is not one number.
    """

    def init(key: jax.Array, batch: Any) -> TrainState:
        params, model_state = model.init(key, _inputs(batch))
        # Copied leaf by leaf: some optimisers keep the parameters themselves in their state, and
        # the same buffer cannot be donated twice.
        return jax.tree.map(jnp.copy, TrainState(params, optimizer.init(params), model_state))

    def update(state: TrainState, batch: Any, key: jax.Array) -> tuple[TrainState, StepOutput]:
        key = parallel.fold_in_axis(key, axis_name)

        def local_loss(params: Any) -> Any:
            outputs, model_state = model.apply(
                params, state.model_state, _inputs(batch), key=key, train=True
            )
            value, metrics = loss(outputs, batch)
            if jnp.ndim(value):
                raise ValueError(
                    f"the loss must be one number but has shape {jnp.shape(value)}; average it "
                    "over the batch."
                )
            return value, (metrics, model_state)

        (value, (metrics, model_state)), grads = parallel.local_value_and_grad(
            local_loss, axis_name, has_aux=True
        )(state.params)
        metrics = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), {"loss": value} | metrics)
        metrics, model_state, grads = parallel.pmean((metrics, model_state, grads), axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics |= applied_rate(opt_state)
        return TrainState(params, opt_state, model_state), StepOutput(metrics)

    return Core(init, update)


def repeat(core: Core, num_updates: int) -> Core:
    """Runs several updates on each batch.

    Update i of a call uses `fold_in(key, i)`. Reports the metrics and outputs of the last one.

    Args:
      core: any core.
      num_updates: updates per batch, at least 1.

    Raises:
      ValueError: `num_updates` is below 1.
    """
    if num_updates < 1:
        raise ValueError(f"repeat needs at least one update per batch but got {num_updates}.")

    def update(state: Any, batch: Any, key: jax.Array) -> tuple[Any, StepOutput]:
        def body(state: Any, i: jax.Array) -> tuple[Any, StepOutput]:
            return core.update(state, batch, jax.random.fold_in(key, i))

        state, outs = jax.lax.scan(body, state, jnp.arange(num_updates))
        return state, jax.tree.map(lambda x: x[-1], outs)

    return Core(core.init, update)


def episodic(core: Core) -> Core:
    """Forgets after every batch: each update starts from the state that `init` made.

    With `repeat` inside, every batch gets the same number of updates from the same start.
    """

    def update(state: Any, batch: Any, key: jax.Array) -> tuple[Any, StepOutput]:
        _, out = core.update(state, batch, key)
        return state, out

    return Core(core.init, update)


def with_ema(
    core: Core, decay: ArrayLike, params: Callable[[Any], Any] = lambda state: state.params
) -> Core:
    """Keeps an exponential moving average of a core's parameters beside its state.

    After each update, ema = decay * ema + (1 - decay) * params, starting at the initial parameters.

    Args:
      core: any core.
      decay: in [0, 1]; may be traced.
      params: picks the averaged part from the core's state.

    Returns:
      A core whose state is `EmaState`; outputs and metrics are unchanged.
    """

    def init(*args: Any, **kwargs: Any) -> EmaState:
        state = core.init(*args, **kwargs)
        return EmaState(state, jax.tree.map(jnp.copy, params(state)))

    def update(state: EmaState, batch: Any, key: jax.Array) -> tuple[EmaState, StepOutput]:
        inner, out = core.update(state.state, batch, key)
        return EmaState(inner, trees.ema(state.ema, params(inner), decay)), out

    return Core(init, update)


def random_rows(key: jax.Array, num_examples: int, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """Rows drawn with replacement, `[batch_size]`, and the key that is left for the update."""
    key_rows, key_update = jax.random.split(key)
    return jax.random.randint(key_rows, (batch_size,), 0, num_examples), key_update


def on_arrays(
    core: Core,
    state: Any,
    arrays: Any,
    key: jax.Array,
    *,
    batch_size: int,
    num_steps: int,
    prepare: Callable[[Any], Any] = lambda batch: batch,
    draw: Callable[[jax.Array, int, int], tuple[jax.Array, jax.Array]] = random_rows,
) -> tuple[Any, dict[str, jax.Array]]:
    """Trains on examples in memory: all updates in one scan that draws its batches itself.

    Update i takes the rows that `draw(fold_in(key, i), N, batch_size)` chooses, and the key that it
    returns beside them. Inside `jax.jit`, pass the arrays as arguments: those a function closes
    over become part of its program.

    Args:
      core: any core.
      state: from `core.init`.
      arrays: tree of arrays with one example per row, every leaf `[N, ...]`.
      key: of the draws and of the updates.
      batch_size: rows of one batch.
      num_steps: updates.
      prepare: `rows -> batch`, for example pixels to floating point.
      draw: `(key, N, batch_size) -> (rows [batch_size], key of the update)`.

    Returns:
      The final state, and the metrics of every update, `[num_steps]` each.

    Raises:
      ValueError: no examples, arrays of unequal length, or an empty batch.
    """
    options: Any = dict(batch_size=batch_size, prepare=prepare, draw=draw)
    return jax.lax.scan(row_update(core, arrays, key, **options), state, jnp.arange(num_steps))


def row_update(
    core: Core,
    arrays: Any,
    key: jax.Array,
    *,
    batch_size: int,
    prepare: Callable[[Any], Any] = lambda batch: batch,
    draw: Callable[[jax.Array, int, int], tuple[jax.Array, jax.Array]] = random_rows,
) -> Callable[[Any, jax.Array], tuple[Any, dict[str, jax.Array]]]:
    """One update of `on_arrays`, `(state, i) -> (state, metrics)`; arguments and errors are its."""
    shapes = [jnp.shape(x) for x in jax.tree.leaves(arrays)]
    sizes = {shape[:1] for shape in shapes}
    if len(sizes) != 1 or sizes <= {(), (0,)}:
        raise ValueError(
            f"the arrays have shapes {shapes}; give at least one array and the same number of "
            "examples along the first axis of each."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give 1 or more.")

    def update(state: Any, i: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        rows, key_update = draw(jax.random.fold_in(key, i), shapes[0][0], batch_size)
        batch = prepare(jax.tree.map(lambda x: jnp.asarray(x)[rows], arrays))
        state, out = core.update(state, batch, key_update)
        return state, out.metrics

    return update


# --- Large arrays that a core needs ---------------------------------------------------------------


class Held(NamedTuple):
    """A part of a state that no update changes: data to replay, a memory, another network.

    What a jitted function closes over becomes constants of its program, twice its size in text, and
    is missing from checkpoints; what the state holds is an argument. Combinators neither select nor
    copy a held part, and the trials of a sweep share one.

    Attributes:
      arrays: any pytree.
    """

    arrays: Any


class HoldingState(NamedTuple):
    """State of `holding`: that of the core, and its arrays."""

    state: Any
    held: Held


def is_held(x: Any) -> bool:
    """Whether this is a held part; for `jax.tree.map(..., is_leaf=is_held)`."""
    return isinstance(x, Held)


def holding(build: Callable[[Any], Core]) -> Core:
    """A core that is built from large arrays, which ride in its state instead of in closures.

    Args:
      build: `arrays -> Core`. It is called whenever the core is traced, with traced arrays, and
        must only look at their shapes.

    Returns:
      A core with `init(arrays, *args)`, where `args` are those of the built core's `init`, and the
      state `HoldingState`. The arrays are copied once, so that the state can be donated.
    """

    def init(arrays: Any, *args: Any) -> HoldingState:
        return HoldingState(build(arrays).init(*args), Held(jax.tree.map(jnp.copy, arrays)))

    def update(state: HoldingState, batch: Any, key: jax.Array) -> tuple[HoldingState, StepOutput]:
        inner, out = build(state.held.arrays).update(state.state, batch, key)
        return state._replace(state=inner), out

    return Core(init, update)
