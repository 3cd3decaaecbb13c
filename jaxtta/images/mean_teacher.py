"""Adaptation with a slowly moving teacher: CoTTA, and the frame it shares with PETAL."""

import functools
from collections.abc import Callable
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
from jaxtrain.nets.segmenter import per_pixel
from jaxtta import adaptation, batches, draws
from jaxtta.adaptation import AdaptState
from jaxtta.check_apply import checked
from jaxtta.images.changes import cotta_augment
from jaxtta.selection import Predicate, all_parameters

# (images [B, H, W, C], key, row_keys [B]) -> images; in place of keys what is in `Augmenting`.
Augmentation = Callable[[Array, Any, Any], Array]
# (student after its step, source, gradients of that step, numbers drawn to return) -> student
Restore = Callable[[Any, Any, Any, Any], Any]


def standard_augmentation(
    strength: cotta_augment.Strength = cotta_augment.NORMAL, *, moves: bool = True
) -> Augmentation:
    """`jaxtta.images.changes.cotta_augment` with one draw per call.

    Its key may be a `cotta_augment.Draw`, its row keys the noise.

    Args:
      strength: ranges of the draws.
      moves: whether pixels move; False for networks that classify pixels.
    """

    def apply(x: Array, key: Any, keys: Any) -> Array:
        drawn = key
        if not isinstance(key, cotta_augment.Draw):
            drawn = cotta_augment.draw(key, x.shape[1], strength)
        return cotta_augment.apply(x, drawn, keys, strength, moves=moves)

    return apply


def cross_entropy(target: Array, logits: Array) -> Array:
    """-sum_c softmax(target)_c log softmax(logits)_c per row, `[..., C] -> [...]`; 0 log 0 = 0."""
    p, log_q = jax.nn.softmax(target), jax.nn.log_softmax(logits)
    return -(p * jnp.where((p > 0) | (log_q > -jnp.inf), log_q, 0)).sum(-1)


def symmetric_cross_entropy(target: Array, logits: Array) -> Array:
    """Half of each direction of `cross_entropy`; both arguments may carry gradients."""
    return 0.5 * (cross_entropy(target, logits) + cross_entropy(logits, target))


class CottaDraws(NamedTuple):
    """What CoTTA, PETAL and ViDA draw for a batch.

    Attributes:
      augmentations: `draws.Augmenting` of all augmented passes, `[num_augmentations, ...]`.
      returning: numbers of the student that return to the source, bool, like the adapted
        parameters; `()` where none is drawn.
    """

    augmentations: draws.Augmenting
    returning: Any


def cotta_draws(
    key: Array,
    params: Any,
    batch_size: int,
    *,
    num_augmentations: int = 32,
    restore_probability: ArrayLike | None = 0.01,
    axis_name: parallel.AxisName | None = None,
) -> CottaDraws:
    """The draws that `cotta`, `petal` and `vida` make of the key of an update.

    With `augment, restore = split(key)`: `draws.augmenting` for each of `split(augment, N)`, and a
    uniform number below the probability for each of the adapted numbers.

    Args:
      key: of the update.
      params: adapted ones, `state.params`.
      batch_size: rows, of this shard.
      num_augmentations: N, of the method.
      restore_probability: of the method; `None` for PETAL where it restores by Fisher.
      axis_name: mapped device axis, `None` for global arrays.
    """
    key_augment, key_restore = jax.random.split(key)
    augment = lambda key: draws.augmenting(key, batch_size, axis_name)
    augmentations = jax.vmap(augment)(jax.random.split(key_augment, num_augmentations))
    if restore_probability is None:
        return CottaDraws(augmentations, ())
    leaves, structure = jax.tree.flatten(params)
    keys = jax.tree.unflatten(structure, list(jax.random.split(key_restore, len(leaves))))
    returns = lambda x, k: jax.random.uniform(k, x.shape) < restore_probability
    return CottaDraws(augmentations, jax.tree.map(returns, params, keys))


