"""Adaptation by entropy minimisation: the frame, TENT, and the open-set filter.

All of them lower weight_i * H(p_i), averaged over the rows a method selects, by one optimiser step
per batch; they differ in selection, weights and penalties. Without a selected row nothing moves:
neither parameters nor the optimiser's moments and step count; nor when the loss or its gradient is
not finite.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core, StepOutput
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import BATCH, Norm
from jaxtrain.nets.segmenter import per_pixel
from jaxtta import adaptation, batches
from jaxtta.adaptation import AdaptState, mean_rows
from jaxtta.check_apply import checked
from jaxtta.selection import Predicate, norm_parameters

AxisName = parallel.AxisName


class Seen(NamedTuple):
    """What a method may look at to choose rows; nothing here carries a gradient.

    Attributes:
      inputs: `[B, H, W, C]`.
      logits: `[B, classes]`.
      rows: candidates, `[B]`, bool: no padding, finite, and past the open-set filter if there is
        one.
      probe: `(inputs, mask) -> logits` with the current parameters and statistics of the mask's
        rows.
      memory: of the method.
      key: of this update, or its draws.
    """

    inputs: Array
    logits: Array
    rows: Array
    probe: Callable[[Array, Array], Array]
    memory: Any
    key: Any


class Choice(NamedTuple):
    """Rows to learn from: `selected` `[B]` bool, `weights` `[B]`, and the method's new memory."""

    selected: Array
    weights: Array
    memory: Any = ()


def agrees_with_source(logits: Array, source_logits: Array, slack: float = 1e-6) -> Array:
    """Rows whose confidence in the source model's class did not fall: the wisdom of crowds.

    Keeps i iff p_i[y] >= p0_i[y] with y the class that the source model predicts. `slack` is for
    rounding: before the first update both models are the same and every row must be kept.

    Args:
      logits: of the adapted model, `[B, C]`.
      source_logits: of the source model, `[B, C]`.
      slack: allowed fall of the probability.

    Returns:
      `[B]`, bool.

    References:
      Lee et al., Towards Open-Set Test-Time Adaptation Utilizing the Wisdom of Crowds in Entropy
      Minimization, ICCV 2023.
    """
    predicted = source_logits.argmax(-1)[:, None]
    confidence = lambda z: jnp.take_along_axis(jax.nn.softmax(z), predicted, -1)[:, 0]
    return confidence(logits) >= confidence(source_logits) - slack


def image_gradient(
    loss: Callable[[Any, Array], tuple[Array, Any]],
    params: Any,
    images: Array,
    axis_name: AxisName | None,
) -> tuple[Array, Any, Any, Array]:
    """Gradient of the loss of a batch, and whether a single image has any say in it.

    A row that is normalised by its own statistics alone after pooling turns into the bias, whatever
    it was: there is nothing to learn from it.

    Args:
      loss: `(params, images) -> (mean loss [], aux)`, as for `parallel.local_value_and_grad`.
      params: what the gradient is for.
      images: `[B, H, W, C]`.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      The loss, `aux` of this shard, the gradient, and `[]`, bool: True for batches of several rows,
      else whether the loss changes with the image.
    """
    alone = len(images) * parallel.axis_size(axis_name) == 1
    (value, aux), grads = parallel.local_value_and_grad(
        loss, axis_name, has_aux=True, argnums=(0, 1) if alone else (0,)
    )(params, images)
    value, grad = parallel.pmean((value, grads[0]), axis_name)
    matters = jnp.any(grads[1] != 0) if alone else jnp.ones((), bool)
    return value, aux, grad, matters


