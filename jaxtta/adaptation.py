"""What all adapters of image classifiers share: selected parameters, gated updates, combinators.

An adapter is a `Core`: `init(params, model_state)` copies the source model, `update(state, batch,
key)` predicts one test batch and may adapt to it. A batch is a dict with `inputs` `[B, H, W, C]`
and, for a ragged last batch, `mask` `[B]`: False for rows that are padding. Labels never enter.
Rows that are not finite count as padding and are reported as `num_nonfinite`; neither they nor a
loss or a gradient that is not finite reach any state (`jaxtta.batches`, `descend`).

Arrays that a method knows of the source (images to replay, features, a second model) are further
arguments of `init` and stay in the state as `Held`; the function that makes an adapter takes
functions and numbers only, so that no program has them as constants.

The network is a function `jaxtrain.nets.ClassifierFn`, so any model can be adapted; build it with
the `axis_name` given to the adapter, so that batch statistics are those of the global batch.

Unless a method says otherwise the scored logits are those before the update of the same batch.

A network may classify pixels, with logits `[B, H, W, classes]`, for the methods whose frames say
so: a row is still an image, and what they do with its logits is averaged over its pixels.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core, Held, StepOutput, is_held
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import BATCH, Norm
from jaxtta import batches
from jaxtta.check_apply import checked
from jaxtta.selection import Predicate


class Adapted(NamedTuple):
    """Results per example.

    Attributes:
      logits: what is scored, `[B, classes]`; of pixels `[B, H, W, classes]`.
      selected: rows that the update learned from, `[B]`, bool.
    """

    logits: Array
    selected: Array


class AdaptState(NamedTuple):
    """State of a gradient-based adapter.

    Attributes:
      params: adapted parameters; `None` in the places of the others.
      opt_state: state of the optimiser over them.
      frozen: the other parameters; `None` in the places of the adapted ones.
      model_state: stored batch statistics.
      source: adapted parameters before the first update; `()` if the method does not need them.
      memory: what the method remembers besides; `()` if nothing.
      known: arrays about the source that never change, `Held`; `()` if there are none.
    """

    params: Any
    opt_state: Any
    frozen: Any
    model_state: Any
    source: Any
    memory: Any
    known: Any = ()


# --- State ----------------------------------------------------------------------------------------


def split(params: Any, select: Predicate) -> tuple[Any, Any]:
    """Copies of the selected and of the other parameters.

    Raises:
      ValueError: nothing is selected.
    """
    adapted, frozen = trees.partition(jax.tree.map(jnp.copy, params), select)
    if not jax.tree.leaves(adapted):
        raise ValueError(
            "no parameter of the network is selected for adaptation; it has "
            f"{', '.join(trees.path_names(params)[:4])}, ... Methods that adapt normalisation "
            "layers know them by their names; pass select=jaxtta.selection.norm_layers(params) to "
            "find them by their form, or a predicate on paths."
        )
    return adapted, frozen


def start(
    params: Any,
    model_state: Any,
    optimizer: optax.GradientTransformation,
    select: Predicate,
    *,
    keep_source: bool = False,
    memory: Any = (),
    known: Any = (),
) -> AdaptState:
    """State before the first batch; owns all its arrays. `known` arrays are held."""
    adapted, frozen = split(params, select)
    return AdaptState(
        adapted,
        copied(optimizer.init(adapted)),
        frozen,
        copied(model_state),
        copied(adapted) if keep_source else (),
        copied(memory),
        Held(copied(known)) if jax.tree.leaves(known) else (),
    )


def copied(tree: Any) -> Any:
    """The same arrays in buffers of their own, as a state that is donated needs them."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


# --- Rows -----------------------------------------------------------------------------------------


def count(mask: Array, axis_name: parallel.AxisName | None) -> Array:
    """Number of selected rows on all devices, float32."""
    return parallel.psum(mask.sum(dtype=jnp.float32), axis_name)


