"""A mean teacher held by source prototypes and a symmetric loss: RMT."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core, StepOutput
from jaxtrain.nets.classifier import Classified, ClassifierFn
from jaxtrain.nets.norm import BATCH, Norm
from jaxtrain.protocol import Scan
from jaxtta import adaptation, batches, draws
from jaxtta.adaptation import AdaptState
from jaxtta.check_apply import checked
from jaxtta.images.contrast import contrastive_loss, nearest_prototypes, new_projector, project
from jaxtta.images.mean_teacher import (
    Augmentation,
    cross_entropy,
    standard_augmentation,
    symmetric_cross_entropy,
)
from jaxtta.selection import Predicate, all_parameters

AxisName = parallel.AxisName


# --- What the method knows of the source ----------------------------------------------------------


def class_prototypes(
    apply_fn: ClassifierFn,
    params: Any,
    model_state: Any,
    images: Array,
    labels: Array,
    num_classes: int,
    *,
    norm: Norm = BATCH,
) -> Array:
    """Mean feature of every class over labelled source images.

    Args:
      apply_fn: the network; must return features.
      params, model_state: of the source.
      images: in batches, `[N, B, H, W, C]` in [0, 1].
      labels: `[N, B]`.
      num_classes: C.
      norm: which batch statistics are used; the same as in `rmt`.

    Returns:
      `[C, D]`; zeros for a class without an image, which `rmt` never takes for the nearest one.

    Raises:
      ValueError: the network returns no features.
    """
    apply_fn = checked(apply_fn, num_classes)

    def add(total: tuple[Array, Array], given: tuple[Array, Array]) -> Any:
        found, _ = apply_fn(params, model_state, given[0], norm=norm)
        belongs = jax.nn.one_hot(given[1], num_classes, dtype=found.logits.dtype)
        return (total[0] + belongs.T @ _features(found), total[1] + belongs.sum(0)), None

    shape = jax.eval_shape(lambda x: apply_fn(params, model_state, x, norm=norm)[0], images[0])
    features = _features(shape)
    zeros = lambda *shape: jnp.zeros((num_classes, *shape), features.dtype)
    start = zeros(features.shape[-1]), zeros()
    (total, number), _ = jax.lax.scan(add, start, (images, labels))
    return total / jnp.maximum(number, 1)[:, None]


def _features(found: Classified) -> Array:
    if isinstance(found.features, tuple):
        raise ValueError(
            "RMT compares features with class prototypes but the network returns none; let it "
            "return Classified(logits, features)."
        )
    return found.features


class Labelled(NamedTuple):
    """Source images `[N, H, W, C]`, uint8 or floating point in [0, 1], and their labels `[N]`."""

    images: Array
    labels: Array


class RmtDraws(NamedTuple):
    """What RMT draws: its augmentation, and places in the replayed images, `[B]`; `()` without."""

    augmentation: draws.Augmenting
    replayed: Any


def rmt_draws(
    key: Array,
    num_replayed: int | None,
    batch_size: int,
    *,
    axis_name: AxisName | None = None,
) -> RmtDraws:
    """The draws that `rmt` makes of the key of an update.

    With `shared, rows, source = split(key, 3)` and the keys `adaptation.row_keys` of the last two;
    every row draws its source image by its own key, with replacement.

    Args:
      key: of the update.
      num_replayed: labelled source images; `None`: none are replayed.
      batch_size: rows, of this shard.
      axis_name: mapped device axis, `None` for global arrays.
    """
    shared, key_rows, key_source = jax.random.split(key, 3)
    rows, source = (adaptation.row_keys(k, batch_size, axis_name) for k in (key_rows, key_source))
    augmentation = draws.Augmenting(shared, rows)
    if num_replayed is None:
        return RmtDraws(augmentation, ())
    place = lambda key: jax.random.randint(key, (), 0, num_replayed)
    return RmtDraws(augmentation, jax.vmap(place)(source))


def chosen(source: Labelled, index: Array) -> Labelled:
    """Images in [0, 1] and labels at these places `[B]`."""
    x = source.images[index]
    scaled = x.astype(jnp.float32) / 255 if jnp.issubdtype(x.dtype, jnp.integer) else x
    return Labelled(scaled, source.labels[index])


class Warm(NamedTuple):
    """Student, teacher and optimiser state after `warm_up`, all over the adapted parameters."""

    params: Any
    teacher: Any
    opt_state: Any


def warm_up(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    params: Any,
    model_state: Any,
    batches: Array,
    *,
    teacher_decay: ArrayLike = 0.999,
    norm: Norm = BATCH,
    select: Predicate = all_parameters,
    scan: Scan = jax.lax.scan,
) -> Warm:
    """Prepares student and teacher on source images before deployment; needs no labels.

    Step i of n: loss = mean symmetric cross-entropy of student(x) and teacher(x); an optimiser
    step, its result scaled by i / n, which is a learning rate that rises linearly to its final
    value; teacher <- decay teacher + (1 - decay) student.

    Args:
      apply_fn: the network.
      optimizer: the one of `rmt`; its step must be proportional to its rate, as those of SGD and
        Adam are.
      params, model_state: of the source.
      batches: source images `[n, B, H, W, C]` in [0, 1]; officially 50,000 in batches of 200.
      teacher_decay: may be traced.
      norm: which batch statistics are used.
      select: adapted parameters, by path.
      scan: runs the steps, see `jaxtrain.protocol.Scan`.

    Returns:
      What `rmt` starts from if `Known` has it.
    """
    apply_fn = checked(apply_fn)
    state = adaptation.start(params, model_state, optimizer, select)
    predict = lambda part, x: (
        apply_fn(trees.merge(part, state.frozen), state.model_state, x, norm=norm)[0].logits
    )

    def body(warm: Warm, given: tuple[Array, Array]) -> tuple[Warm, None]:
        share, x = given
        target = predict(warm.teacher, x)
        loss = lambda part: symmetric_cross_entropy(target, predict(part, x)).mean()
        updates, opt_state = optimizer.update(jax.grad(loss)(warm.params), warm.opt_state)
        updates = jax.tree.map(lambda u: (share * u).astype(u.dtype), updates)
        moved = optax.apply_updates(warm.params, updates)
        return Warm(moved, trees.ema(warm.teacher, moved, teacher_decay), opt_state), None

    shares = jnp.arange(1, len(batches) + 1) / len(batches)
    start = Warm(state.params, state.params, state.opt_state)
    return scan(body, start, (shares, batches))[0]


# --- The method -----------------------------------------------------------------------------------


class Known(NamedTuple):
    """What RMT is given about the source.

    Attributes:
      prototypes: from `class_prototypes`, `[C, D]`.
      replayed: labelled images to replay; `None` is the source-free variant, L_src = 0.
      warm: from `warm_up`; `None` starts at the source.
      projector: from `new_projector`; `None`: width 128 from `jax.random.key(0)`.
    """

    prototypes: Array
    replayed: Labelled | None = None
    warm: Warm | None = None
    projector: Any = None


class RmtMemory(NamedTuple):
    """Memory of RMT: the teacher's parameters, the projector's, and its optimiser state."""

    teacher: Any
    projector: Any
    projector_opt_state: Any


def rmt(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    *,
    source_weight: ArrayLike = 1.0,
    contrast_weight: ArrayLike = 1.0,
    temperature: ArrayLike = 0.1,
    teacher_decay: ArrayLike = 0.999,
    loss: Literal["symmetric", "cross_entropy"] = "symmetric",
    augmentation: Augmentation | None = None,
    norm: Norm = BATCH,
    select: Predicate = all_parameters,
    axis_name: AxisName | None = None,
) -> Core:
    """RMT: a symmetric loss against a mean teacher, drawn to the prototypes of the source.

    1. z, h = logits and features of the student; z~, h~ the same for an augmented batch, with its
    own statistics; z' = teacher(x). 2. L_ST = mean of (SCE(z, z') + SCE(z~, z')) / 2 with the
    symmetric cross-entropy SCE and no gradient in z'. 3. L_CL = `contrastive_loss` of the nearest
    prototype to h, h and h~ through `project`. 4. L_src = mean cross-entropy on as many labelled
    source images. 5. One optimiser step on L_ST + contrast_weight L_CL + source_weight L_src over
    student and projector; teacher <- decay teacher + (1 - decay) student. Scored: z + z', both from
    before the step.

    Args:
      apply_fn: the network; must return features.
      optimizer: Adam 1e-3 for CIFAR; SGD 0.01 with Nesterov momentum 0.9 for ImageNet. The
        projector has a state of its own of it.
      source_weight: of L_src; may be traced.
      contrast_weight: of L_CL; may be traced.
      temperature: of the contrast; may be traced.
      teacher_decay: may be traced.
      loss: `symmetric`, or `cross_entropy` with the teacher as target, for comparison.
      augmentation: `(images, key, row_keys) -> images`; `None`: `standard_augmentation()`.
      norm: which batch statistics are used.
      select: adapted parameters, by path; the same as for `warm_up`.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state, known)`, `Known` of the source; prototypes and replayed
      images are held. Its update takes a key or `RmtDraws`, as `rmt_draws` makes them. Metrics:
      `loss`, `contrast`, `source_loss`, `num_selected`, `num_nonfinite`, `did_update`.

    Raises:
      ValueError: unknown loss; (in `init`) prototypes that are not a matrix; (when called) the
        network returns no features.

    References:
      Doebler et al., Robust Mean Teacher for Continual and Gradual Test-Time Adaptation, CVPR 2023.
      Official code: mariodoebler/test-time-adaptation.

    Note:
      The official code takes source batches from shuffled epochs; here they are drawn with
      replacement, so that a batch depends on nothing but its key. A batch without a valid row
      changes nothing.
    """
    losses = {"symmetric": symmetric_cross_entropy, "cross_entropy": cross_entropy}
    if loss not in losses:
        raise ValueError(f"loss is {loss!r}; it is symmetric or cross_entropy.")
    change = augmentation or standard_augmentation()
    apply_fn = checked(apply_fn)

    def init(params: Any, model_state: Any, known: Known) -> AdaptState:
        prototypes = jnp.asarray(known.prototypes)
        if prototypes.ndim != 2:
            raise ValueError(
                f"prototypes have shape {prototypes.shape}; give one feature vector per class, "
                "[classes, features], from class_prototypes."
            )
        kept = Known(prototypes, known.replayed)
        state = adaptation.start(params, model_state, optimizer, select, known=kept)
        first = known.warm or Warm(state.params, state.params, state.opt_state)
        head = known.projector
        if head is None:
            size, dtype = prototypes.shape[1], prototypes.dtype
            head = new_projector(jax.random.key(0), size, dtype=dtype)
        memory = RmtMemory(first.teacher, head, optimizer.init(head))
        given = (first.params, first.opt_state, memory)
        student, opt_state, memory = adaptation.copied(given)
        return state._replace(params=student, opt_state=opt_state, memory=memory)

    def update(
        state: AdaptState, batch: Any, key: Array | RmtDraws
    ) -> tuple[AdaptState, StepOutput]:
        inputs, rows, valid = batches.given(batch)
        memory, known, size = state.memory, state.known.arrays, len(inputs)
        stored = None if known.replayed is None else len(known.replayed.images)
        drawn = draws.either(
            key, RmtDraws, lambda key: rmt_draws(key, stored, size, axis_name=axis_name)
        )
        changed = change(inputs, *drawn.augmentation)

        def found(params: Any, x: Array, mask: Array | None) -> Classified:
            whole = trees.merge(params, state.frozen)
            return apply_fn(whole, state.model_state, x, norm=norm, mask=mask)[0]

        teacher_logits = found(memory.teacher, inputs, valid).logits
        counted, target = batches.sound(valid, teacher_logits)
        replayed = None
        if known.replayed is not None:
            replayed = chosen(known.replayed, drawn.replayed)

        def objective(given: tuple[Any, Any]) -> tuple[Array, Any]:
            params, head = given
            plain, again = found(params, inputs, valid), found(params, changed, valid)
            each = losses[loss](target, plain.logits)
            each = 0.5 * (each + losses[loss](target, again.logits))
            consistency = parallel.masked_mean(each, counted, axis_name)
            features = _features(plain)
            prototypes = known.prototypes.astype(features.dtype)
            nearest = nearest_prototypes(prototypes, jax.lax.stop_gradient(features))
            views = jnp.stack([nearest, features, _features(again)])
            views = project(head, views.reshape(3 * size, -1)).reshape(3, size, -1)
            contrast = contrastive_loss(views, counted, temperature, axis_name)
            supervised = jnp.zeros((), consistency.dtype)
            if replayed is not None:
                logits = found(params, replayed.images.astype(inputs.dtype), None).logits
                wrong = optax.softmax_cross_entropy_with_integer_labels(logits, replayed.labels)
                # A label that the network leaves out, by a logit of -inf, teaches nothing.
                supervised = parallel.masked_mean(wrong, jnp.isfinite(wrong), axis_name)
            value = consistency + contrast_weight * contrast + source_weight * supervised
            return value, (contrast, supervised, plain.logits)

        (value, (contrast, supervised, logits)), grads = parallel.local_value_and_grad(
            objective, axis_name, has_aux=True
        )((state.params, memory.projector))
        values, grads = parallel.pmean(((value, contrast, supervised), grads), axis_name)
        number = adaptation.count(counted, axis_name)
        head = state._replace(params=memory.projector, opt_state=memory.projector_opt_state)
        head, moved = adaptation.descend(head, values[0], grads[1], optimizer, number > 0)
        student, moved = adaptation.descend(state, values[0], grads[0], optimizer, moved)
        teacher = trees.ema(memory.teacher, student.params, teacher_decay)
        metrics = dict(zip(("loss", "contrast", "source_loss"), values, strict=True))
        metrics["num_selected"] = number
        metrics["num_nonfinite"] = adaptation.count(rows & ~counted, axis_name)
        metrics["did_update"] = moved
        after = RmtMemory(teacher, head.params, head.opt_state)
        after = adaptation.where(moved, after, memory)
        scored = logits + teacher_logits
        state = student._replace(memory=after)
        return state, adaptation.report(metrics, scored, counted & moved)

    return Core(init, update)
