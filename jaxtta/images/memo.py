"""Adaptation to a single image by the agreement of its views: MEMO."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxtrain import parallel, trees
from jaxtrain.core import Core, StepOutput
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import Norm
from jaxtta import adaptation, batches, draws
from jaxtta.check_apply import checked
from jaxtta.images.batch_statistics import PredictState
from jaxtta.images.changes import augmix
from jaxtta.selection import Predicate, all_parameters

# (image [H, W, C], key, or what `MemoDraws` has in its place) -> image
View = Callable[[Array, Any], Array]

# Prior strength 16 against one image, with the unbiased variance, for mean and variance.
PRIOR_16 = Norm(weight=1 / 17, unbiased=True)


def marginal_entropy(logits: Array) -> Array:
    """Entropy of the mean prediction, from a log-mean-exp of log-probabilities, `[V, C] -> []`."""
    lowest = jnp.finfo(logits.dtype).min
    # A class at -inf in every view has no gradient; its logsumexp would have NaN.
    each = jax.nn.log_softmax(logits)
    each = jnp.where(jnp.isneginf(each), lowest, each)
    log_p = jnp.maximum(jax.nn.logsumexp(each, axis=0) - jnp.log(len(logits)), lowest)
    return -(jnp.exp(log_p) * log_p).sum()


class MemoDraws(NamedTuple):
    """What `view` is given for every view, `[B, num_steps, num_views, ...]`: keys, or by hand."""

    views: Any


def memo_draws(
    key: Array,
    batch_size: int,
    *,
    num_views: int = 32,
    num_steps: int = 1,
    axis_name: parallel.AxisName | None = None,
) -> MemoDraws:
    """The draws that `memo` makes of the key of an update.

    Step i of a row takes `split(fold_in(row key, i), num_views)`, with `adaptation.row_keys`.

    Args:
      key: of the update.
      batch_size: rows, of this shard.
      num_views, num_steps, axis_name: of the method.
    """

    def views(key: Array, i: Array) -> Array:
        return jax.random.split(jax.random.fold_in(key, i), num_views)

    steps = lambda key: jax.vmap(views, (None, 0))(key, jnp.arange(num_steps))
    return MemoDraws(jax.vmap(steps)(adaptation.row_keys(key, batch_size, axis_name)))


def memo(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    *,
    num_views: int = 32,
    num_steps: int = 1,
    rows_at_once: int = 1,
    view: View | None = None,
    norm: Norm = PRIOR_16,
    select: Predicate = all_parameters,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """MEMO: every image adapts a copy of the source model, predicts, and is forgotten.

    For each row by itself, from the source model: 1. `num_views` views of the image in one batch;
    2. a step on the `marginal_entropy` of the network on them; after `num_steps` of these, each
    with new views, 3. the image as it is, predicted with the adapted parameters, is scored. Nothing
    is carried to the next row or batch.

    Args:
      apply_fn: the network, built *without* a device axis: the statistics of a row are those of its
        own views, never of other devices.
      optimizer: SGD 0.005 without momentum for CIFAR with ResNet-26 (group norm); SGD 2.5e-4 for
        ImageNet.
      num_views: 32 for CIFAR, 64 for ImageNet.
      num_steps: steps per image.
      rows_at_once: images adapted side by side; each has parameters of its own, so that memory
        grows with it.
      view: makes one view; `None`: `augmix.view`, the official one for CIFAR.
      norm: statistics of batch norm, both for the views and for the image alone; source statistics
        with a share of 1 / (N + 1) of the images', N = 16 for ImageNet. 0.1 is used in
        mariodoebler/test-time-adaptation. No effect with group or layer norm.
      select: adapted parameters, by path.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state)`; its update takes a key or `MemoDraws`, as
      `memo_draws` makes them. Metrics: `loss`, the mean over rows of the first
      step's marginal entropy in nats, `num_selected`, and `num_nonfinite`. A step that is not
      finite is not made.

    Raises:
      ValueError: a number below 1; (when called) no parameter is selected.

    References:
      Zhang et al., MEMO: Test Time Robustness via Adaptation and Augmentation, NeurIPS 2022.
      Official code: zhangmarvin/memo.
    """
    if min(num_views, num_steps, rows_at_once) < 1:
        raise ValueError(
            f"num_views={num_views}, num_steps={num_steps} and rows_at_once={rows_at_once}; all of "
            "them must be at least 1."
        )
    change = view or augmix.view
    apply_fn = checked(apply_fn)

    def init(params: Any, model_state: Any) -> PredictState:
        adaptation.split(params, select)
        return jax.tree.map(jnp.copy, PredictState(params, model_state))

    def update(
        state: PredictState, batch: Any, key: Array | MemoDraws
    ) -> tuple[PredictState, StepOutput]:
        inputs, rows, valid = batches.given(batch)
        source, frozen = trees.partition(state.params, select)

        def predict(params: Any, x: Array) -> Array:
            whole = trees.merge(params, frozen)
            return apply_fn(whole, state.model_state, x, norm=norm)[0].logits

        def loss(params: Any, views: Array) -> Array:
            return marginal_entropy(predict(params, views))

        gradient = parallel.local_value_and_grad(loss, axis_name)

        def one(given: tuple[Array, Any]) -> tuple[Array, Array]:
            x, drawn = given
            params, first = source, jnp.zeros((), x.dtype)
            opt_state = optimizer.init(params)
            for i in range(num_steps):
                step = jax.tree.map(lambda v, i=i: v[i], drawn)
                views = jax.vmap(change, (None, 0))(x, step)
                value, grads = gradient(params, views)
                first = value if i == 0 else first
                updates, new_state = optimizer.update(grads, opt_state, params)
                old, new = (params, opt_state), (optax.apply_updates(params, updates), new_state)
                sound = batches.stays_finite((value, *new), (jnp.zeros(()), *old))
                params, opt_state = adaptation.where(sound, new, old)
            return predict(params, x[None])[0], first

        drawn = draws.either(
            key,
            MemoDraws,
            lambda key: memo_draws(
                key,
                len(inputs),
                num_views=num_views,
                num_steps=num_steps,
                axis_name=axis_name,
            ),
        )
        mapped = functools.partial(jax.lax.map, one)
        if rows_at_once > 1:
            mapped = functools.partial(mapped, batch_size=rows_at_once)
        logits, values = mapped((inputs, drawn.views))
        counted, _ = batches.sound(valid & jnp.isfinite(values), logits)
        metrics = {
            "loss": parallel.masked_mean(values, counted, axis_name),
            "num_selected": adaptation.count(counted, axis_name),
            "num_nonfinite": adaptation.count(rows & ~counted, axis_name),
        }
        return state, adaptation.report(metrics, logits, counted)

    return Core(init, update)