def mean_rows(values: Array, mask: Array, axis_name: parallel.AxisName | None) -> Array:
    """Mean of the selected rows `[B, C] -> [C]` on all devices; zeros when none is selected."""
    chosen = jnp.where(mask[:, None], values, 0)
    total, number = parallel.psum((chosen.sum(0), mask.sum(dtype=values.dtype)), axis_name)
    return total / jnp.maximum(number, 1)


def row_keys(key: Array, batch_size: int, axis_name: parallel.AxisName | None) -> Array:
    """A key for every row of the global batch, the same on any number of devices."""
    index = jnp.arange(batch_size)
    if axis_name is not None:
        index = index + batch_size * jax.lax.axis_index(axis_name)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


# --- Losses and updates ---------------------------------------------------------------------------


def entropy(logits: Array) -> Array:
    """Entropy of the softmax in nats, `[..., C] -> [...]`; classes at -inf add 0 log 0 = 0."""
    log_p = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_p) * jnp.where(jnp.isneginf(log_p), 0, log_p)).sum(-1)


def where(condition: Array, new: Any, old: Any) -> Any:
    """`new` where the scalar condition holds, else `old`, leaf by leaf, in the types of `old`.

    What is `Held` is the same in both and passes through, neither selected nor copied.
    """

    def pick(x: Any, y: Any) -> Any:
        return y if is_held(y) else jnp.where(condition, x, y).astype(y.dtype)

    return jax.tree.map(pick, new, old, is_leaf=is_held)


def descend(
    state: AdaptState,
    value: Array,
    grads: Any,
    optimizer: optax.GradientTransformation,
    do_update: ArrayLike = True,
) -> tuple[AdaptState, Array]:
    """One optimiser step on the adapted parameters.

    Nothing moves where `do_update` is False, or where the loss, its gradient or what the optimiser
    makes of it is not finite.

    Args:
      state: before the step.
      value: of the loss, `[]`.
      grads: like `state.params`.
      optimizer: of the state.
      do_update: `[]`, bool.

    Returns:
      The state, and whether it moved, `[]`, bool.
    """
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new, old = (optax.apply_updates(state.params, updates), opt_state), state[:2]
    sound = batches.stays_finite((value, grads, new), (jnp.zeros(()), state.params, old))
    moved = sound & do_update
    params, opt_state = where(moved, new, old)
    return state._replace(params=params, opt_state=opt_state), moved


def report(metrics: Mapping[str, Any], logits: Array, selected: Array) -> StepOutput:
    """Metrics as float32 scalars beside the results per example."""
    scalars = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
    return StepOutput(scalars, Adapted(logits, selected))


class Replay(NamedTuple):
    """What `replay` saw, every leaf with the batches as leading axis.

    Attributes:
      outputs: results per example, `[batches, B, ...]`.
      metrics: `[batches]` each.
      params: adapted parameters after each batch; the whole state if it has no such field.
    """

    outputs: Any
    metrics: dict[str, Array]
    params: Any


def replay(core: Core, init_args: tuple[Any, ...], batches: Any, keys: Any) -> Replay:
    """Runs an adapter over given batches with given randomness: so a recorded run is replayed.

    Args:
      core: any adapter.
      init_args: of `core.init`, usually `(params, model_state)`.
      batches: batches stacked on a leading axis.
      keys: one per batch, or the draws of every batch (`jaxtta.draws`), stacked likewise.
    """

    def body(state: Any, given: Any) -> tuple[Any, Replay]:
        state, out = core.update(state, *given)
        return state, Replay(out.outputs, out.metrics, getattr(state, "params", state))

    return jax.lax.scan(body, core.init(*init_args), (batches, keys))[1]


# --- Combinators ----------------------------------------------------------------------------------


def rescored(core: Core, apply_fn: ClassifierFn, *, norm: Norm = BATCH) -> Core:
    """Scores a second forward pass after the update; published results do not.

    Args:
      core: with an `AdaptState`.
      apply_fn: the network.
      norm: statistics of the second pass.
    """
    apply_fn = checked(apply_fn, dense=True)

    def update(state: Any, batch: Any, key: Array) -> tuple[Any, StepOutput]:
        state, out = core.update(state, batch, key)
        inputs, _, valid = batches.given(batch)
        params = trees.merge(state.params, state.frozen)
        again, _ = apply_fn(params, state.model_state, inputs, norm=norm, mask=valid)
        return state, out._replace(outputs=out.outputs._replace(logits=again.logits))

    return Core(core.init, update)


