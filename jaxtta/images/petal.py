"""Lifelong adaptation with a posterior over source parameters as prior: PETAL."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import BATCH, TRAIN, Norm
from jaxtrain.protocol import Scan
from jaxtta import draws
from jaxtta.adaptation import AdaptState
from jaxtta.check_apply import checked
from jaxtta.images.mean_teacher import Augmentation, cotta_draws, restored, student_and_teacher
from jaxtta.selection import Predicate, all_parameters

# --- Posterior of the source ----------------------------------------------------------------------


class SwagDraws(NamedTuple):
    """Order of the images in every epoch, `[num_epochs, N * B]`, int32."""

    orders: Array


def swag_draws(key: Array, num_images: int, num_epochs: int = 5) -> SwagDraws:
    """The draws that `swag_diagonal` makes of its key, of `fold_in(key, i)` in epoch i."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_epochs))
    return SwagDraws(jax.vmap(lambda k: jax.random.permutation(k, num_images))(keys))


class Posterior(NamedTuple):
    """Diagonal Gaussian over the parameters of a network.

    Attributes:
      mean: all parameters; what PETAL starts from, restores to and draws to.
      model_state: batch statistics of the network at the mean.
      variance: like `mean`; differences of averages, so that rounding may leave it just below 0.
    """

    mean: Any
    model_state: Any
    variance: Any


def swag_diagonal(
    apply_fn: ClassifierFn,
    params: Any,
    model_state: Any,
    images: Array,
    labels: Array,
    key: Array | SwagDraws,
    *,
    num_epochs: int = 5,
    learning_rate: ArrayLike = 8e-4,
    last_rate: ArrayLike = 0.01,
    anneal_epochs: int = 3,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    norm: Norm = TRAIN,
    scan: Scan = jax.lax.scan,
) -> Posterior:
    """SWAG-diagonal: source training goes on, and moments of its iterates are the posterior.

    SGD with momentum and coupled weight decay on the cross-entropy. The first two epochs run at
    `learning_rate`; over the next `anneal_epochs` the rate moves linearly to `last_rate`. The
    parameters at the ends of all epochs but the first are averaged: mean and mean square, variance
    = mean square - mean^2. One last pass over the data at the mean averages the statistics of its
    batches, with equal weights, into `model_state`.

    Args:
      apply_fn: the network.
      params, model_state: of the trained source.
      images: training set in batches, `[N, B, H, W, C]` in [0, 1]; officially all of it, B 200.
      labels: `[N, B]`.
      key: shuffles the images of every epoch; or `SwagDraws`, as `swag_draws` makes them.
      num_epochs: at least 3.
      learning_rate: where source training ended, 0.1 * 0.2^3 officially. May be traced.
      last_rate: may be traced.
      anneal_epochs: at least 1.
      momentum: of SGD.
      weight_decay: added to the gradient, times the parameter.
      norm: statistics and their momentum while training.
      scan: runs the epochs, see `jaxtrain.protocol.Scan`.

    Returns:
      The posterior.

    Raises:
      ValueError: fewer than three epochs, or nothing to anneal over.

    References:
      Maddox et al., A Simple Baseline for Bayesian Uncertainty in Deep Learning, NeurIPS 2019.
    """
    if num_epochs < 3 or anneal_epochs < 1:
        raise ValueError(
            f"num_epochs={num_epochs} and anneal_epochs={anneal_epochs}; moments need two "
            "snapshots after the first epoch, so at least 3 epochs, and annealing at least 1."
        )
    apply_fn = checked(apply_fn)
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay), optax.trace(decay=momentum), optax.scale(-1.0)
    )

    def step(carry: Any, given: tuple[Array, Array, Array]) -> tuple[Any, None]:
        (params, stats, opt_state), (rate, x, y) = carry, given

        def loss(params: Any) -> tuple[Array, Any]:
            found, new = apply_fn(params, stats, x, norm=norm)
            each = optax.softmax_cross_entropy_with_integer_labels(found.logits, y)
            return each.mean(), new

        grads, stats = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        updates = jax.tree.map(lambda u: (rate * u).astype(u.dtype), updates)
        return (optax.apply_updates(params, updates), stats, opt_state), None

    def epoch(carry: Any, given: tuple[Array, Array]) -> tuple[Any, None]:
        (training, first, second, number), (i, order) = carry, given
        share = jnp.clip((i - 1) / anneal_epochs, 0, 1)
        rate = (1 - share) * learning_rate + share * last_rate
        shuffled = lambda x: x.reshape(-1, *x.shape[2:])[order].reshape(x.shape)
        rates = jnp.broadcast_to(rate, labels.shape[:1])
        training, _ = jax.lax.scan(step, training, (rates, shuffled(images), shuffled(labels)))
        add = lambda total, x: total + jnp.where(i > 0, x, 0).astype(total.dtype)
        first = jax.tree.map(add, first, training[0])
        second = jax.tree.map(lambda total, x: add(total, x**2), second, training[0])
        return (training, first, second, number + (i > 0)), None

    @jax.jit
    def moments(first: Any, second: Any, number: Array) -> tuple[Any, Any]:
        mean, square = jax.tree.map(lambda x: x / number, (first, second))
        return mean, jax.tree.map(lambda s, m: s - m**2, square, mean)

    images, labels = jnp.asarray(images), jnp.asarray(labels)
    drawn = draws.either(key, SwagDraws, lambda key: swag_draws(key, labels.size, num_epochs))
    zeros = jax.tree.map(jnp.zeros_like, params)
    start = ((params, model_state, optimizer.init(params)), zeros, zeros, jnp.int32(0))
    (_, *sums), _ = scan(epoch, start, (jnp.arange(num_epochs), drawn.orders))
    mean, variance = moments(*sums)

    def measure(stats: Any, given: tuple[Array, Array]) -> tuple[Any, None]:
        i, x = given
        averaging = Norm(weight=1.0, momentum=1 / (i + 1.0))
        return apply_fn(mean, stats, x, norm=averaging)[1], None

    stats, _ = jax.lax.scan(measure, model_state, (jnp.arange(len(images)), images))
    return Posterior(mean, stats, variance)


