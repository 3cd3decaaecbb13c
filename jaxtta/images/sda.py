"""Images drawn back to the domain of a generative model before they are classified: SDA and DDA.

At test time, for any network and any projection, `sda` adds up what the source model says about an
image and what a model tuned to projected images says about its projection. `diffusion_projection`
is the projection of DDA, given a function that predicts noise. Before that `synthetic` draws
labelled images from a diffusion model (`denoising.py`) and projects them, and `tuned` trains the
source model on them.

References:
  Guo et al., Everything to the Synthetic: Diffusion-driven Test-time Adaptation via
  Synthetic-Domain Alignment, CVPR 2025. Official code:
  SHI-Labs/Diffusion-Driven-Test-Time-Adaptation-via-Synthetic-Domain-Alignment.
  Gao et al., Back to the Source: Diffusion-Driven Adaptation to Test-Time Corruption, CVPR 2023.
  Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel
from jaxtrain.core import Core, Held, StepOutput, supervised
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import SOURCE, TRAIN, Norm
from jaxtrain.protocol import Model, Scan
from jaxtta import adaptation, batches, draws
from jaxtta.check_apply import checked
from jaxtta.images.denoising import (
    Diffusion,
    clean_of,
    respaced,
    row_noise,
    sampled,
    steps_of,
)

# (parameters, images [B, H, W, C] in [0, 1], row_keys [B] or what `SdaDraws` has) -> images
Projection = Callable[[Any, Array, Any], Array]
Combination = Literal["sum", "entropy_sum", "confidence_sum", "entropy", "confidence", "second"]
COMBINATIONS = get_args(Combination)


def _check(kind: str) -> None:
    if kind not in COMBINATIONS:
        raise ValueError(f"combination is {kind!r}; it is one of {', '.join(COMBINATIONS)}.")


def combined(first: Array, second: Array, kind: Combination = "sum") -> Array:
    """Logits of two predictions of the same rows, `[B, C]` each.

    With entropies e and confidences c (largest probability): `sum` z1 + z2; `entropy_sum`
    e2 z1 + e1 z2; `confidence_sum` c1 z1 + c2 z2; `entropy` and `confidence` take the surer one,
    the second where they are equal; `second` is z2 alone.

    Raises:
      ValueError: unknown kind.
    """
    _check(kind)
    if kind == "sum":
        return first + second
    if kind == "second":
        return second
    e1, e2 = (adaptation.entropy(z)[:, None] for z in (first, second))
    c1, c2 = (jax.nn.softmax(z).max(-1, keepdims=True) for z in (first, second))
    if kind in ("entropy_sum", "confidence_sum"):
        w1, w2 = (e2, e1) if kind == "entropy_sum" else (c1, c2)
        left_out = jnp.isneginf(first) | jnp.isneginf(second)
        return jnp.where(left_out, -jnp.inf, w1 * first + w2 * second)
    return jnp.where(e1 >= e2 if kind == "entropy" else c1 <= c2, second, first)


class Models(NamedTuple):
    """The source model, the one for projected images, and what the projection takes."""

    params: Any
    model_state: Any
    tuned_params: Any
    tuned_state: Any
    projection: Any


class SdaDraws(NamedTuple):
    """What the projection is given for every row, `[B, ...]`: keys, or by hand."""

    rows: Any


def sda_draws(
    key: Array, batch_size: int, *, axis_name: parallel.AxisName | None = None
) -> SdaDraws:
    """The draws that `sda` makes of the key of an update, `adaptation.row_keys`."""
    return SdaDraws(adaptation.row_keys(key, batch_size, axis_name))


def sda(
    apply_fn: ClassifierFn,
    project: Projection,
    *,
    combination: Combination = "sum",
    norm: Norm = SOURCE,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """SDA: logits of the source model on x and of the tuned model on the projection of x.

    Each row is predicted by itself (with the stored statistics), so that results depend neither on
    the order of the stream nor on the batch size.

    Args:
      apply_fn: the network.
      project: draws images back to the domain that the tuned model was trained on.
      combination: see `combined`; SDA takes the sum.
      norm: which batch statistics are used.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state, projection=(), tuned=None)`: the parameters of the
      projection, and `(params, model_state)` tuned to projected synthetic images; `None` takes the
      source model for both, which is the ensemble of DDA up to the combination. Its update takes a
      key or `SdaDraws`, as `sda_draws` makes them. Nothing moves: the
      state is `Models`, held. Metrics: `entropy` of the scored logits, `changed`, the share of rows
      whose class differs from the source model's, `num_nonfinite`.

    Raises:
      ValueError: unknown combination, or (when called) a projection to another shape.
    """
    _check(combination)
    apply_fn = checked(apply_fn)

    def init(
        params: Any, model_state: Any, projection: Any = (), tuned: tuple[Any, Any] | None = None
    ) -> Held:
        other = (params, model_state) if tuned is None else tuned
        return Held(adaptation.copied(Models(params, model_state, *other, projection)))

    def update(state: Held, batch: Any, key: Array | SdaDraws) -> tuple[Held, StepOutput]:
        models: Models = state.arrays
        inputs, rows, valid = batches.given(batch)
        drawn = draws.either(
            key, SdaDraws, lambda key: sda_draws(key, len(inputs), axis_name=axis_name)
        )
        images = project(models.projection, inputs, drawn.rows)
        if images.shape != inputs.shape:
            raise ValueError(
                f"the projection made {images.shape} of images {inputs.shape}; it must keep their "
                "shape."
            )
        predict = lambda *given: apply_fn(*given, norm=norm, mask=valid)[0].logits
        first = predict(models.params, models.model_state, inputs)
        second = predict(models.tuned_params, models.tuned_state, images)
        logits = combined(first, second, combination)
        changed = (logits.argmax(-1) != first.argmax(-1)).astype(jnp.float32)
        counted, safe = batches.sound(valid, logits)
        metrics = {
            "entropy": parallel.masked_mean(adaptation.entropy(safe), counted, axis_name),
            "changed": parallel.masked_mean(changed, counted, axis_name),
            "num_nonfinite": adaptation.count(rows & ~counted, axis_name),
        }
        return state, adaptation.report(metrics, logits, jnp.zeros_like(valid))

    return Core(init, update)


# --- The projection of DDA ------------------------------------------------------------------------


def low_pass(images: Array, factor: int) -> Array:
    """Shrunk by `factor` and enlarged again, cubic in both directions, `[B, H, W, C]`."""
    batch, height, width, channels = images.shape
    small = (batch, max(height // factor, 1), max(width // factor, 1), channels)
    return jax.image.resize(jax.image.resize(images, small, "cubic"), images.shape, "cubic")


def diffusion_projection(
    predict_noise: Callable[[Any, Array, Array], Array],
    *,
    diffusion: Diffusion | None = None,
    start: int = 50,
    factor: int = 4,
    strength: ArrayLike = 6.0,
) -> Projection:
    """DDA: adds noise up to step `start` and removes it again, guided by the image's low pass.

    With x in [-1, 1] and a_i the product of 1 - beta up to step i: x = sqrt(a_i) x0 + sqrt(1 - a_i)
    noise for i = start. Then for i = start - 1, ..., 0: eps = the noise predicted in x at
    times[i]; c = clip((x - sqrt(1 - a_i) eps) / sqrt(a_i), -1, 1); one ancestral step (the mean of
    the posterior given c, and noise of variance beta_i (1 - a_(i-1)) / (1 - a_i), none for i = 0);
    and x <- that - strength * d |low_pass(x0) - low_pass(c)| / dx, through `predict_noise`.

    Args:
      predict_noise: `(parameters, x, times) -> noise`, row by row, without labels.
      diffusion: `None`: 100 steps.
      start: N; 50 of 100.
      factor: D of the low pass.
      strength: w; may be traced.

    Returns:
      A projection of images in [0, 1] to images in [0, 1]. In place of row keys it takes standard
      normal numbers `[B, start + 1, H, W, C]`, those of step i at place i.

    Raises:
      ValueError: `start` is not between 1 and the last step, or `factor` is below 1.

    Note:
      Different from the released code: one norm per image, where that has one over the batch, so
      that results do not depend on the batch; and the resampling of `jax.image.resize`. Variances
      are those of the process, not learned ones.
    """
    process = respaced(100) if diffusion is None else diffusion
    if not 1 <= start < len(process.betas) or factor < 1:
        raise ValueError(
            f"start={start} must be 1 to {len(process.betas) - 1}, and factor={factor} at least 1."
        )

    def project(params: Any, images: Array, row_keys: Array) -> Array:
        x0 = 2 * images - 1
        target, steps = low_pass(x0, factor), steps_of(process, x0.dtype)
        times = jnp.asarray(process.times)

        def body(x: Array, i: Array) -> tuple[Array, None]:
            step = jax.tree.map(lambda table: table[i], steps)

            def distance(x: Array) -> tuple[Array, Array]:
                predicted = predict_noise(params, x, jnp.broadcast_to(times[i], len(x)))
                clean = clean_of(x, predicted, step)
                square = ((target - low_pass(clean, factor)) ** 2).sum((1, 2, 3))
                # Without a difference there is no direction, and no gradient of a root at 0.
                some = square > 0
                return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1)), 0).sum(), clean

            pull, clean = jax.grad(distance, has_aux=True)(x)
            mean = step.from_clean * clean + step.from_noisy * x
            return mean + step.deviation * row_noise(row_keys, i, x) - strength * pull, None

        begin = steps.clean_share[start] * x0
        begin = begin + steps.noise_share[start] * row_noise(row_keys, start, x0)
        x, _ = jax.lax.scan(body, begin, jnp.arange(start)[::-1])
        return jnp.clip((x + 1) / 2, 0, 1)

    return project


# --- Before deployment ----------------------------------------------------------------------------


class SyntheticDraws(NamedTuple):
    """What `synthetic` gives every image, `[N, B, ...]`: keys, or by hand.

    Attributes:
      sampled: the `row_keys` of `denoising.sampled`.
      moved: what the projection is given.
    """

    sampled: Any
    moved: Any


def synthetic_draws(key: Array, num_batches: int, batch_size: int) -> SyntheticDraws:
    """The draws that `synthetic` makes of its key.

    Batch i has the keys `sampled, moved = split(fold_in(key, i))`, from which `adaptation.row_keys`
    makes those of its images.
    """

    def batch(i: Array) -> tuple[Array, Array]:
        first, second = jax.random.split(jax.random.fold_in(key, i))
        of = lambda key: adaptation.row_keys(key, batch_size, None)
        return of(first), of(second)

    return SyntheticDraws(*jax.vmap(batch)(jnp.arange(num_batches)))


def synthetic(
    predict_noise: Callable[[Array, Array, Array], Array],
    project: Callable[[Array, Array], Array],
    labels: Array,
    key: Array | SyntheticDraws,
    shape: tuple[int, ...],
    *,
    diffusion: Diffusion | None = None,
    scan: Scan = jax.lax.scan,
) -> Array:
    """Images of the diffusion model for given labels, projected: the synthetic domain.

    Args:
      predict_noise: `(x, times, labels [B]) -> noise`, row by row.
      project: `(images, row_keys) -> images`, the projection that test images will go through.
      labels: `[N, B]`, one batch after the other.
      key: of the draws; or `SyntheticDraws`, as `synthetic_draws` makes them.
      shape: of one image, `(H, W, C)`.
      diffusion: of the sampling; `None`: all 1000 steps.
      scan: runs the batches, see `jaxtrain.protocol.Scan`.

    Returns:
      Images in [0, 1], `[N, B, H, W, C]`.
    """

    given = draws.either(key, SyntheticDraws, lambda key: synthetic_draws(key, *labels.shape))

    def batch(carry: tuple[()], one: tuple[Array, SyntheticDraws]) -> tuple[tuple[()], Array]:
        chosen, drawn = one
        predict = lambda x, times: predict_noise(x, times, chosen)
        found = sampled(predict, drawn.sampled, shape, diffusion=diffusion)
        return carry, project(found, drawn.moved)

    return scan(batch, (), (labels, given))[1]


class TuningDraws(NamedTuple):
    """Images of every step of `tuned`, `[num_steps, batch_size]`, int32."""

    rows: Array


def tuning_draws(
    key: Array, num_images: int, *, num_steps: int = 1000, batch_size: int = 64
) -> TuningDraws:
    """The draws that `tuned` makes of its key, those of step i from `fold_in(key, i)`."""
    one = lambda i: jax.random.randint(jax.random.fold_in(key, i), (batch_size,), 0, num_images)
    return TuningDraws(jax.vmap(one)(jnp.arange(num_steps)))


def tuned(
    apply_fn: ClassifierFn,
    params: Any,
    model_state: Any,
    images: Array,
    labels: Array,
    key: Array | TuningDraws,
    *,
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 1000,
    batch_size: int = 64,
    norm: Norm = TRAIN,
    scan: Scan = jax.lax.scan,
) -> tuple[tuple[Any, Any], Array]:
    """The source model trained further on labelled images of the synthetic domain.

    Ordinary training: a step lowers the mean cross-entropy of `batch_size` images.

    Args:
      apply_fn: the network.
      params, model_state: of the source.
      images: in [0, 1], `[N, H, W, C]`.
      labels: `[N]`.
      key: of the draws; or `TuningDraws`, as `tuning_draws` makes them, which say how many steps
        there are and of how many images.
      optimizer: `None`: SGD, 5e-4, momentum 0.9, weight decay 1e-4, the published one of ResNet-50.
      num_steps: updates; 15 to 30 epochs in the paper.
      batch_size: images of one.
      norm: batch statistics, and their momentum.
      scan: runs the steps, see `jaxtrain.protocol.Scan`.

    Returns:
      `(params, model_state)` for `sda`, and the losses `[num_steps]`.
    """
    if optimizer is None:
        optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(5e-4, momentum=0.9))
    apply_fn = checked(apply_fn)

    def apply(params: Any, state: Any, inputs: Array, *, key: Array | None, train: bool) -> Any:
        del key, train
        return apply_fn(params, state, inputs, norm=norm)

    def loss(outputs: Any, batch: Any) -> tuple[Array, dict[str, Array]]:
        each = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, batch["labels"])
        return each.mean(), {}

    core = supervised(Model(lambda *_: (params, model_state), apply), loss, optimizer)
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    sizes = dict(num_steps=num_steps, batch_size=batch_size)
    drawn = draws.either(key, TuningDraws, lambda key: tuning_draws(key, len(images), **sizes))
    unused = jax.random.key(0)  # the network draws nothing

    def body(state: Any, index: Array) -> tuple[Any, Array]:
        batch = {"inputs": images[index], "labels": labels[index]}
        state, out = core.update(state, batch, unused)
        return state, out.metrics["loss"]

    start = core.init(unused, {"inputs": images[:1]})
    state, losses = scan(body, start, drawn.rows)
    return (state.params, state.model_state), losses
