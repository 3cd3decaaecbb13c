"""Entropy of reliable and novel rows with an anchor to the source: EATA, and ETA without it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import BATCH, Norm
from jaxtta import adaptation
from jaxtta.adaptation import AdaptState, mean_rows
from jaxtta.check_apply import checked
from jaxtta.images.entropy import Choice, Seen, minimiser
from jaxtta.selection import Predicate, norm_parameters

AxisName = parallel.AxisName


class MeanPrediction(NamedTuple):
    """Memory of EATA: running mean probability of selected rows `[C]`, and whether there is one."""

    probability: Array
    known: Array


def eta(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    num_classes: int,
    *,
    threshold: ArrayLike | None = None,
    redundancy: ArrayLike = 0.4,
    reweight: bool = True,
    open_set_filter: bool = False,
    norm: Norm = BATCH,
    select: Predicate = norm_parameters,
    axis_name: AxisName | None = None,
) -> Core:
    """ETA: `eata` without the anchor to the source; arguments as there.

    Returns:
      A core as in `tent`; its state holds `MeanPrediction`.
    """
    return minimiser(
        checked(apply_fn, num_classes),
        optimizer,
        _reliable_and_novel(num_classes, threshold, redundancy, reweight, axis_name),
        memory=_no_prediction(num_classes),
        open_set_filter=open_set_filter,
        norm=norm,
        select=select,
        axis_name=axis_name,
    )


def eata(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    num_classes: int,
    *,
    fisher_weight: ArrayLike = 1.0,
    threshold: ArrayLike | None = None,
    redundancy: ArrayLike = 0.4,
    reweight: bool = True,
    open_set_filter: bool = False,
    norm: Norm = BATCH,
    select: Predicate = norm_parameters,
    axis_name: AxisName | None = None,
) -> Core:
    """EATA: entropy of reliable, non-redundant rows, and an anchor to the source.

    1. M1 = rows with H(p) < threshold. 2. M = those with |cos(mean prediction, p)| < redundancy;
    all of M1 while there is no mean prediction. 3. L = mean over M of exp(threshold - H) H, the
    factor without gradient, + fisher_weight * sum_j F_j (theta_j - theta0_j)^2. 4. The mean
    prediction becomes 0.9 of itself + 0.1 of the mean over M. With M empty nothing changes.

    Args:
      apply_fn: the network.
      optimizer: SGD 2.5e-4, momentum 0.9, batches of 64 for ImageNet; Adam 1e-3 for CIFAR.
      num_classes: C.
      fisher_weight: beta; 2000 for ImageNet, 1 for CIFAR. May be traced.
      threshold: E0 in nats; `None`: 0.4 ln C. May be traced.
      redundancy: epsilon; 0.05 for ImageNet, 0.4 for CIFAR-10, 0.1 for CIFAR-100. May be traced.
      reweight: False leaves the factor exp(E0 - H) out.
      open_set_filter: see `agrees_with_source`.
      norm: which batch statistics are used.
      select: adapted parameters, by path; the same as for the Fisher diagonal.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state, fisher)`, F from `fisher_diagonal`, shaped like the
      adapted parameters; otherwise as in `tent`. Its state holds `MeanPrediction`.

    Raises:
      ValueError: (in `init`) F is shaped otherwise; (when called) another number of classes.

    References:
      Niu et al., Efficient Test-Time Model Adaptation without Forgetting, ICML 2022. Official code:
      mr-eggplant/EATA; the CIFAR numbers are those of mariodoebler/test-time-adaptation.
    """

    def penalty(state: AdaptState, params: Any, logits: Array, valid: Array) -> Array:
        moved = jax.tree.map(
            lambda f, x, x0: (f * (x - x0) ** 2).sum(), state.known.arrays, params, state.source
        )
        return jnp.asarray(fisher_weight) * optax.tree.sum(moved)

    core = minimiser(
        checked(apply_fn, num_classes),
        optimizer,
        _reliable_and_novel(num_classes, threshold, redundancy, reweight, axis_name),
        penalty=penalty,
        memory=_no_prediction(num_classes),
        keep_source=True,
        open_set_filter=open_set_filter,
        norm=norm,
        select=select,
        axis_name=axis_name,
    )

    def init(params: Any, model_state: Any, fisher: Any) -> AdaptState:
        state = core.init(params, model_state, fisher)
        _check_fisher(fisher, state.params)
        return state

    return Core(init, core.update)


def _check_fisher(fisher: Any, adapted: Any) -> None:
    found, wanted = trees.describe(fisher), trees.describe(adapted)
    shape_of = lambda about, name: about[name][0] if name in about else "none"
    wrong = [n for n in {**wanted, **found} if shape_of(found, n) != shape_of(wanted, n)]
    if wrong:
        raise ValueError(
            f"the Fisher diagonal has another form than the adapted parameters, for {wrong[0]!r} "
            f"the shape {shape_of(found, wrong[0])} in place of {shape_of(wanted, wrong[0])}; "
            "compute it by fisher_diagonal with the same params and the same select."
        )


def _no_prediction(num_classes: int) -> MeanPrediction:
    return MeanPrediction(jnp.zeros(num_classes), jnp.zeros((), bool))


def _reliable_and_novel(
    num_classes: int,
    threshold: ArrayLike | None,
    redundancy: ArrayLike,
    reweight: bool,
    axis_name: AxisName | None,
) -> Callable[[Seen], Choice]:
    """Steps 1, 2 and 4 of `eata`."""
    limit = 0.4 * math.log(num_classes) if threshold is None else threshold

    def choose(seen: Seen) -> Choice:
        known, mean = seen.memory.known, seen.memory.probability.astype(seen.logits.dtype)
        p, uncertainty = jax.nn.softmax(seen.logits), adaptation.entropy(seen.logits)
        lengths = jnp.linalg.norm(p, axis=-1) * jnp.linalg.norm(mean)
        cosine = p @ mean / jnp.maximum(lengths, 1e-8)
        novel = ~known | (jnp.abs(cosine) < redundancy)
        selected = seen.rows & (uncertainty < limit) & novel
        some = adaptation.count(selected, axis_name) > 0
        new = mean_rows(p, selected, axis_name)
        running = jnp.where(known, 0.9 * mean + 0.1 * new, new)
        after = MeanPrediction(running, jnp.ones_like(known))
        weights = jnp.exp(limit - uncertainty) if reweight else jnp.ones_like(uncertainty)
        return Choice(selected, weights, adaptation.where(some, after, seen.memory))

    return choose


def fisher_diagonal(
    apply_fn: ClassifierFn,
    params: Any,
    model_state: Any,
    batches: Array,
    *,
    per_example: bool = False,
    norm: Norm = BATCH,
    select: Predicate = norm_parameters,
) -> Any:
    """Diagonal of the Fisher matrix at the source parameters, from clean unlabelled images.

    The mean over batches of the squared gradient of the batch's mean cross-entropy against the
    model's own predictions, as in the official code. Since the mean is squared, F falls roughly
    with the batch size; `per_example` squares the gradient of every example instead, the reading of
    the paper.

    Args:
      apply_fn: the network.
      params: of the source.
      model_state: of the source.
      batches: clean images `[N, B, H, W, C]`; officially 2000 of them in batches of 64.
      per_example: see above; examples of a batch still share its statistics.
      norm: which batch statistics are used.
      select: adapted parameters, by path.

    Returns:
      F, shaped like the adapted parameters.
    """
    apply_fn = checked(apply_fn)
    adapted, frozen = adaptation.split(params, select)

    def losses(part: Any, images: Array) -> Array:
        logits = apply_fn(trees.merge(part, frozen), model_state, images, norm=norm)[0].logits
        labels = jax.lax.stop_gradient(logits).argmax(-1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    def squared(images: Array) -> Any:
        if per_example:
            grads = jax.jacrev(losses)(adapted, images)
            return jax.tree.map(lambda g: (g**2).mean(0), grads)
        grads = jax.grad(lambda part: losses(part, images).mean())(adapted)
        return jax.tree.map(lambda g: g**2, grads)

    def add(total: Any, images: Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, squared(images)), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, adapted), batches)
    return jax.tree.map(lambda x: x / len(batches), total)