def restored(params: Any, source: Any, returning: Any) -> Any:
    """The numbers of `source` where they return, else those of `params`."""
    return jax.tree.map(jnp.where, returning, source, params)


def student_and_teacher(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    restore: Restore,
    draw: Callable[..., CottaDraws],
    *,
    penalty: Callable[[AdaptState, Any], Array] | None = None,
    num_augmentations: int = 32,
    min_confidence: ArrayLike = 0.92,
    teacher_decay: ArrayLike = 0.999,
    loss: Literal["cross_entropy", "symmetric"] = "cross_entropy",
    augmentation: Augmentation | None = None,
    norm: Norm = BATCH,
    select: Predicate = all_parameters,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """A student that follows an averaged teacher and is restored in part after every step.

    The frame of `cotta` and of `jaxtta.images.petal`; the order of operations is that of `cotta`.
    Of a network that classifies pixels, confidence and loss of a row are means over its pixels.

    Args:
      apply_fn: the network.
      optimizer: over the adapted parameters.
      restore: step 7.
      draw: `(key, params, batch_size) -> CottaDraws`.
      penalty: `(state, params) -> []`, added to the loss.
      num_augmentations, min_confidence, teacher_decay, loss, augmentation, norm, select, axis_name:
        as in `cotta`.

    Returns:
      A core with `init(params, model_state, known=())`; `known` arrays are for the penalty.
    """
    losses = {"cross_entropy": cross_entropy, "symmetric": symmetric_cross_entropy}
    if loss not in losses or num_augmentations < 1:
        raise ValueError(
            f"loss={loss!r} and num_augmentations={num_augmentations}; the losses are "
            f"{', '.join(losses)}, and at least one augmentation is averaged."
        )
    change = augmentation or standard_augmentation()
    apply_fn = checked(apply_fn, dense=True)

    def init(params: Any, model_state: Any, known: Any = ()) -> AdaptState:
        teacher, _ = adaptation.split(params, select)
        return adaptation.start(
            params, model_state, optimizer, select, keep_source=True, memory=teacher, known=known
        )

    def update(
        state: AdaptState, batch: Any, key: Array | CottaDraws
    ) -> tuple[AdaptState, StepOutput]:
        inputs, rows, valid = batches.given(batch)
        drawn = draws.either(key, CottaDraws, lambda key: draw(key, state.params, len(inputs)))

        def predict(params: Any, x: Array) -> Array:
            whole = trees.merge(params, state.frozen)
            return apply_fn(whole, state.model_state, x, norm=norm, mask=valid)[0].logits

        counted, of_source = batches.sound(valid, predict(state.source, inputs))
        if of_source.ndim > 2 and augmentation is None:
            raise ValueError(
                f"the standard augmentation moves pixels, but the logits {of_source.shape} are of "
                "pixels in their places; pass augmentation=standard_augmentation(moves=False)."
            )
        sure = per_pixel(lambda z: jax.nn.softmax(z).max(-1))(of_source)
        confidence = parallel.masked_mean(sure, counted, axis_name)

        def averaged(x: Array) -> Array:
            def add(total: Array, one: draws.Augmenting) -> tuple[Array, None]:
                return total + predict(state.memory, change(x, one.shared, one.rows)), None

            shape = jax.eval_shape(predict, state.memory, x)
            start = parallel.mark_varying(jnp.zeros(shape.shape, shape.dtype), axis_name)
            return jax.lax.scan(add, start, drawn.augmentations)[0] / num_augmentations

        unsure = confidence < min_confidence
        teacher_logits = jax.lax.cond(unsure, averaged, lambda x: predict(state.memory, x), inputs)
        counted, target = batches.sound(counted, teacher_logits)

        def objective(params: Any) -> Array:
            each = per_pixel(losses[loss])(target, predict(params, inputs))
            value = parallel.masked_mean(each, counted, axis_name)
            return value if penalty is None else value + penalty(state, params)

        value, grads = parallel.value_and_grad(objective, axis_name)(state.params)
        number = adaptation.count(counted, axis_name)
        stepped, moved = adaptation.descend(state, value, grads, optimizer, number > 0)
        teacher = trees.ema(state.memory, stepped.params, teacher_decay)
        student = restore(stepped.params, state.source, grads, drawn.returning)
        student, teacher = adaptation.where(moved, (student, teacher), (state.params, state.memory))
        metrics = {
            "loss": value,
            "confidence": confidence,
            "augmented": unsure,
            "num_selected": number,
            "num_nonfinite": adaptation.count(rows & ~counted, axis_name),
            "did_update": moved,
        }
        state = stepped._replace(params=student, memory=teacher)
        return state, adaptation.report(metrics, teacher_logits, counted & moved)

    return Core(init, update)


def cotta(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    *,
    num_augmentations: int = 32,
    min_confidence: ArrayLike = 0.92,
    teacher_decay: ArrayLike = 0.999,
    restore_probability: ArrayLike = 0.01,
    loss: Literal["cross_entropy", "symmetric"] = "cross_entropy",
    augmentation: Augmentation | None = None,
    norm: Norm = BATCH,
    select: Predicate = all_parameters,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """CoTTA: a student learns from an averaged teacher and forgets at random back to the source.

    1. z_s = student(x). 2. confidence = mean over rows of the source model's largest probability.
    3. Below `min_confidence` z_t is the mean of the teacher's *logits* over augmented batches, else
    z_t = teacher(x): one decision for the batch, and the augmented passes only run when needed.
    4. Loss against softmax(z_t). 5. Optimiser step on the student. 6. teacher <- decay teacher +
    (1 - decay) student. 7. Every number of the student returns to the source with
    `restore_probability`; moments stay. Scored: z_t. All three networks use batch statistics.

    Args:
      apply_fn: the network, of images or of pixels.
      optimizer: Adam 1e-3 for CIFAR; SGD 0.01 with Nesterov momentum 0.9 for ImageNet.
      num_augmentations: N; they run one after the other.
      min_confidence: 0.92 for CIFAR-10, 0.72 for CIFAR-100, 0.1 for ImageNet; for another network
        the 5 % quantile of its confidence on training images. May be traced.
      teacher_decay: may be traced.
      restore_probability: 0.01 for CIFAR, 0.001 for ImageNet. May be traced.
      loss: `cross_entropy`, or `symmetric` as the official code has it for ImageNet.
      augmentation: `(images, key, row_keys) -> images`; `None`: `standard_augmentation()`. Where
        the network classifies pixels it must leave them in their places; flips and scales that
        are undone on the logits, as officially there, are left out.
      norm: which batch statistics are used.
      select: adapted parameters, by path.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state)`; its update takes a key or `CottaDraws`, such as
      `cotta_draws(key, ...)`. Metrics: `loss`, `confidence`, `augmented` (whether
      the augmented passes ran), `num_selected`, `num_nonfinite`, `did_update`.

    Raises:
      ValueError: unknown loss, or fewer than one augmentation; (when called) logits of pixels
        without an augmentation for them.

    References:
      Wang et al., Continual Test-Time Domain Adaptation, CVPR 2022. Official code: qinenergy/cotta.
    """

    return student_and_teacher(
        apply_fn,
        optimizer,
        lambda params, source, _, returning: restored(params, source, returning),
        functools.partial(
            cotta_draws,
            num_augmentations=num_augmentations,
            restore_probability=restore_probability,
            axis_name=axis_name,
        ),
        num_augmentations=num_augmentations,
        min_confidence=min_confidence,
        teacher_decay=teacher_decay,
        loss=loss,
        augmentation=augmentation,
        norm=norm,
        select=select,
        axis_name=axis_name,
    )
