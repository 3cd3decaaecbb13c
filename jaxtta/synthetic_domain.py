"""Images drawn back to the domain of a generative model before they are classified: SDA and DDA.

The test-time part, for any network and any projection: `sda` adds up what the source model says
about an image and what a model tuned to projected images says about its projection.
`diffusion_projection` is the projection of DDA, given a function that predicts noise.

What needs a diffusion model is not here: the model itself, synthetic labelled images, and tuning
the classifier on their projections (which is ordinary supervised training).

References:
  Guo et al., Everything to the Synthetic: Diffusion-driven Test-time Adaptation via
  Synthetic-Domain Alignment, CVPR 2025. Official code:
  SHI-Labs/Diffusion-Driven-Test-Time-Adaptation-via-Synthetic-Domain-Alignment.
  Gao et al., Back to the Source: Diffusion-Driven Adaptation to Test-Time Corruption, CVPR 2023.
  Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel
from jaxtrain.core import Core, StepOutput
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import SOURCE, Norm
from jaxtta import adaptation

# (images [B, H, W, C] in [0, 1], row_keys [B]) -> images
Projection = Callable[[Array, Array], Array]
Combination = Literal["sum", "entropy_sum", "confidence_sum", "entropy", "confidence"]
COMBINATIONS = ("sum", "entropy_sum", "confidence_sum", "entropy", "confidence")


def _check(kind: str) -> None:
    if kind not in COMBINATIONS:
        raise ValueError(f"combination is {kind!r}; it is one of {', '.join(COMBINATIONS)}.")


def combined(first: Array, second: Array, kind: Combination = "sum") -> Array:
    """Logits of two predictions of the same rows, `[B, C]` each.

    With entropies e and confidences c (largest probability): `sum` z1 + z2; `entropy_sum`
    e2 z1 + e1 z2; `confidence_sum` c1 z1 + c2 z2; `entropy` and `confidence` take the surer one,
    the second where they are equal.

    Raises:
      ValueError: unknown kind.
    """
    _check(kind)
    if kind == "sum":
        return first + second
    e1, e2 = (adaptation.entropy(z)[:, None] for z in (first, second))
    c1, c2 = (jax.nn.softmax(z).max(-1, keepdims=True) for z in (first, second))
    if kind == "entropy_sum":
        return e2 * first + e1 * second
    if kind == "confidence_sum":
        return c1 * first + c2 * second
    return jnp.where(e1 >= e2 if kind == "entropy" else c1 <= c2, second, first)


class PairState(NamedTuple):
    """The source model and the one for projected images; nothing moves."""

    params: Any
    model_state: Any
    tuned_params: Any
    tuned_state: Any


def sda(
    apply_fn: ClassifierFn,
    project: Projection,
    tuned: tuple[Any, Any] | None = None,
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
      project: draws images back to the domain that `tuned` was trained on.
      tuned: `(params, model_state)` tuned to projected synthetic images; `None` takes the source
        model for both, which is the ensemble of DDA up to the combination.
      combination: see `combined`; SDA takes the sum.
      norm: which batch statistics are used.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state)`. Metrics: `entropy` of the scored logits, `changed`,
      the share of rows whose class differs from the source model's.

    Raises:
      ValueError: unknown combination, or (when called) a projection to another shape.
    """
    _check(combination)

    def init(params: Any, model_state: Any) -> PairState:
        other = (params, model_state) if tuned is None else tuned
        copied = lambda tree: jax.tree.map(lambda x: jnp.array(x, copy=True), tree)
        return PairState(copied(params), copied(model_state), *map(copied, other))

    def update(state: PairState, batch: Any, key: Array) -> tuple[PairState, StepOutput]:
        inputs, mask = adaptation.inputs_of(batch)
        valid = adaptation.rows(inputs, mask)
        images = project(inputs, adaptation.row_keys(key, len(inputs), axis_name))
        if images.shape != inputs.shape:
            raise ValueError(
                f"the projection made {images.shape} of images {inputs.shape}; it must keep their "
                "shape."
            )
        predict = lambda *given: apply_fn(*given, norm=norm, mask=mask)[0].logits
        first = predict(state.params, state.model_state, inputs)
        second = predict(state.tuned_params, state.tuned_state, images)
        logits = combined(first, second, combination)
        changed = (logits.argmax(-1) != first.argmax(-1)).astype(jnp.float32)
        metrics = {
            "entropy": parallel.masked_mean(adaptation.entropy(logits), valid, axis_name),
            "changed": parallel.masked_mean(changed, valid, axis_name),
        }
        return state, adaptation.report(metrics, logits, jnp.zeros_like(valid))

    return Core(init, update)


# --- The projection of DDA ------------------------------------------------------------------------


class Diffusion(NamedTuple):
    """A diffusion process of K steps.

    Attributes:
      betas: variance added by each step, `[K]`.
      times: step of the model's own process that each one stands for, `[K]`, int32.
    """

    betas: np.ndarray
    times: np.ndarray


