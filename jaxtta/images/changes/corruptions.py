"""Twelve corruptions of CIFAR-10-C as JAX functions, to corrupt images on the device.

Every function takes a key, images `[B, 32, 32, 3]` in [0, 1] and a static severity 1 to 5, draws
anew for every image, and returns images of that shape that may leave [0, 1]; `corrupt` clips and
truncates to whole levels of 256 like the published images. All 19 corruptions, in NumPy, are in
`experiments.data.images.corruptions`, which reads the constants here. Not here are those that need
a codec (JPEG), photographs (frost), a sequential pass over pixels (glass blur), an unbounded
distance transform (spatter), or resampling along drawn directions (motion blur, snow, elastic).

References:
  Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
  Perturbations, ICLR 2019 (hendrycks/robustness, make_cifar_c.py).
"""

import functools
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import ndimage

SIDE = 32
# Per corruption, what severities 1 to 5 use.
CONSTANTS: dict[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # standard deviation
    "shot_noise": (500, 250, 100, 75, 50),  # photons of a white pixel
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),  # share of values
    "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),  # relative standard deviation
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # sigma
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),  # radius, sigma
    "zoom_blur": (1.06, 1.11, 1.16, 1.21, 1.26),  # largest zoom, not reached, in steps of 0.01
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),  # thickness, decay
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),  # added to the HSV value
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),  # factor
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),  # factor, shift
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),  # side of the small picture, share
}
NAMES = tuple(CONSTANTS)


def constant(name: str, severity: int) -> Any:
    """What a corruption uses at a severity of 1 to 5."""
    return CONSTANTS[name][severity - 1]


def check(name: str, known: Collection[str], severity: int, shape: tuple[int, ...]) -> None:
    """Raises ValueError for an unknown corruption, a severity outside 0 to 5, or other images."""
    if name not in known:
        raise ValueError(f"there is no corruption {name!r} here; there are {', '.join(known)}.")
    if severity not in range(6):
        raise ValueError(f"severity is {severity}; give 0 (none) to 5.")
    if len(shape) != 4 or shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"images must be [B, {SIDE}, {SIDE}, 3] but have shape {shape}.")


def corrupt(key: Array, images: Array, name: str, severity: int) -> Array:
    """Corrupts images to whole levels of 256, as published.

    Args:
      key: of the draws.
      images: `[B, 32, 32, 3]` in [0, 1].
      name: one of `NAMES`; static.
      severity: 1 to 5; static. 0 returns the images.

    Returns:
      `[B, 32, 32, 3]` in [0, 1], multiples of 1 / 255.

    Raises:
      ValueError: unknown name, severity, or other images.
    """
    check(name, NAMES, severity, images.shape)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floats in [0, 1] but are {images.dtype}.")
    if severity == 0:
        return images
    return jnp.floor(jnp.clip(FUNCTIONS[name](key, images, severity), 0, 1) * 255) / 255


# --- Noise ----------------------------------------------------------------------------------------


def gaussian_noise(key: Array, x: Array, severity: int) -> Array:
    return x + constant("gaussian_noise", severity) * jax.random.normal(key, x.shape, x.dtype)


def shot_noise(key: Array, x: Array, severity: int) -> Array:
    photons = constant("shot_noise", severity)
    return jax.random.poisson(key, x * photons).astype(x.dtype) / photons


def impulse_noise(key: Array, x: Array, severity: int) -> Array:
    key_hit, key_salt = jax.random.split(key)
    hit = jax.random.bernoulli(key_hit, constant("impulse_noise", severity), x.shape)
    return jnp.where(hit, jax.random.bernoulli(key_salt, 0.5, x.shape).astype(x.dtype), x)


def speckle_noise(key: Array, x: Array, severity: int) -> Array:
    return x + constant("speckle_noise", severity) * x * jax.random.normal(key, x.shape, x.dtype)


# --- Blur -----------------------------------------------------------------------------------------


def _both_axes(x: Array, matrix: np.ndarray | Array) -> Array:
    """The same map `[out, in]` of rows and of columns."""
    one = jnp.asarray(matrix, x.dtype)
    return jnp.einsum("hi,wj,bijc->bhwc", one, one, x, precision="highest")


def gaussian_blur(key: Array, x: Array, severity: int) -> Array:
    sigma = constant("gaussian_blur", severity)
    return _both_axes(x, ndimage.gaussian_filter1d(np.eye(SIDE), sigma, axis=0, mode="nearest"))