def minimiser(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    choose: Callable[[Seen], Choice],
    *,
    penalty: Callable[[AdaptState, Any, Array, Array], Array] | None = None,
    memory: Any = (),
    keep_source: bool = False,
    open_set_filter: bool = False,
    dense: bool = False,
    norm: Norm = BATCH,
    select: Predicate = norm_parameters,
    axis_name: AxisName | None = None,
) -> Core:
    """Weighted entropy minimisation on chosen rows, the frame of the methods below.

    Args:
      apply_fn: the network.
      optimizer: over the adapted parameters.
      choose: picks rows and weights from one forward pass.
      penalty: `(state, params, logits, valid) -> []`, added to the loss.
      memory: of the method, before the first batch.
      keep_source: whether the state keeps the adapted parameters' first values.
      open_set_filter: only rows that `agrees_with_source` are candidates; costs one more forward
        pass.
      dense: whether `choose` can do with logits of pixels, `[B, H, W, classes]`; the entropy of a
        row is then the mean over its pixels.
      norm: which batch statistics are used.
      select: adapted parameters, by path.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state, known=())`; `known` arrays are for the penalty.
    """
    apply_fn = checked(apply_fn, dense=dense)

    def init(params: Any, model_state: Any, known: Any = ()) -> AdaptState:
        keep = keep_source or open_set_filter
        return adaptation.start(
            params, model_state, optimizer, select, keep_source=keep, memory=memory, known=known
        )

    def update(state: AdaptState, batch: Any, key: Any) -> tuple[AdaptState, StepOutput]:
        inputs, rows, valid = batches.given(batch)

        def predict(params: Any, x: Array, mask: Array) -> Array:
            whole = trees.merge(params, state.frozen)
            return apply_fn(whole, state.model_state, x, norm=norm, mask=mask)[0].logits

        original = predict(state.source, inputs, valid) if open_set_filter else None

        def loss(params: Any, images: Array) -> tuple[Array, tuple[Array, Array, Choice]]:
            found = predict(params, images, valid)
            counted, logits = batches.sound(valid, found)
            seen, fixed = jax.lax.stop_gradient((logits, params))
            candidates = counted
            if original is not None:
                candidates = counted & agrees_with_source(seen, original)
            probe = lambda x, rows: predict(fixed, x, rows)
            choice = choose(Seen(inputs, seen, candidates, probe, state.memory, key))
            weights = jax.lax.stop_gradient(jnp.where(choice.selected, choice.weights, 0))
            weighted = weights * per_pixel(adaptation.entropy)(logits)
            value = parallel.masked_mean(weighted, choice.selected, axis_name)
            if penalty is not None:
                value = value + penalty(state, params, logits, counted)
            return value, (found, counted, choice)

        value, (logits, counted, choice), grads, matters = image_gradient(
            loss, state.params, inputs, axis_name
        )
        number = adaptation.count(choice.selected, axis_name)
        state, moved = adaptation.descend(state, value, grads, optimizer, (number > 0) & matters)
        memory = adaptation.where(moved | (number == 0), choice.memory, state.memory)
        metrics = {
            "loss": value,
            "num_selected": number,
            "num_nonfinite": adaptation.count(rows & ~counted, axis_name),
            "did_update": moved,
        }
        selected = choice.selected & moved
        return state._replace(memory=memory), adaptation.report(metrics, logits, selected)

    return Core(init, update)


def _all(seen: Seen) -> Choice:
    return Choice(seen.rows, jnp.ones_like(seen.rows, seen.logits.dtype), seen.memory)


def tent(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    *,
    open_set_filter: bool = False,
    norm: Norm = BATCH,
    select: Predicate = norm_parameters,
    axis_name: AxisName | None = None,
) -> Core:
    """TENT: one step on the mean entropy of each batch, over normalisation parameters.

    Args:
      apply_fn: the network, see `jaxtta.adaptation`; of images or, without the filter, of pixels.
      optimizer: Adam 1e-3 for batches of 200 CIFAR images; SGD 2.5e-4 with momentum 0.9 for batches
        of 64 ImageNet images.
      open_set_filter: see `agrees_with_source`.
      norm: which batch statistics are used.
      select: adapted parameters, by path.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state)`. Metrics: `loss` in nats, `num_selected`,
      `num_nonfinite`, `did_update`. A single image that has no say in its own logits (see
      `image_gradient`) is not learned from.

    Raises:
      ValueError: (when called) no parameter is selected, or the batch is not one of inputs.

    References:
      Wang et al., Tent: Fully Test-Time Adaptation by Entropy Minimization, ICLR 2021. Official
      code: DequanWang/tent.
    """
    return minimiser(
        apply_fn,
        optimizer,
        _all,
        open_set_filter=open_set_filter,
        dense=not open_set_filter,
        norm=norm,
        select=select,
        axis_name=axis_name,
    )


def open_set(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    *,
    diversity: ArrayLike = 0.5,
    norm: Norm = BATCH,
    select: Predicate = norm_parameters,
    axis_name: AxisName | None = None,
) -> Core:
    """TENT on the rows that agree with the source model, minus the entropy of the mean prediction.

    L = mean over kept i of H(p_i) - diversity * H(mean_i p_i), the second one over the whole batch.

    Args:
      apply_fn: the network.
      optimizer: Adam 1e-3 for CIFAR.
      diversity: weight of the second term; 1, 0.5, 0.2 and 0.1 have been used. May be traced.
      norm: which batch statistics are used.
      select: adapted parameters, by path.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core as in `tent`.

    References:
      Lee et al., ICCV 2023 (see `agrees_with_source`). The second term and its weight follow
      gaozhengqing/UniEnt; the authors' code could not be read.
    """

    def penalty(state: AdaptState, params: Any, logits: Array, valid: Array) -> Array:
        mean = mean_rows(jax.nn.softmax(logits), valid, axis_name)
        tiny = jnp.finfo(mean.dtype).tiny
        return jnp.asarray(diversity) * (mean * jnp.log(jnp.maximum(mean, tiny))).sum()

    return minimiser(
        apply_fn,
        optimizer,
        _all,
        penalty=penalty,
        open_set_filter=True,
        norm=norm,
        select=select,
        axis_name=axis_name,
    )