def respaced(num_steps: int = 100, full_steps: int = 1000) -> Diffusion:
    """Evenly spaced steps of the linear schedule, 1e-4 to 0.02 for 1000 steps.

    Steps are kept at round(i (full - 1) / (num - 1)); betas follow from the products of the kept
    ones, as in Nichol and Dhariwal.

    Raises:
      ValueError: fewer than 2 steps, or more than there are.
    """
    if not 2 <= num_steps <= full_steps:
        raise ValueError(f"num_steps={num_steps} must be 2 to {full_steps}.")
    scale = 1000 / full_steps
    kept = np.cumprod(1 - np.linspace(scale * 1e-4, scale * 0.02, full_steps))
    times = np.round(np.linspace(0, full_steps - 1, num_steps)).astype(np.int32)
    products = kept[times]
    return Diffusion(1 - products / np.append(1.0, products[:-1]), times)


def low_pass(images: Array, factor: int) -> Array:
    """Shrunk by `factor` and enlarged again, cubic in both directions, `[B, H, W, C]`."""
    batch, height, width, channels = images.shape
    small = (batch, max(height // factor, 1), max(width // factor, 1), channels)
    return jax.image.resize(jax.image.resize(images, small, "cubic"), images.shape, "cubic")


def diffusion_projection(
    predict_noise: Callable[[Array, Array], Array],
    *,
    diffusion: Diffusion | None = None,
    start: int = 50,
    factor: int = 4,
    strength: ArrayLike = 6.0,
) -> Projection:
    """DDA: adds noise up to step `start` and removes it again, guided by the image's low pass.

    With x in [-1, 1] and a_i the product of 1 - beta up to step i: x = sqrt(a_i) x0 + sqrt(1 - a_i)
    noise for i = start. Then for i = start - 1, ..., 0: eps = predict_noise(x, times[i]);
    c = clip((x - sqrt(1 - a_i) eps) / sqrt(a_i), -1, 1); one ancestral step (the mean of the
    posterior given c, and noise of variance beta_i (1 - a_(i-1)) / (1 - a_i), none for i = 0); and
    x <- that - strength * d |low_pass(x0) - low_pass(c)| / dx, through `predict_noise`.

    Args:
      predict_noise: `(x [B, H, W, C] in [-1, 1], times [B], int32) -> noise`, row by row.
      diffusion: `None`: `respaced()`, 100 steps.
      start: N; 50 of 100.
      factor: D of the low pass.
      strength: w; may be traced.

    Returns:
      A projection of images in [0, 1] to images in [0, 1].

    Raises:
      ValueError: `start` is not between 1 and the last step, or `factor` is below 1.

    Note:
      Different from the released code: one norm per image, where that has one over the batch, so
      that results do not depend on the batch; and the resampling of `jax.image.resize`. Variances
      are those of the process, not learned ones.
    """
    process = respaced() if diffusion is None else diffusion
    if not 1 <= start < len(process.betas) or factor < 1:
        raise ValueError(
            f"start={start} must be 1 to {len(process.betas) - 1}, and factor={factor} at least 1."
        )
    products = np.cumprod(1 - process.betas)
    before = np.append(1.0, products[:-1])
    betas = process.betas
    from_clean = np.sqrt(before) * betas / (1 - products)
    from_noisy = np.sqrt(1 - betas) * (1 - before) / (1 - products)
    deviation = np.sqrt(betas * (1 - before) / (1 - products))
    table = np.stack([np.sqrt(products), np.sqrt(1 - products), from_clean, from_noisy, deviation])

    def project(images: Array, row_keys: Array) -> Array:
        x0 = 2 * images - 1
        target, numbers = low_pass(x0, factor), jnp.asarray(table, x0.dtype)
        times = jnp.asarray(process.times)

        def noise(step: Array | int) -> Array:
            keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, step)
            return jax.vmap(lambda k: jax.random.normal(k, x0.shape[1:], x0.dtype))(keys)

        def body(x: Array, i: Array) -> tuple[Array, None]:
            clean_share, noise_share, a, b, spread = numbers[:, i]

            def distance(x: Array) -> tuple[Array, Array]:
                predicted = predict_noise(x, jnp.broadcast_to(times[i], len(x)))
                clean = jnp.clip((x - noise_share * predicted) / clean_share, -1, 1)
                square = ((target - low_pass(clean, factor)) ** 2).sum((1, 2, 3))
                # Without a difference there is no direction, and no gradient of a root at 0.
                some = square > 0
                return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1)), 0).sum(), clean

            pull, clean = jax.grad(distance, has_aux=True)(x)
            return a * clean + b * x + spread * noise(i) - strength * pull, None

        begin = numbers[0, start] * x0 + numbers[1, start] * noise(start)
        x, _ = jax.lax.scan(body, begin, jnp.arange(start)[::-1])
        return jnp.clip((x + 1) / 2, 0, 1)

    return project
