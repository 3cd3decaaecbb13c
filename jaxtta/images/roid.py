"""Weighting by diversity and certainty with a slow return to the source: ROID."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core, StepOutput
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import BATCH, Norm
from jaxtta import adaptation, batches, draws
from jaxtta.adaptation import AdaptState, mean_rows
from jaxtta.check_apply import checked
from jaxtta.images.changes import cotta_augment
from jaxtta.images.entropy import image_gradient
from jaxtta.images.mean_teacher import Augmentation, standard_augmentation, symmetric_cross_entropy
from jaxtta.selection import Predicate, norm_parameters

AxisName = parallel.AxisName


def soft_likelihood_ratio(logits: Array) -> Array:
    """-sum_c q_c log(q_c / (1 - q_c) + 1e-5) with q = min(softmax, 0.99), `[B, C] -> [B]`."""
    q = jnp.minimum(jax.nn.softmax(logits), 0.99)
    return -(q * jnp.log(q / (1 - q) + 1e-5)).sum(-1)


def _between(x: Array, mask: Array, axis_name: AxisName | None) -> Array:
    """x moved and scaled to [0, 1] over the selected rows; 1 where all of them are equal."""
    low = -parallel.pmax(jnp.where(mask, -x, -jnp.inf).max(), axis_name)
    high = parallel.pmax(jnp.where(mask, x, -jnp.inf).max(), axis_name)
    span = high - low
    return jnp.where(span > 0, (x - low) / jnp.where(span > 0, span, 1), 1)


class Weights(NamedTuple):
    """Rows kept `[B]`, bool, and their weights `[B]`, 0 elsewhere."""

    kept: Array
    weights: Array


def diversity_weights(
    logits: Array,
    mean: Array,
    mask: Array,
    temperature: ArrayLike = 1 / 3,
    axis_name: AxisName | None = None,
) -> Weights:
    """w = exp(d c / temperature) of rows that are more diverse than the average.

    d = 1 - cos(mean prediction, p) and c = -H(p), each scaled to [0, 1] over the batch; rows with
    d below its mean are dropped.

    Args:
      logits: `[B, C]`.
      mean: running mean prediction, `[C]`.
      mask: rows that count, `[B]`, bool.
      temperature: may be traced.
      axis_name: mapped device axis, `None` for global arrays.
    """
    p = jax.nn.softmax(logits)
    lengths = jnp.linalg.norm(p, axis=-1) * jnp.linalg.norm(mean)
    distance = _between(1 - p @ mean / jnp.maximum(lengths, 1e-8), mask, axis_name)
    certainty = _between(-adaptation.entropy(logits), mask, axis_name)
    kept = mask & (distance >= mean_rows(distance[:, None], mask, axis_name)[0])
    return Weights(kept, jnp.where(kept, jnp.exp(distance * certainty / temperature), 0))


def prior_correction(
    logits: Array,
    mask: Array,
    kind: Literal["logits", "probabilities"] = "logits",
    axis_name: AxisName | None = None,
) -> Array:
    """Scales outputs by the smoothed mean prediction of the batch.

    With pi the mean of p over n rows and s = max(1/n, 1/C) / max(pi), the factor is
    (pi + s) / (1 + s C). The official code multiplies *logits*; `probabilities` is the other
    reading, returned as logarithms.
    """
    p = jax.nn.softmax(logits)
    prior = mean_rows(p, mask, axis_name)
    number = jnp.maximum(adaptation.count(mask, axis_name), 1).astype(p.dtype)
    classes = logits.shape[-1]
    tiny = jnp.finfo(p.dtype).tiny
    smooth = jnp.maximum(1 / number, 1 / classes) / jnp.maximum(prior.max(), tiny)
    factor = ((prior + smooth) / (1 + smooth * classes))[None]
    return logits * factor if kind == "logits" else jax.nn.log_softmax(logits) + jnp.log(factor)


def roid(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    num_classes: int,
    *,
    temperature: ArrayLike = 1 / 3,
    source_share: ArrayLike = 0.01,
    consistency: bool = True,
    correction: Literal["logits", "probabilities", "none"] = "logits",
    augmentation: Augmentation | None = None,
    norm: Norm = BATCH,
    select: Predicate = norm_parameters,
    axis_name: AxisName | None = None,
) -> Core:
    """ROID: certain and diverse rows, consistency under augmentation, weights drawn to the source.

    1. Weights by `diversity_weights`; the mean prediction (uniform at first) then becomes 0.9 of
    itself + 0.1 of the batch's. 2. L = (1/B) sum over kept rows of w_i (`soft_likelihood_ratio` +
    symmetric cross-entropy with a second pass on the augmented kept rows, which uses their
    statistics; both passes carry gradient). 3. Optimiser step; then theta <- (1 - source_share)
    theta + source_share theta0. 4. Scored: logits after `prior_correction`.

    Args:
      apply_fn: the network.
      optimizer: Adam 1e-3 for CIFAR; SGD 2.5e-4 for ImageNet.
      num_classes: C.
      temperature: of the weights; may be traced.
      source_share: drawn back to the source at every step; may be traced.
      consistency: False leaves the second pass out.
      correction: what the prior multiplies, or `none`.
      augmentation: `(images, key, row_keys) -> images`; `None`: `cotta_augment.REDUCED`.
      norm: which batch statistics are used.
      select: adapted parameters, by path.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state)`; its update takes a key or what `draws.augmenting`
      makes of it. Metrics: `loss`, `num_selected`, `num_nonfinite`,
      `did_update`. With the `logits` correction calibration scores are those of scaled logits.

    Raises:
      ValueError: unknown correction.

    References:
      Marsden et al., Universal Test-time Adaptation through Weight Ensembling, Diversity Weighting,
      and Prior Correction, WACV 2024. Official code: mariodoebler/test-time-adaptation.

    Note:
      Where all rows are equal (a batch of one) the official scaling divides 0 by 0; here it is 1. A
      single image that has no say in its own logits (`entropy.image_gradient`) changes nothing.
    """
    if correction not in ("logits", "probabilities", "none"):
        raise ValueError(f"correction is {correction!r}; it is logits, probabilities or none.")
    apply_fn = checked(apply_fn, num_classes)
    change = augmentation or standard_augmentation(cotta_augment.REDUCED)

    def init(params: Any, model_state: Any) -> AdaptState:
        uniform = jnp.ones(num_classes) / num_classes
        return adaptation.start(
            params, model_state, optimizer, select, keep_source=True, memory=uniform
        )

    def update(
        state: AdaptState, batch: Any, key: Array | draws.Augmenting
    ) -> tuple[AdaptState, StepOutput]:
        inputs, rows, valid = batches.given(batch)
        drawn = draws.either(
            key, draws.Augmenting, lambda key: draws.augmenting(key, len(inputs), axis_name)
        )
        changed = change(inputs, drawn.shared, drawn.rows) if consistency else inputs

        def loss(params: Any, images: Array) -> tuple[Array, tuple[Array, Array, Weights]]:
            whole = trees.merge(params, state.frozen)
            predict = lambda x, rows: apply_fn(whole, state.model_state, x, norm=norm, mask=rows)
            found = predict(images, valid)[0].logits
            counted, logits = batches.sound(valid, found)
            mean = state.memory.astype(logits.dtype)
            # Cut before, not after: a maximum over devices has no differentiation rule.
            fixed = jax.lax.stop_gradient(logits)
            chosen = diversity_weights(fixed, mean, counted, temperature, axis_name)
            each = soft_likelihood_ratio(logits)
            if consistency:
                again = predict(changed, chosen.kept)[0].logits
                each = each + symmetric_cross_entropy(again, logits)
            weighted = jnp.where(chosen.kept, chosen.weights * each, 0)
            # A mean over rows that count: dropped ones are in its denominator.
            return parallel.masked_mean(weighted, counted, axis_name), (found, counted, chosen)

        value, (logits, counted, chosen), grads, matters = image_gradient(
            loss, state.params, inputs, axis_name
        )
        number = adaptation.count(counted, axis_name)
        kept = adaptation.count(chosen.kept, axis_name)
        mean = 0.9 * state.memory + 0.1 * mean_rows(jax.nn.softmax(logits), counted, axis_name)
        stepped, moved = adaptation.descend(state, value, grads, optimizer, (number > 0) & matters)
        drawn = trees.ema(stepped.params, state.source, 1 - source_share)
        params, memory = adaptation.where(moved, (drawn, mean), (state.params, state.memory))
        scored = logits
        if correction != "none":
            scored = prior_correction(logits, counted, correction, axis_name)
        metrics = {
            "loss": value,
            "num_selected": kept,
            "num_nonfinite": adaptation.count(rows & ~counted, axis_name),
            "did_update": moved,
        }
        state = stepped._replace(params=params, memory=memory)
        return state, adaptation.report(metrics, scored, chosen.kept & moved)

    return Core(init, update)
