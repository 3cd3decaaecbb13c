"""FST: self-training for segmentation with a teacher that learns from the future; its base, DACS.

A network that was trained on labelled pictures of one domain goes on learning with them and with
pictures of another domain that nobody has labelled.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel
from jaxtrain.core import Core
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import TRAIN, Norm
from jaxtrain.nets.segmenter import labelled_cross_entropy
from jaxtta.adaptation import row_keys
from jaxtta.check_apply import checked
from jaxtta.dense.teacher import Lesson, look_ahead, self_training
from jaxtta.images.changes import cotta_augment
from jaxtta.images.changes.cotta_augment import Strength
from jaxtta.selection import Predicate, all_parameters

# Colours by a fifth, hue by a fifth of a turn, blur; no gamma, no noise.
STRONG = Strength(
    brightness=(0.8, 1.2),
    contrast=(0.8, 1.2),
    saturation=(0.8, 1.2),
    hue=(-0.2, 0.2),
    gamma=(1.0, 1.0),
    sigma=(0.15, 1.15),
    noise=0.0,
)


def pasted(labels: Array, keys: Array, num_classes: int) -> Array:
    """Pixels of half of the classes of each picture, rounded up, drawn at random.

    Args:
      labels: `[B, H, W]`; pixels below 0 are never chosen.
      keys: one per picture, `[B]`.
      num_classes: K.

    Returns:
      `[B, H, W]`, bool.
    """

    def one(labels: Array, key: Array) -> Array:
        present = (jnp.arange(num_classes)[:, None, None] == labels[None]).any((1, 2))
        order = jnp.where(present, jax.random.uniform(key, (num_classes,)), jnp.inf)
        rank = order.argsort().argsort()
        chosen = present & (rank < (present.sum() + 1) // 2)
        return (labels >= 0) & chosen[jnp.maximum(labels, 0)]

    return jax.vmap(one)(labels, keys)


def strongly_changed(
    images: Array, key: Array, keys: Array, *, jitter: ArrayLike = 0.8, blur: ArrayLike = 0.5
) -> Array:
    """Colours and blur of `STRONG`; whether there are any is drawn for all, how much for each.

    Args:
      images: `[B, H, W, 3]` in [0, 1].
      key: of what all share.
      keys: one per image, `[B]`.
      jitter: probability that colours change.
      blur: probability of a blur.
    """
    jittered, blurred = jax.random.uniform(key, (2,)) < jnp.asarray([jitter, blur])
    still = jnp.array([1.0, 1.0, 1.0, 0.0, 1.0])

    def one(image: Array, key: Array) -> Array:
        drawn = cotta_augment.draw(key, image.shape[0], STRONG)
        colour = jnp.where(jittered, drawn.colour, still)
        drawn = drawn._replace(colour=colour, sigma=jnp.where(blurred, drawn.sigma, 1e-3))
        return cotta_augment.apply(image[None], drawn, None, STRONG, moves=False)[0]

    return jax.vmap(one)(images, keys)


class Mixed(NamedTuple):
    """Pictures of both domains in one, `[B, H, W, ...]` each: images, labels, weights."""

    images: Array
    labels: Array
    weights: Array


def mixed_by_class(
    mask: Array, images: Array, labels: Array, target: Array, guessed: Array, sure: Array
) -> Mixed:
    """The source where the mask is, else the target with guessed labels that weigh `sure`."""
    weights = jnp.where(mask, 1.0, sure)
    return Mixed(
        jnp.where(mask[..., None], images, target), jnp.where(mask, labels, guessed), weights
    )


def _parts(batch: Any) -> tuple[Array, Array, Array]:
    names = ("inputs", "labels", "target")
    if not isinstance(batch, dict) or set(batch) != set(names):
        given = sorted(batch) if isinstance(batch, dict) else f"a {type(batch)}"
        raise ValueError(
            "self-training takes a dict of 'inputs' and their 'labels' from the source, and as "
            f"many images 'target', but got {given}."
        )
    images, labels, target = (batch[name] for name in names)
    if images.shape != target.shape or labels.shape != images.shape[:-1]:
        raise ValueError(
            f"inputs {images.shape} and target {target.shape} must be images of one shape, and "
            f"labels {labels.shape} whole numbers for their pixels."
        )
    return images, labels, target


def dacs(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    *,
    confidence: ArrayLike = 0.968,
    jitter: ArrayLike = 0.8,
    blur: ArrayLike = 0.5,
    decay: ArrayLike = 0.999,
    norm: Norm = TRAIN,
    select: Predicate = all_parameters,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """DACS: a mean teacher labels the target, and half of a source picture's classes cover it.

    1. The teacher's arg-max labels every pixel of the target; q is the share of all pixels of the
    batch whose largest probability is at least `confidence`. 2. Pixels of half of the classes of
    each source picture are pasted on a target picture, with their labels; the others have the
    teacher's labels and weigh q. 3. `strongly_changed`. 4. Loss: cross-entropy on the source
    pictures plus that on the mixed ones. 5. `self_training` takes the step and moves the teacher.

    Batches are dicts of `inputs` `[B, H, W, 3]` and `labels` `[B, H, W]` (below 0: none) of the
    source, and `target` `[B, H, W, 3]`.

    Args:
      apply_fn: a network that classifies pixels.
      optimizer: officially AdamW 6e-5 with weight decay 0.01, a warm-up and a linear decay.
      confidence: may be traced.
      jitter, blur: of `strongly_changed`; what the official code calls the probability of the
        jitter, 0.2, is that of none. May be traced.
      decay: of the teacher: 0.999, or 0.99 with few labelled pictures of one domain. May be traced.
      norm: statistics of the student's passes, and what they store. The teacher uses those of the
        batch or, if `norm` says so, of the source, and stores nothing.
      select: adapted parameters, by path.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state)`, see `self_training`. Metrics: `loss`, `source_loss`,
      `mixed_loss`, `confident` (q), `did_update`. Outputs: the teacher's logits of the target.

    Raises:
      ValueError: (when called) another batch, or logits that are not of its pixels.

    Left out: the distance to features of an ImageNet model, rare-class sampling, and borders
    without weight, which official configurations add. Pixels without a label count in no mean.

    References:
      Tranheden et al., DACS: Domain Adaptation via Cross-domain Mixed Sampling, WACV 2021.
    """
    apply_fn = checked(apply_fn, dense=True)

    def loss(
        student: Any, teacher: Any, model_state: Any, batch: Any, key: Array
    ) -> tuple[Array, Lesson]:
        images, labels, target = _parts(batch)
        key_all, key_rows = jax.random.split(key)
        keys = jax.vmap(jax.random.split)(row_keys(key_rows, len(images), axis_name))
        asked = norm._replace(momentum=None)
        logits = apply_fn(teacher, model_state, target, norm=asked)[0].logits
        if logits.shape[:-1] != labels.shape:
            raise ValueError(
                f"the network returned logits of shape {logits.shape}; it must classify the pixels "
                f"of the labels {labels.shape}."
            )
        is_sure = jax.nn.softmax(logits).max(-1) >= confidence
        sure = parallel.pmean(is_sure.mean(), axis_name)
        mask = pasted(labels, keys[:, 0], logits.shape[-1])
        mixed = mixed_by_class(mask, images, labels, target, logits.argmax(-1), sure)
        changed = strongly_changed(mixed.images, key_all, keys[:, 1], jitter=jitter, blur=blur)
        found, model_state = apply_fn(student, model_state, images, norm=norm)
        of_mixed, model_state = apply_fn(student, model_state, changed, norm=norm)
        plain = labelled_cross_entropy(found.logits, labels, 1.0, axis_name)
        other = labelled_cross_entropy(of_mixed.logits, mixed.labels, mixed.weights, axis_name)
        metrics = {"source_loss": plain, "mixed_loss": other, "confident": sure}
        return plain + other, Lesson(model_state, logits, metrics)

    return self_training(loss, optimizer, decay=decay, select=select, axis_name=axis_name)


def fst(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int = 3,
    kind: Literal["deep", "wide"] = "deep",
    leaky_moments: bool = False,
    **options: Any,
) -> Core:
    """FST-D and FST-W: `dacs` with a teacher that looks ahead.

    Args:
      apply_fn, optimizer: as in `dacs`.
      num_steps: K, 3 officially; an update costs K + 1 of those of `dacs`.
      kind: `deep` for FST-D, `wide` for FST-W; the batch of the latter, and `leaky_moments`, are
        those of `look_ahead`.
      leaky_moments: whether the optimiser remembers the virtual steps.
      **options: of `dacs`.

    Returns:
      A core as `dacs` makes it.

    Raises:
      ValueError: as `look_ahead`.

    References:
      Du et al., Learning from Future: A Novel Self-Training Framework for Semantic Segmentation,
      NeurIPS 2022. Official code: usr922/FST. As there, no gradient passes through virtual steps.
      Its FST-D takes the average after a step t with the share of step t + 1, so that a teacher
      which has not reached `decay` yet moves a little less.
    """
    core = dacs(apply_fn, optimizer, **options)
    return look_ahead(core, num_steps, kind, leaky_moments=leaky_moments)