# --- Restoration ----------------------------------------------------------------------------------


def _smallest(leaves: list[Array], rank: Array) -> Array:
    """The entry of non-negative `leaves` with this rank, 0 for the smallest.

    Non-negative floats are ordered like their bit patterns, so the answer is built from the highest
    bit downwards by counting entries below; nothing is sorted or copied.
    """
    dtype = leaves[0].dtype
    num_bits = 8 * dtype.itemsize
    integer = jnp.dtype(f"int{num_bits}")
    bits = [jax.lax.bitcast_convert_type(x, integer) for x in leaves]

    def place(i: Array, found: Array) -> Array:
        tried = found | jnp.left_shift(jnp.ones((), integer), (num_bits - 2 - i).astype(integer))
        below = sum((x < tried).sum() for x in bits)
        return jnp.where(below <= rank, tried, found)

    found = jax.lax.fori_loop(0, num_bits - 1, place, jnp.zeros((), integer))
    return jax.lax.bitcast_convert_type(found, dtype)


def quantile(tree: Any, q: ArrayLike) -> Array:
    """Quantile of all numbers of a tree together, with linear interpolation between neighbours.

    Exact, as by sorting everything, but by counting passes over the leaves where they are.

    Args:
      tree: non-negative floating-point leaves of one type.
      q: in [0, 1]; may be traced.

    Returns:
      `[]`.
    """
    leaves = jax.tree.leaves(tree)
    position = jnp.asarray(q, leaves[0].dtype) * (trees.size(tree) - 1)
    rank = jnp.floor(position).astype(jnp.int32)
    low = _smallest(leaves, rank)
    not_above = sum((x <= low).sum() for x in leaves)
    following = jnp.stack([jnp.where(x > low, x, jnp.inf).min() for x in leaves]).min()
    high = jnp.where((not_above > rank + 1) | jnp.isinf(following), low, following)
    return low + (high - low) * (position - rank)


def fisher_restored(params: Any, source: Any, grads: Any, q: ArrayLike) -> Any:
    """Numbers whose squared gradient is below the q-quantile of all of them return to the source.

    Args:
      params, source: like each other.
      grads: like `params`.
      q: share that returns; 0 restores nothing. May be traced.
    """
    fisher = jax.tree.map(lambda g: g**2, grads)
    limit = quantile(fisher, q)
    return jax.tree.map(lambda x, x0, f: jnp.where(f < limit, x0, x), params, source, fisher)


# --- The method -----------------------------------------------------------------------------------


