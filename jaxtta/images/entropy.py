"""Adaptation by entropy minimisation: TENT, EATA, and the open-set filter.

All of them lower weight_i * H(p_i), averaged over the rows a method selects, by one optimiser step
per batch; they differ in selection, weights and penalties. Without a selected row nothing moves:
neither parameters nor the optimiser's moments and step count.
"""

import math
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
from jaxtta import adaptation
from jaxtta.adaptation import AdaptState, Predicate, mean_rows, norm_parameters

AxisName = parallel.AxisName


class Seen(NamedTuple):
    """What a method may look at to choose rows; nothing here carries a gradient.

    Attributes:
      inputs: `[B, H, W, C]`.
      logits: `[B, classes]`.
      rows: candidates, `[B]`, bool: no padding, and past the open-set filter if there is one.
      probe: `(inputs, mask) -> logits` with the current parameters and statistics of the mask's
        rows.
      memory: of the method.
      key: of this update.
    """

    inputs: Array
    logits: Array
    rows: Array
    probe: Callable[[Array, Array], Array]
    memory: Any
    key: Array


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


def minimiser(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    choose: Callable[[Seen], Choice],
    *,
    penalty: Callable[[AdaptState, Any, Array, Array], Array] | None = None,
    memory: Any = (),
    keep_source: bool = False,
    open_set_filter: bool = False,
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
      norm: which batch statistics are used.
      select: adapted parameters, by path.
      axis_name: mapped device axis, `None` for global arrays.
    """

    def init(params: Any, model_state: Any) -> AdaptState:
        keep = keep_source or open_set_filter
        return adaptation.start(
            params, model_state, optimizer, select, keep_source=keep, memory=memory
        )

    def update(state: AdaptState, batch: Any, key: Array) -> tuple[AdaptState, StepOutput]:
        inputs, mask = adaptation.inputs_of(batch)
        valid = adaptation.rows(inputs, mask)

        def predict(params: Any, x: Array, rows: Array | None) -> Array:
            whole = trees.merge(params, state.frozen)
            return apply_fn(whole, state.model_state, x, norm=norm, mask=rows)[0].logits

        original = predict(state.source, inputs, mask) if open_set_filter else None

        def loss(params: Any) -> tuple[Array, tuple[Array, Choice]]:
            logits = predict(params, inputs, mask)
            seen, fixed = jax.lax.stop_gradient((logits, params))
            candidates = valid
            if original is not None:
                candidates = valid & agrees_with_source(seen, original)
            probe = lambda x, rows: predict(fixed, x, rows)
            choice = choose(Seen(inputs, seen, candidates, probe, state.memory, key))
            weighted = jax.lax.stop_gradient(choice.weights) * adaptation.entropy(logits)
            value = parallel.masked_mean(weighted, choice.selected, axis_name)
            if penalty is not None:
                value = value + penalty(state, params, logits, valid)
            return value, (logits, choice)

        (value, (logits, choice)), grads = parallel.local_value_and_grad(
            loss, axis_name, has_aux=True
        )(state.params)
        value, grads = parallel.pmean((value, grads), axis_name)
        number = adaptation.count(choice.selected, axis_name)
        state = adaptation.descend(state, grads, optimizer, number > 0)
        state = state._replace(memory=choice.memory)
        metrics = {"loss": value, "num_selected": number, "did_update": number > 0}
        return state, adaptation.report(metrics, logits, choice.selected)

    return Core(init, update)


def _all(seen: Seen) -> Choice:
    return Choice(seen.rows, jnp.ones_like(seen.logits[:, 0]), seen.memory)


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
      apply_fn: the network, see `jaxtta.adaptation`.
      optimizer: Adam 1e-3 for batches of 200 CIFAR images; SGD 2.5e-4 with momentum 0.9 for batches
        of 64 ImageNet images.
      open_set_filter: see `agrees_with_source`.
      norm: which batch statistics are used.
      select: adapted parameters, by path.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state)`. Metrics: `loss` in nats, `num_selected`,
      `did_update`.

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


# --- EATA -----------------------------------------------------------------------------------------


class MeanPrediction(NamedTuple):
    """Memory of EATA: running mean probability of selected rows `[C]`, and whether there is one."""

    probability: Array
    known: Array


def eata(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    num_classes: int,
    *,
    fisher: Any = None,
    fisher_weight: ArrayLike = 1.0,
    threshold: ArrayLike | None = None,
    redundancy: ArrayLike = 0.4,
    reweight: bool = True,
    open_set_filter: bool = False,
    norm: Norm = BATCH,
    select: Predicate = norm_parameters,
    axis_name: AxisName | None = None,
) -> Core:
    """EATA: entropy of reliable, non-redundant rows, and an anchor to the source; ETA without it.

    1. M1 = rows with H(p) < threshold. 2. M = those with |cos(mean prediction, p)| < redundancy;
    all of M1 while there is no mean prediction. 3. L = mean over M of exp(threshold - H) H, the
    factor without gradient, + fisher_weight * sum_j F_j (theta_j - theta0_j)^2. 4. The mean
    prediction becomes 0.9 of itself + 0.1 of the mean over M. With M empty nothing changes.

    Args:
      apply_fn: the network.
      optimizer: SGD 2.5e-4, momentum 0.9, batches of 64 for ImageNet; Adam 1e-3 for CIFAR.
      num_classes: C.
      fisher: F from `fisher_diagonal`, shaped like the adapted parameters; `None` is ETA.
      fisher_weight: beta; 2000 for ImageNet, 1 for CIFAR. May be traced.
      threshold: E0 in nats; `None`: 0.4 ln C. May be traced.
      redundancy: epsilon; 0.05 for ImageNet, 0.4 for CIFAR-10, 0.1 for CIFAR-100. May be traced.
      reweight: False leaves the factor exp(E0 - H) out.
      open_set_filter: see `agrees_with_source`.
      norm: which batch statistics are used.
      select: adapted parameters, by path; the same as for `fisher`.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core as in `tent`; its state holds `MeanPrediction`.

    References:
      Niu et al., Efficient Test-Time Model Adaptation without Forgetting, ICML 2022. Official code:
      mr-eggplant/EATA; the CIFAR numbers are those of mariodoebler/test-time-adaptation.
    """
    limit = 0.4 * math.log(num_classes) if threshold is None else threshold
    memory = MeanPrediction(jnp.zeros(num_classes), jnp.zeros((), bool))

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

    def penalty(state: AdaptState, params: Any, logits: Array, valid: Array) -> Array:
        moved = jax.tree.map(
            lambda f, x, x0: (f * (x - x0) ** 2).sum(), fisher, params, state.source
        )
        return jnp.asarray(fisher_weight) * optax.tree.sum(moved)

    return minimiser(
        apply_fn,
        optimizer,
        choose,
        penalty=None if fisher is None else penalty,
        memory=memory,
        keep_source=fisher is not None,
        open_set_filter=open_set_filter,
        norm=norm,
        select=select,
        axis_name=axis_name,
    )


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