class ResettingState(NamedTuple):
    """State of `reset_every`: the adapter's, as it was at first, and batches since the reset.

    Held parts are in `state` alone.
    """

    state: Any
    initial: Any
    num_batches: Array


def reset_every(core: Core, num_batches: int) -> Core:
    """Starts from the source again after every `num_batches` batches (RDumb; 1000 there).

    References:
      Press et al., RDumb: A simple approach that questions our progress in continual test-time
      adaptation, NeurIPS 2023.

    Raises:
      ValueError: `num_batches` is below 1.
    """
    if num_batches < 1:
        raise ValueError(f"num_batches is {num_batches}; reset after 1 or more batches.")

    def init(*args: Any) -> ResettingState:
        state = core.init(*args)
        own = lambda x: Held(()) if is_held(x) else jnp.copy(x)
        initial = jax.tree.map(own, state, is_leaf=is_held)
        return ResettingState(state, initial, jnp.zeros((), jnp.int32))

    def update(state: ResettingState, batch: Any, key: Array) -> tuple[ResettingState, StepOutput]:
        inner, out = core.update(state.state, batch, key)
        now = state.num_batches + 1 == num_batches
        after = jnp.where(now, 0, state.num_batches + 1)
        return ResettingState(where(now, state.initial, inner), state.initial, after), out

    return Core(init, update)


class WindowState(NamedTuple):
    """State of `windowed`: the adapter's, and the last images.

    Attributes:
      state: of the adapter.
      inputs: `[size, ...]`, the newest last.
      counted: whether they are there and finite, `[size]`, bool.
      num_seen: `[]`, int32.
    """

    state: Any
    inputs: Array
    counted: Array
    num_seen: Array


def windowed(core: Core, size: int, shape: tuple[int, ...]) -> Core:
    """Adapts on a stream of single images, with the statistics of the last `size` of them.

    Every image is predicted by the adapter on the window that it ends; what the adapter learned is
    kept only when the window has been refilled completely, after every `size` images. Costs `size`
    rows per image.

    Args:
      core: any adapter.
      size: W, images in the window.
      shape: of one image, `(H, W, C)`.

    Returns:
      A core for batches of one. Outputs are those of the newest image; `selected` says whether it
      was in an update that was kept.

    Raises:
      ValueError: `size` is below 1; (when called) a batch that is not one unmasked image.

    References:
      The single-sample setting of mariodoebler/test-time-adaptation.
    """
    if size < 1:
        raise ValueError(f"the window has size {size}; it must hold 1 image or more.")

    def init(*args: Any) -> WindowState:
        empty = jnp.zeros((size, *shape)), jnp.zeros(size, bool)
        return WindowState(core.init(*args), *empty, jnp.zeros((), jnp.int32))

    def update(state: WindowState, batch: Any, key: Array) -> tuple[WindowState, StepOutput]:
        inputs, mask = batches.inputs_of(batch)
        if inputs.shape != (1, *shape) or mask is not None:
            raise ValueError(
                f"a window takes one image {shape} at a time, without a mask, but got inputs of "
                f"shape {inputs.shape}; use a stream with batch_size=1."
            )
        newest, finite = batches.finite_images(inputs)
        window = jnp.concatenate([state.inputs[1:], newest.astype(state.inputs.dtype)])
        counted = jnp.concatenate([state.counted[1:], finite])
        number = state.num_seen + 1
        inner, out = core.update(state.state, {"inputs": window, "mask": counted}, key)
        full = number % size == 0
        found = jax.tree.map(lambda x: x[-1:], out.outputs)
        found = found._replace(selected=found.selected & full)
        after = WindowState(where(full, inner, state.state), window, counted, number)
        missing = jnp.asarray((~finite).sum(), jnp.float32)
        missing = missing + out.metrics.get("num_nonfinite", 0)
        return after, StepOutput({**out.metrics, "num_nonfinite": missing}, found)

    return Core(init, update)
