"""Denoising diffusion models of images: training and ancestral sampling.

`training` is a `Core` for a network that predicts noise; `sampled` draws images from such a
network in one scan. Images are in [0, 1] outside and in [-1, 1] inside. Every image has its own
key, so that it does not depend on the others it is drawn with.

One network is conditional and unconditional: K of `num_classes` stands for no class, and takes the
place of a share of the labels in training; `jaxtrain.diffusion.guided` joins its two predictions.

References:
  Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020.
  Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, ICML 2021 (fewer steps).
  Ho and Salimans, Classifier-Free Diffusion Guidance, 2022.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel
from jaxtrain.core import Core, StepOutput, supervised
from jaxtrain.nets.unet import UNet
from jaxtrain.protocol import Model
from jaxtta import adaptation, batches, draws

# (x [B, H, W, C] in [-1, 1], times [B] int32) -> noise, row by row
NoiseFn = Callable[[Array, Array], Array]
FULL_STEPS = 1000


class Diffusion(NamedTuple):
    """A diffusion process of K steps.

    Attributes:
      betas: variance added by each step, `[K]`.
      times: step of the model's own process that each one stands for, `[K]`, int32.
    """

    betas: np.ndarray
    times: np.ndarray


def respaced(num_steps: int = 100, full_steps: int = FULL_STEPS) -> Diffusion:
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


class Steps(NamedTuple):
    """Numbers of every step i, `[K]` each, with a_i the product of 1 - beta up to i.

    Attributes:
      clean_share, noise_share: sqrt(a_i) and sqrt(1 - a_i), of the image and of the noise in x_i.
      from_clean, from_noisy: of the image and of x_i in the mean of x_(i-1) given both.
      deviation: of x_(i-1) given both; 0 for i = 0.
    """

    clean_share: Array
    noise_share: Array
    from_clean: Array
    from_noisy: Array
    deviation: Array


def steps_of(diffusion: Diffusion, dtype: Any) -> Steps:
    """sqrt(a_(i-1)) beta / (1 - a_i), sqrt(1 - beta) (1 - a_(i-1)) / (1 - a_i), and the others."""
    betas = diffusion.betas
    products = np.cumprod(1 - betas)
    before = np.append(1.0, products[:-1])
    numbers = (
        np.sqrt(products),
        np.sqrt(1 - products),
        np.sqrt(before) * betas / (1 - products),
        np.sqrt(1 - betas) * (1 - before) / (1 - products),
        np.sqrt(betas * (1 - before) / (1 - products)),
    )
    return Steps(*(jnp.asarray(x, dtype) for x in numbers))


def row_noise(row_keys: Array, step: Array | int, like: Array) -> Array:
    """Standard normal numbers of every row from `fold_in(its key, step)`, shaped `like`.

    Numbers `[B, steps, ...]` in place of the keys `[B]` are the noise of every step.
    """
    if jnp.issubdtype(row_keys.dtype, jnp.floating):
        return row_keys[:, step].astype(like.dtype)
    keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, step)
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)


def clean_of(x: Array, noise: Array, step: Steps) -> Array:
    """The image, in [-1, 1], if `noise` is what step `step` added to it."""
    return jnp.clip((x - step.noise_share * noise) / step.clean_share, -1, 1)


# --- Training -------------------------------------------------------------------------------------


class NoiseDraws(NamedTuple):
    """Draws of a training step: times `[B]`, noise `[B, H, W, C]`, labels left out `[B]`, bool."""

    times: Array
    noise: Array
    dropped: Array


def noise_draws(
    key: Array, shape: tuple[int, ...], *, drop_labels: ArrayLike = 0.1, dtype: Any = jnp.float32
) -> NoiseDraws:
    """The draws that `training` makes of a key, for one shard of images `[B, H, W, C]`.

    With `time, noise, drop = split(key, 3)`; under a device axis every shard has a key of its own,
    `parallel.fold_in_axis`.
    """
    key_time, key_noise, key_drop = jax.random.split(key, 3)
    return NoiseDraws(
        jax.random.randint(key_time, shape[:1], 0, FULL_STEPS),
        jax.random.normal(key_noise, shape, dtype),
        jax.random.bernoulli(key_drop, drop_labels, shape[:1]),
    )


def training(
    network: UNet,
    optimizer: optax.GradientTransformation,
    *,
    drop_labels: ArrayLike = 0.1,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """Training to predict noise, the simple loss of Ho et al. (eq. 14).

    For every image x0 in [-1, 1]: t uniform in 0 to 999, noise standard normal, and the squared
    error of network(sqrt(a_t) x0 + sqrt(1 - a_t) noise, t, label), averaged over all numbers.
    Labels are replaced by "no class" with probability `drop_labels`; a network without classes
    gets none.

    Args:
      network: with `num_classes`.
      optimizer: any Optax transformation.
      drop_labels: in [0, 1]; may be traced.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(key, batch)` and the state `TrainState`; a batch is a dict with `inputs`
      `[B, H, W, C]` in [0, 1] and, if there are classes, `labels` `[B]`. `jaxtrain.with_ema` around
      it keeps the averaged parameters that samples are drawn with. Its update takes a key or
      `NoiseDraws`, as `noise_draws` makes them. Metrics: `loss`, and
      `num_nonfinite`, images with numbers that are not finite, which add nothing to the loss.

    Raises:
      ValueError: (when called) a batch without them.
    """
    needed = {"inputs", "labels"} if network.num_classes else {"inputs"}

    def packed(batch: Any) -> dict[str, Any]:
        if not isinstance(batch, dict) or needed - set(batch):
            given = sorted(batch) if isinstance(batch, dict) else type(batch)
            raise ValueError(
                f"a batch is a dict with {' and '.join(sorted(needed))} but got {given}."
            )
        cleaned, finite = batches.finite_images(batch["inputs"])
        return {
            "inputs": {name: batch[name] for name in needed} | {"inputs": cleaned, "finite": finite}
        }

    def init(key: Array, inputs: Any) -> tuple[Any, Any]:
        times = jnp.zeros(len(inputs["inputs"]), jnp.int32)
        return network.init(key, inputs["inputs"], times, inputs.get("labels"))["params"], ()

    def apply(
        params: Any, model_state: Any, inputs: Any, *, key: Array | None, train: bool
    ) -> tuple[Any, Any]:
        del train, key
        times, noise, dropped = inputs["draws"]
        x0, labels = 2 * inputs["inputs"] - 1, inputs.get("labels")
        steps = steps_of(respaced(FULL_STEPS), x0.dtype)
        if labels is not None:
            labels = jnp.where(dropped, network.num_classes, labels)
        share = lambda table: table[times][:, None, None, None]
        x = share(steps.clean_share) * x0 + share(steps.noise_share) * noise
        return (network.apply({"params": params}, x, times, labels), noise), model_state

    def loss(outputs: tuple[Array, Array], batch: Any) -> tuple[Array, dict[str, Array]]:
        predicted, noise = outputs
        finite = batch["inputs"]["finite"]
        square = jnp.where(finite[:, None, None, None], (predicted - noise) ** 2, 0)
        return square.mean(), {"num_nonfinite": adaptation.count(~finite, axis_name)}

    core = supervised(Model(init, apply), loss, optimizer, axis_name=axis_name)

    def update(state: Any, batch: Any, key: Array | NoiseDraws) -> tuple[Any, StepOutput]:
        given = packed(batch)["inputs"]
        x = given["inputs"]

        def draw(key: Array) -> NoiseDraws:
            own = parallel.fold_in_axis(key, axis_name)
            return noise_draws(own, x.shape, drop_labels=drop_labels, dtype=x.dtype)

        given["draws"] = draws.either(key, NoiseDraws, draw)
        return core.update(state, {"inputs": given}, jax.random.key(0))

    return Core(lambda key, batch: core.init(key, packed(batch)), update)


# --- Sampling -------------------------------------------------------------------------------------


def sampled(
    predict_noise: NoiseFn,
    row_keys: Array,
    shape: tuple[int, ...],
    *,
    diffusion: Diffusion | None = None,
    dtype: Any = jnp.float32,
) -> Array:
    """Images by ancestral sampling (Ho et al., algorithm 2, with clipped images).

    x is standard normal. Then for i = K - 1, ..., 0: c = clip((x - sqrt(1 - a_i) eps) / sqrt(a_i),
    -1, 1) with eps = predict_noise(x, times[i]), and x is drawn from the posterior given c and x
    (`Steps`). Row r draws its start from `fold_in(row_keys[r], K)`, step i from that with i.

    Args:
      predict_noise: row by row; labels belong to it.
      row_keys: of the images, `[B]`; or standard normal numbers `[B, K + 1, H, W, C]`, those of
        step i at place i.
      shape: of one image, `(H, W, C)`.
      diffusion: `None`: all 1000 steps.
      dtype: of the images.

    Returns:
      Images in [0, 1], `[B, H, W, C]`.
    """
    process = respaced(FULL_STEPS) if diffusion is None else diffusion
    steps, times = steps_of(process, dtype), jnp.asarray(process.times)
    number = len(process.times)
    start = row_noise(row_keys, number, jnp.zeros((len(row_keys), *shape), dtype))

    def body(x: Array, i: Array) -> tuple[Array, None]:
        step = jax.tree.map(lambda table: table[i], steps)
        clean = clean_of(x, predict_noise(x, jnp.broadcast_to(times[i], len(x))), step)
        mean = step.from_clean * clean + step.from_noisy * x
        return mean + step.deviation * row_noise(row_keys, i, x), None

    x, _ = jax.lax.scan(body, start, jnp.arange(number)[::-1])
    return jnp.clip((x + 1) / 2, 0, 1)
