"""Alignment of test features with the class Gaussians of the source: CAFA."""

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
from jaxtta import adaptation, batches
from jaxtta.adaptation import AdaptState
from jaxtta.check_apply import checked
from jaxtta.images.source_features import features_of
from jaxtta.selection import Predicate, norm_parameters


class ClassGaussians(NamedTuple):
    """A Gaussian per class.

    Attributes:
      means: `[C, D]`.
      factors: lower Cholesky factors of the covariances, `[C, D, D]`, or one for all, `[1, D, D]`.
    """

    means: Array
    factors: Array


def class_gaussians(
    features: Array,
    labels: Array,
    num_classes: int,
    *,
    ridge: ArrayLike = 1e-2,
    tied: bool = False,
) -> ClassGaussians:
    """Means and covariances (divided by n) of the features of each class.

    Args:
      features: of the source model on labelled source images, `[N, D]`; see
        `jaxtta.images.source_features.extracted`.
      labels: true ones, `[N]`.
      num_classes: C.
      ridge: added to the diagonal of every covariance, in squared units of the features; ours, the
        paper's value is not known.
      tied: one covariance, of the distances to the own class mean, for all classes: for few
        examples, or where C D^2 numbers are too many.

    Returns:
      The Gaussians. A class without an example has mean 0 and the ridge as its covariance.
    """
    belongs = (labels[:, None] == jnp.arange(num_classes)[None]).astype(features.dtype)
    number = jnp.maximum(belongs.sum(0), 1)[:, None]
    means = belongs.T @ features / number

    def covariance(weights: Array, centre: Array) -> Array:
        away = features - centre
        return (away * weights[:, None]).T @ away / jnp.maximum(weights.sum(), 1)

    if tied:
        found = covariance(belongs.sum(1), belongs @ means)[None]
    else:  # one class after the other: D^2 numbers at a time
        found = jax.lax.map(lambda given: covariance(given[0], given[1][None]), (belongs.T, means))
    damped = found + ridge * jnp.eye(features.shape[1], dtype=features.dtype)[None]
    return ClassGaussians(means, jnp.linalg.cholesky(damped))


def distances(features: Array, gaussians: ClassGaussians) -> Array:
    """Squared Mahalanobis distances to every class, `[B, D] -> [B, C]`, by triangular solves."""

    def one(mean: Array, factor: Array) -> Array:
        away = (features - mean[None]).T
        solved = jax.scipy.linalg.solve_triangular(factor.astype(away.dtype), away, lower=True)
        return (solved**2).sum(0)

    means = gaussians.means.astype(features.dtype)
    if len(gaussians.factors) == 1:
        return jax.vmap(one, (0, None), 1)(means, gaussians.factors[0])
    return jax.vmap(one, (0, 0), 1)(means, gaussians.factors)


def cafa(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    *,
    form: Literal["log_ratio", "ratio"] = "log_ratio",
    norm: Norm = BATCH,
    select: Predicate = norm_parameters,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """CAFA: features move to their predicted class and away from the others.

    D_c(x) = (g(x) - mu_c)^T Sigma_c^-1 (g(x) - mu_c). With y the predicted class, which carries no
    gradient, L = mean over rows of log(D_y / mean over c != y of D_c). Other than the learning rate
    there is nothing to tune.

    Args:
      apply_fn: the network; must return features.
      optimizer: Adam 1e-3 for CIFAR, as for TENT (not confirmed).
      form: `log_ratio`, or `ratio` without the logarithm; the paper's could not be confirmed. A sum
        in place of the mean over other classes adds log(C - 1) to the loss and changes nothing.
      norm: which batch statistics are used.
      select: adapted parameters, by path.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state, gaussians)`, those of `class_gaussians` for at least 2
      classes. Metrics: `loss`, `num_selected`, `num_nonfinite`, `did_update`. Without a row that
      counts nothing moves.

    Raises:
      ValueError: unknown form, (in `init`) fewer than 2 classes, (when called) a network without
        features, or with features of another length than the Gaussians.

    References:
      Jung et al., CAFA: Class-Aware Feature Alignment for Test-Time Adaptation, ICCV 2023. No
      official code could be read.
    """
    if form not in ("log_ratio", "ratio"):
        raise ValueError(f"form={form!r}; the forms are log_ratio and ratio.")
    apply_fn = checked(apply_fn)

    def init(params: Any, model_state: Any, gaussians: ClassGaussians) -> AdaptState:
        if len(gaussians.means) < 2:
            raise ValueError(
                f"CAFA got {len(gaussians.means)} class; another one is needed to move away from."
            )
        return adaptation.start(params, model_state, optimizer, select, known=gaussians)

    def update(state: AdaptState, batch: Any, key: Array) -> tuple[AdaptState, StepOutput]:
        inputs, rows, valid = batches.given(batch)
        gaussians = state.known.arrays
        classes, size = gaussians.means.shape

        def loss(params: Any) -> tuple[Array, tuple[Array, Array]]:
            whole = trees.merge(params, state.frozen)
            found, _ = apply_fn(whole, state.model_state, inputs, norm=norm, mask=valid)
            features = features_of(found, "CAFA")
            if features.shape[1] != size:
                raise ValueError(
                    f"the class Gaussians are of features of length {size} but the network's have "
                    f"length {features.shape[1]}; compute them with this network."
                )
            counted, logits, features = batches.sound(valid, found.logits, features)
            far = distances(features, gaussians)
            own = logits.argmax(-1)[:, None] == jnp.arange(classes)[None]
            tiny = jnp.finfo(far.dtype).tiny
            intra = jnp.maximum(jnp.where(own, far, 0).sum(-1), tiny)
            inter = jnp.maximum(jnp.where(own, 0, far).sum(-1) / (classes - 1), tiny)
            each = jnp.log(intra) - jnp.log(inter) if form == "log_ratio" else intra / inter
            return parallel.masked_mean(each, counted, axis_name), (found.logits, counted)

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