def defocus_kernel(severity: int) -> np.ndarray:
    """A smoothed disk, `[17, 17]`, sum 1."""
    radius, sigma = constant("defocus_blur", severity)
    y, z = np.mgrid[-8:9, -8:9]
    disk = (y**2 + z**2 <= radius**2).astype(np.float64)
    taps = np.exp(-(np.arange(-1, 2) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    return ndimage.convolve(disk / disk.sum(), np.outer(taps, taps), mode="mirror")


def defocus_blur(key: Array, x: Array, severity: int) -> Array:
    kernel = defocus_kernel(severity)
    padded = jnp.pad(x, ((0, 0), (8, 8), (8, 8), (0, 0)), mode="reflect")
    total = jnp.zeros_like(x)
    for row, column in np.argwhere(kernel > 0):  # 25 at most
        part = padded[:, row : row + SIDE, column : column + SIDE]
        total = total + float(kernel[row, column]) * part
    return total


@functools.cache
def zoom_matrix(factor: float) -> np.ndarray:
    """Centre crop to ceil(32 / f), linear zoom by f, trim to 32: one axis, `[32, 32]`."""
    crop = int(np.ceil(SIDE / factor))
    top = (SIDE - crop) // 2
    size = round(crop * factor)
    at = np.arange(size) * ((crop - 1) / (size - 1))
    low = np.minimum(np.floor(at).astype(int), crop - 2)
    matrix = np.zeros((size, SIDE))
    matrix[np.arange(size), top + low] = 1 - (at - low)
    matrix[np.arange(size), top + low + 1] += at - low
    trim = (size - SIDE) // 2
    return matrix[trim : trim + SIDE]


def zoom_factors(severity: int) -> np.ndarray:
    return np.arange(1, constant("zoom_blur", severity), 0.01)


def zoom_blur(key: Array, x: Array, severity: int) -> Array:
    matrices = jnp.asarray(np.stack([zoom_matrix(float(f)) for f in zoom_factors(severity)]))
    add = lambda total, matrix: (total + _both_axes(x, matrix), None)
    return jax.lax.scan(add, x, matrices)[0] / (len(matrices) + 1)


# --- Weather and light ----------------------------------------------------------------------------


def plasma(key: Array, number: int, decay: float, side: int = SIDE) -> Array:
    """Diamond-square height maps on a torus, each scaled to [0, 1], `[number, side, side]`."""
    heights = jnp.zeros((number, side, side))
    step, amplitude = side, 100.0
    while step >= 2:
        half, spread = step // 2, amplitude**2
        key, *keys = jax.random.split(key, 4)

        def bumped(key: Array, total: Array, spread: float = spread) -> Array:
            return total / 4 + jax.random.uniform(key, total.shape, minval=-spread, maxval=spread)

        corners = heights[:, ::step, ::step]
        total = corners + jnp.roll(corners, -1, 1)
        centres = bumped(keys[0], total + jnp.roll(total, -1, 2))
        above = centres + jnp.roll(centres, 1, 1) + corners + jnp.roll(corners, -1, 2)
        beside = centres + jnp.roll(centres, 1, 2) + corners + jnp.roll(corners, -1, 1)
        heights = heights.at[:, half::step, half::step].set(centres)
        heights = heights.at[:, ::step, half::step].set(bumped(keys[1], above))
        heights = heights.at[:, half::step, ::step].set(bumped(keys[2], beside))
        step, amplitude = half, amplitude / decay
    heights -= heights.min((1, 2), keepdims=True)
    return heights / heights.max((1, 2), keepdims=True)


def fog(key: Array, x: Array, severity: int) -> Array:
    thickness, decay = constant("fog", severity)
    brightest = x.max((1, 2, 3), keepdims=True)
    mist = plasma(key, len(x), decay)[..., None].astype(x.dtype)
    return (x + thickness * mist) * brightest / (brightest + thickness)


def brightness(key: Array, x: Array, severity: int) -> Array:
    # With hue and saturation kept, a colour is proportional to its HSV value; black becomes grey.
    value = x.max(-1, keepdims=True)
    brighter = jnp.clip(value + constant("brightness", severity), 0, 1)
    return jnp.where(value > 0, x * brighter / jnp.where(value > 0, value, 1), brighter)


def saturate(key: Array, x: Array, severity: int) -> Array:
    # With hue and value kept, distances to the HSV value are proportional to the saturation. Grey
    # has no hue and is taken for red.
    factor, shift = constant("saturate", severity)
    value, spread = x.max(-1, keepdims=True), jnp.ptp(x, axis=-1, keepdims=True)
    old = spread / jnp.where(value > 0, value, 1)
    new = jnp.clip(old * factor + shift, 0, 1)
    grey = jnp.concatenate([value, value * (1 - new), value * (1 - new)], axis=-1)
    return jnp.where(old > 0, value - (value - x) * new / jnp.where(old > 0, old, 1), grey)


def contrast(key: Array, x: Array, severity: int) -> Array:
    means = x.mean((1, 2), keepdims=True)
    return (x - means) * constant("contrast", severity) + means


# --- Digital --------------------------------------------------------------------------------------


def box_matrix(out: int, size: int) -> np.ndarray:
    """Pillow's box filter as a map `[out, size]`: means of the pixels whose centres lie inside."""
    scale = size / out
    centre = (np.arange(out)[:, None] + 0.5) * scale
    at = (np.arange(size) + 0.5 - centre) / max(scale, 1.0)
    inside = (at > -0.5) & (at <= 0.5)
    return inside / inside.sum(1, keepdims=True)


def pixelate(key: Array, x: Array, severity: int) -> Array:
    side = int(SIDE * constant("pixelate", severity))
    levels = jnp.rint(x * 255)
    for weights in (box_matrix(side, SIDE), box_matrix(SIDE, side)):
        matrix = jnp.asarray(weights, x.dtype)
        # Rounded to a level after every pass, columns first, as Pillow does.
        for equation in ("wj,bijc->biwc", "hi,bijc->bhjc"):
            levels = jnp.einsum(equation, matrix, levels, precision="highest")
            levels = jnp.floor(levels + 0.5 + 1e-4)
    return (levels + 1e-3) / 255  # stays this level when it is truncated


FUNCTIONS = {
    function.__name__: function
    for function in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        speckle_noise,
        gaussian_blur,
        defocus_blur,
        zoom_blur,
        fog,
        brightness,
        contrast,
        saturate,
        pixelate,
    )
}
