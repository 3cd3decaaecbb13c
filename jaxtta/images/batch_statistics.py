"""Adaptation by the choice of normalisation statistics: source, batch, mixture, running average.

All but Core take networks that classify pixels as well as those that classify images.

References:
  Schneider et al., Improving robustness against common corruptions by covariate shift adaptation,
  NeurIPS 2020; Nado et al., Evaluating Prediction-Time Batch Normalization, 2020.
  You et al., Test-time Batch Statistics Calibration for Covariate Shift, 2021 (mixture, Core).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core, StepOutput
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import BATCH, SOURCE, Norm
from jaxtrain.nets.segmenter import per_pixel
from jaxtta import adaptation, batches
from jaxtta.adaptation import AdaptState
from jaxtta.check_apply import checked
from jaxtta.selection import Predicate, norm_parameters


class PredictState(NamedTuple):
    """State of an adapter that moves no parameter: the model."""

    params: Any
    model_state: Any


def _init(params: Any, model_state: Any) -> PredictState:
    return jax.tree.map(jnp.copy, PredictState(params, model_state))


def _report(
    logits: Array, rows: Array, valid: Array, axis_name: parallel.AxisName | None
) -> StepOutput:
    counted, safe = batches.sound(valid, logits)
    metrics = {
        "entropy": parallel.masked_mean(per_pixel(adaptation.entropy)(safe), counted, axis_name),
        "num_nonfinite": adaptation.count(rows & ~counted, axis_name),
    }
    return adaptation.report(metrics, logits, jnp.zeros_like(rows))


def _predictor(apply_fn: ClassifierFn, norm: Norm, axis_name: parallel.AxisName | None) -> Core:
    apply_fn = checked(apply_fn, dense=True)

    def update(state: PredictState, batch: Any, key: Array) -> tuple[PredictState, StepOutput]:
        inputs, rows, valid = batches.given(batch)
        found, _ = apply_fn(state.params, state.model_state, inputs, norm=norm, mask=valid)
        return state, _report(found.logits, rows, valid, axis_name)

    return Core(_init, update)


def source(apply_fn: ClassifierFn, *, axis_name: parallel.AxisName | None = None) -> Core:
    """The source model as it is, with its stored statistics: the baseline of every table.

    Args:
      apply_fn: the network.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state)`. Metrics: `entropy`, the mean over the batch in nats,
      and `num_nonfinite`.
    """
    return _predictor(apply_fn, SOURCE, axis_name)


def batch_norm(apply_fn: ClassifierFn, *, axis_name: parallel.AxisName | None = None) -> Core:
    """Normalises with the statistics of each test batch; stores nothing (BN-1, norm_test).

    Args: as in `source`.
    """
    return _predictor(apply_fn, BATCH, axis_name)


def alpha_norm(
    apply_fn: ClassifierFn,
    weight: ArrayLike = 0.1,
    *,
    prior_strength: ArrayLike | None = None,
    unbiased: bool = True,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """Normalises with a mixture: (1 - a) source + a batch, for mean and variance (alpha-BN).

    Args:
      apply_fn: the network.
      weight: a, weight of the *test batch*; 0 is `source`, 1 with `unbiased=False` is `batch_norm`.
        May be traced.
      prior_strength: N in a = n / (n + N) with n the number of rows, in place of `weight`
        (Schneider et al.; they use N = 16 to 256).
      unbiased: whether the variance of the batch divides by n - 1, as in the benchmark repository
        mariodoebler/test-time-adaptation, where it is read back from a running estimate.
      axis_name: mapped device axis, `None` for global arrays.
    """

    apply_fn = checked(apply_fn, dense=True)

    def update(state: PredictState, batch: Any, key: Array) -> tuple[PredictState, StepOutput]:
        inputs, rows, valid = batches.given(batch)
        a = weight
        if prior_strength is not None:
            number = adaptation.count(valid, axis_name).astype(inputs.dtype)
            a = number / (number + prior_strength)
        norm = Norm(a, unbiased=unbiased)
        found, _ = apply_fn(state.params, state.model_state, inputs, norm=norm, mask=valid)
        return state, _report(found.logits, rows, valid, axis_name)

    return Core(_init, update)


def ema_norm(
    apply_fn: ClassifierFn,
    momentum: ArrayLike = 0.1,
    *,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """Updates the stored statistics by a discarded training-mode pass, then predicts with them.

    They stay where no row counts, or where the new ones are not finite.

    Args:
      apply_fn: the network.
      momentum: share of the batch in the new statistics; may be traced.
      axis_name: mapped device axis, `None` for global arrays.
    """

    apply_fn = checked(apply_fn, dense=True)

    def update(state: PredictState, batch: Any, key: Array) -> tuple[PredictState, StepOutput]:
        inputs, rows, valid = batches.given(batch)
        norm, old = Norm(1.0, momentum), state.model_state
        _, new = apply_fn(state.params, old, inputs, norm=norm, mask=valid)
        some = adaptation.count(valid, axis_name) > 0
        model_state = adaptation.where(some & batches.stays_finite(new, old), new, old)
        found, _ = apply_fn(state.params, model_state, inputs, norm=SOURCE, mask=valid)
        return PredictState(state.params, model_state), _report(
            found.logits, rows, valid, axis_name
        )

    return Core(_init, update)


def class_correlation(
    logits: Array, mask: Array, axis_name: parallel.AxisName | None = None
) -> Array:
    """How much classes are confused within a batch: the loss of Core.

    With P the softmax outputs, R = P^T P and rows of R divided by their sum, the mean of the
    off-diagonal entries. The exact normalisation of the paper could not be confirmed.

    Args:
      logits: `[B, C]`, C at least 2.
      mask: rows that count, `[B]`, bool.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      `[]`, 0 for sure predictions, 1 / C for uniform ones.
    """
    p = jnp.where(mask[:, None], jax.nn.softmax(logits), 0)
    correlation = parallel.psum(p.T @ p, axis_name)
    total = correlation.sum(-1, keepdims=True)
    share = correlation / jnp.where(total > 0, total, 1)
    classes = logits.shape[-1]
    return (share.sum() - jnp.trace(share)) / (classes * (classes - 1))


def core(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    weight: ArrayLike = 0.1,
    *,
    unbiased: bool = True,
    select: Predicate = norm_parameters,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """Core: lowers `class_correlation` over normalisation parameters under `alpha_norm` statistics.

    Args:
      apply_fn: the network.
      optimizer: the paper's setting for CIFAR is Adam, 1e-3.
      weight: a of `alpha_norm`.
      unbiased: as in `alpha_norm`.
      select: adapted parameters, by path.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state)`. Metrics: `loss`, `num_selected`, `num_nonfinite`,
      `did_update`.
    """
    apply_fn = checked(apply_fn)
    norm = Norm(weight, unbiased=unbiased)

    def init(params: Any, model_state: Any) -> AdaptState:
        return adaptation.start(params, model_state, optimizer, select)

    def update(state: AdaptState, batch: Any, key: Array) -> tuple[AdaptState, StepOutput]:
        inputs, rows, valid = batches.given(batch)

        def loss(params: Any) -> tuple[Array, tuple[Array, Array]]:
            whole = trees.merge(params, state.frozen)
            found, _ = apply_fn(whole, state.model_state, inputs, norm=norm, mask=valid)
            counted, logits = batches.sound(valid, found.logits)
            return class_correlation(logits, counted, axis_name), (found.logits, counted)

        (value, (logits, counted)), grads = parallel.local_value_and_grad(
            loss, axis_name, has_aux=True
        )(state.params)
        value, grads = parallel.pmean((value, grads), axis_name)
        number = adaptation.count(counted, axis_name)
        state, moved = adaptation.descend(state, value, grads, optimizer, number > 0)
        metrics = {
            "loss": value,
            "num_selected": number,
            "num_nonfinite": adaptation.count(rows & ~counted, axis_name),
            "did_update": moved,
        }
        return state, adaptation.report(metrics, logits, counted & moved)

    return Core(init, update)