def petal(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    *,
    prior_weight: ArrayLike = 1e-9,
    restore: Literal["fisher", "random", "none"] = "fisher",
    restore_share: ArrayLike = 0.03,
    clamp_variance: bool = True,
    num_augmentations: int = 32,
    min_confidence: ArrayLike = 0.92,
    teacher_decay: ArrayLike = 0.999,
    loss: Literal["cross_entropy", "symmetric"] = "cross_entropy",
    augmentation: Augmentation | None = None,
    norm: Norm = BATCH,
    select: Predicate = all_parameters,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """PETAL: CoTTA's student and teacher, a posterior as prior, and restoration by Fisher.

    Steps 1 to 4 and 6 are those of `mean_teacher.cotta`. To the loss is added prior_weight *
    1/2 sum_j (theta_j - mu_j)^2 / (variance_j + 1e-6), mu the parameters given to `init`. The
    Fisher diagonal is the squared gradient of the whole loss of the batch; after the optimiser step
    and the teacher's average, every number of the student whose Fisher is strictly below the
    `restore_share`-quantile over all adapted numbers returns to mu. Scored: the teacher's logits.

    Args:
      apply_fn: the network.
      optimizer: Adam 1e-3 for CIFAR.
      prior_weight: lambda; 1e-9 for CIFAR, 1e-11 for ImageNet-C, 1e-10 for ImageNet-3DCC. May be
        traced.
      restore: by `fisher` (PETAL-FIM), at `random` with `restore_share` as the probability
        (PETAL-SRes), or `none`.
      restore_share: 0.03 for CIFAR, 0.003 for ImageNet, with `random` 0.01. May be traced.
      clamp_variance: False leaves a variance below 0 as it is, as the official code does.
      num_augmentations, min_confidence, teacher_decay, loss, augmentation, norm, select, axis_name:
        as in `cotta`.

    Returns:
      A core with `init(mean, model_state, variance)`, a `Posterior` from `swag_diagonal`; the
      variance is shaped like the parameters, and that of those that are adapted is held. Draws
      and metrics as in `cotta`.

    Raises:
      ValueError: unknown `restore`, or as in `cotta`; (in `init`) a variance that is not shaped
        like the parameters.

    References:
      Brahma and Rai, A Probabilistic Framework for Lifelong Test-Time Adaptation, CVPR 2023.
      Official code: dhanajitb/petal.
    """
    if restore not in ("fisher", "random", "none"):
        raise ValueError(f"restore is {restore!r}; it is fisher, random or none.")

    def back(params: Any, source: Any, grads: Any, returning: Any) -> Any:
        if restore == "fisher":
            return fisher_restored(params, source, grads, restore_share)
        return params if restore == "none" else restored(params, source, returning)

    def penalty(state: AdaptState, params: Any) -> Array:
        def part(x: Array, mean: Array, v: Array) -> Array:
            safe = (jnp.maximum(v, 0) if clamp_variance else v) + 1e-6
            return ((x - mean) ** 2 / safe).sum()

        total = optax.tree.sum(jax.tree.map(part, params, state.source, state.known.arrays))
        return jnp.asarray(prior_weight, total.dtype) * 0.5 * total

    core = student_and_teacher(
        apply_fn,
        optimizer,
        back,
        functools.partial(
            cotta_draws,
            num_augmentations=num_augmentations,
            restore_probability=restore_share if restore == "random" else None,
            axis_name=axis_name,
        ),
        penalty=penalty,
        num_augmentations=num_augmentations,
        min_confidence=min_confidence,
        teacher_decay=teacher_decay,
        loss=loss,
        augmentation=augmentation,
        norm=norm,
        select=select,
        axis_name=axis_name,
    )

    def init(params: Any, model_state: Any, variance: Any) -> AdaptState:
        shapes = [{k: v[0] for k, v in trees.describe(t).items()} for t in (params, variance)]
        if shapes[0] != shapes[1]:
            different = sorted(set(map(str, shapes[0].items())) ^ set(map(str, shapes[1].items())))
            raise ValueError(
                "the variance must have one number per parameter, but these differ: "
                f"{', '.join(different[:4])}; take it from swag_diagonal on the same network."
            )
        chosen, _ = trees.partition(variance, select)
        return core.init(params, model_state, chosen)

    return Core(init, core.update)
