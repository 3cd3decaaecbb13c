"""A frozen network adapted by what is added to its images: visual domain prompts, VDP."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core, StepOutput
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import SOURCE, Norm
from jaxtta import adaptation, batches, draws
from jaxtta.adaptation import AdaptState
from jaxtta.check_apply import checked
from jaxtta.images.mean_teacher import Augmentation, cross_entropy, standard_augmentation


def border(image_shape: tuple[int, int, int], width: int) -> Array:
    """The region of a frame `width` pixels wide: 1 there and 0 inside, `[H, W, C]`."""
    frame = jnp.ones(image_shape)
    return frame.at[width : image_shape[0] - width, width : image_shape[1] - width].set(0)


class Prompts(NamedTuple):
    """What is added to every image, `[H, W, C]` each.

    Attributes:
      specific: psi, of the present domain.
      agnostic: omega, kept over domains.
    """

    specific: Array
    agnostic: Array


class Importance(NamedTuple):
    """How much each number of omega has mattered, in the form of Synaptic Intelligence.

    Attributes:
      total: Lambda, sum over closed domains, `[H, W, C]`.
      path: sum over the updates of this domain of -gradient * change, `[H, W, C]`.
      start: omega at the first batch of this domain.
      anchor: omega* at the last batch of the domain before; what omega is drawn to.
    """

    total: Array
    path: Array
    start: Array
    anchor: Array


def close_domain(importance: Importance, agnostic: Array, damping: ArrayLike = 1e-3) -> Importance:
    """Adds the domain that ends to the importance: [path]_+ / ((omega - start)^2 + damping).

    Args:
      importance: of the domain that ends.
      agnostic: omega at its end.
      damping: xi; may be traced.
    """
    change = agnostic - importance.start
    gained = jnp.maximum(importance.path, 0) / (change**2 + damping)
    nothing = jnp.zeros_like(importance.path)
    return Importance(importance.total + gained, nothing, agnostic, agnostic)


class VdpMemory(NamedTuple):
    """Memory of VDP.

    Attributes:
      teacher: averaged prompts.
      importance: of omega.
      confidence: of the source on the last batch, `[]`.
      known: whether there was one, `[]`, bool.
    """

    teacher: Prompts
    importance: Importance
    confidence: Array
    known: Array


def vdp(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    *,
    region: Array | None = None,
    weight: ArrayLike = 0.1,
    damping: ArrayLike = 1e-3,
    detection_threshold: ArrayLike = 0.1,
    reset_specific: bool = False,
    teacher_decay: ArrayLike = 0.999,
    augmentation: Augmentation | None = None,
    norm: Norm = SOURCE,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """VDP: prompts in image space learn from their own average; the network never changes.

    An image is decorated as x_p = x + omega + psi; nothing is clipped. 1. Confidence = mean over
    rows of the source's largest probability on the images as they are. If it differs from that of
    the batch before by more than `detection_threshold`, the domain has changed: `close_domain`, and
    psi returns to 0 if `reset_specific`. 2. z_t = network on x with the teacher's prompts, z_s =
    network on T(x) with the student's. 3. g = gradient of the mean cross-entropy of z_s against
    softmax(z_t); psi steps along g, omega along g + the gradient of weight * sum Lambda (omega* -
    omega)^2. 4. path <- path - g * change of omega. 5. teacher <- decay teacher + (1 - decay)
    student. Scored: z_t.

    Args:
      apply_fn: the network.
      optimizer: over both prompts; Adam 1e-3 to 1e-2.
      image_shape: `(H, W, C)` of one image.
      region: where the prompts are, 0 or 1, `[H, W, C]`, for example `border(...)`; `None`: all.
      weight: lambda; may be traced.
      damping: xi; may be traced.
      detection_threshold: S, 0.05 to 0.1; larger than what the confidence of batches of one domain
        differs by. May be traced.
      reset_specific: see above; the optimiser's moments stay.
      teacher_decay: 0.999, less for short streams; may be traced.
      augmentation: T, `(images, key, row_keys) -> images`; `None`: `standard_augmentation()`.
      norm: which batch statistics are used. With those of the source (default), prompts of 0 give
        exactly the source's predictions.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state)`; its `params` are the student's `Prompts`, and its
      update takes a key or what `draws.augmenting` makes of it. Metrics:
      `loss`, `confidence`, `domain_changed`, `drift` (|omega - omega*|), `num_selected`,
      `num_nonfinite`, `did_update`.

    Raises:
      ValueError: a region of another shape; (when called) images of another shape.

    References:
      Gan et al., Decorate the Newcomers: Visual Domain Prompt for Continual Test Time Adaptation,
      AAAI 2023. No code was released: the importance follows Zenke et al., Continual Learning
      Through Synaptic Intelligence, ICML 2017, whose path integral is over the gradient of the loss
      without its penalty. The constants here are choices, not the paper's.
    """
    shape = tuple(image_shape)
    if region is not None and region.shape != shape:
        raise ValueError(
            f"the region of the prompts has shape {region.shape} but images have {shape}; give one "
            "number per pixel and channel."
        )
    change = augmentation or standard_augmentation()
    apply_fn = checked(apply_fn)

    def init(params: Any, model_state: Any) -> AdaptState:
        dtype = jnp.result_type(float, *jax.tree.leaves(params))
        nothing = jnp.zeros(shape, dtype)
        prompts = Prompts(nothing, nothing)
        importance = Importance(nothing, nothing, nothing, nothing)
        memory = VdpMemory(prompts, importance, jnp.zeros((), dtype), jnp.zeros((), bool))
        state = AdaptState(prompts, optimizer.init(prompts), params, model_state, (), memory)
        return jax.tree.map(jnp.copy, state)

    def update(
        state: AdaptState, batch: Any, key: Array | draws.Augmenting
    ) -> tuple[AdaptState, StepOutput]:
        inputs, rows, valid = batches.given(batch)
        if inputs.shape[1:] != shape:
            raise ValueError(
                f"the prompts were made for images of shape {shape} but got {inputs.shape[1:]}; "
                "give vdp the shape of the images."
            )
        memory = state.memory

        def predict(prompts: Prompts | None, x: Array) -> Array:
            if prompts is not None:
                added = prompts.specific + prompts.agnostic
                added = added if region is None else added * region.astype(added.dtype)
                x = x + added[None].astype(x.dtype)
            return apply_fn(state.frozen, state.model_state, x, norm=norm, mask=valid)[0].logits

        counted, of_source = batches.sound(valid, predict(None, inputs))
        some = adaptation.count(counted, axis_name) > 0
        sure = jax.nn.softmax(of_source).max(-1)
        confidence = parallel.masked_mean(sure, counted, axis_name)
        differs = jnp.abs(confidence - memory.confidence) > detection_threshold
        changed = some & memory.known & differs
        closed = close_domain(memory.importance, state.params.agnostic, damping)
        importance = adaptation.where(changed, closed, memory.importance)
        student, teacher = state.params, memory.teacher
        if reset_specific:
            fresh = lambda p: p._replace(specific=jnp.where(changed, 0, p.specific))
            student, teacher = fresh(student), fresh(teacher)

        logits = predict(teacher, inputs)
        counted, target = batches.sound(counted, logits)
        drawn = draws.either(
            key, draws.Augmenting, lambda key: draws.augmenting(key, len(inputs), axis_name)
        )
        other = change(inputs, drawn.shared, drawn.rows)

        def objective(prompts: Prompts) -> Array:
            each = cross_entropy(target, predict(prompts, other))
            return parallel.masked_mean(each, counted, axis_name)

        value, grads = parallel.value_and_grad(objective, axis_name)(student)
        pull = 2 * weight * importance.total * (student.agnostic - importance.anchor)
        whole = grads._replace(agnostic=(grads.agnostic + pull).astype(grads.agnostic.dtype))
        number = adaptation.count(counted, axis_name)
        stepped, moved = adaptation.descend(
            state._replace(params=student), value, whole, optimizer, number > 0
        )
        step = stepped.params.agnostic - student.agnostic
        importance = importance._replace(path=importance.path - grads.agnostic * step)
        average = trees.ema(teacher, stepped.params, teacher_decay)
        after = VdpMemory(average, importance, confidence, jnp.ones_like(memory.known))
        metrics = {
            "loss": value,
            "confidence": confidence,
            "domain_changed": changed,
            "drift": jnp.linalg.norm(stepped.params.agnostic - importance.anchor),
            "num_selected": number,
            "num_nonfinite": adaptation.count(rows & ~counted, axis_name),
            "did_update": moved,
        }
        state = adaptation.where(moved, stepped._replace(memory=after), state)
        return state, adaptation.report(metrics, logits, counted & moved)

    return Core(init, update)
