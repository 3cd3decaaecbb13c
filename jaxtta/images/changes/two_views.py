"""Two random views of every image, for representations that do not depend on the difference.

`photographs` is what Barlow Twins uses (BYOL's): resized crops, mirroring, jitter of colours, grey,
blur and solarisation, of which the views have blur and solarisation with different chances. It
differs in two points: colours change in a fixed order (brightness, contrast, saturation, hue), and
a crop that is larger than the image is cut to it instead of drawn again. `small` is for grey images
of few pixels: shifts, brightness, noise and an erased square.

References:
  Grill et al., Bootstrap Your Own Latent, NeurIPS 2020, appendix B.
  Zbontar et al., Barlow Twins, ICML 2021.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxtta.images.changes.cotta_augment import GREY, shift_hue


class Photo(NamedTuple):
    """Settings of `photographs`, which may be traced; pairs are those of the two views.

    Attributes:
      scale: least and greatest share of the area in a crop.
      ratio: least and greatest ratio of its sides.
      flip, jitter, grey: chances.
      strength: of brightness, contrast, saturation and hue.
      blur, solarise: chances in the two views.
      sigma: least and greatest of the blur, in pixels.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    grey: float = 0.2
    strength: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    blur: tuple[float, float] = (1.0, 0.1)
    solarise: tuple[float, float] = (0.0, 0.2)
    sigma: tuple[float, float] = (0.1, 2.0)


PHOTO = Photo()


def resized_crop(image: Array, key: Array, spec: Photo = PHOTO) -> Array:
    """A random part of an image `[H, W, C]` at its whole size, bicubic."""
    height, width, channels = image.shape
    key_area, key_ratio, key_place = jax.random.split(key, 3)
    low, high = spec.scale
    area = height * width * jax.random.uniform(key_area, minval=low, maxval=high)
    low, high = jnp.log(jnp.asarray(spec.ratio))
    ratio = jnp.exp(jax.random.uniform(key_ratio, minval=low, maxval=high))
    whole = jnp.array([height, width], jnp.float32)
    side = jnp.minimum(jnp.sqrt(area * jnp.stack([1 / ratio, ratio])), whole)
    first = jax.random.uniform(key_place, (2,)) * (whole - side)
    factor = whole / side
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), factor, -first * factor, method="cubic"
    )


def _blurred(image: Array, sigma: Array) -> Array:
    """Gaussian blur with edges repeated, 13 taps a side."""
    reach = 6
    taps = jnp.exp(-0.5 * (jnp.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(image.dtype)
    for axis in (0, 1):
        margin = [(reach, reach) if i == axis else (0, 0) for i in range(3)]
        padded, size = jnp.pad(image, margin, mode="edge"), image.shape[axis]
        parts = [
            taps[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i in range(2 * reach + 1)
        ]
        image = jnp.stack(parts).sum(0)
    return image


def _photograph(image: Array, key: Array, spec: Photo, view: int) -> Array:
    keys = jax.random.split(key, 8)
    chance = lambda k, share: jax.random.bernoulli(keys[k], jnp.float32(share))
    x = jnp.clip(resized_crop(image, keys[0], spec), 0, 1)
    x = jnp.where(chance(1, spec.flip), x[:, ::-1], x)
    around = jnp.array([1.0, 1.0, 1.0, 0.0])
    reach = jnp.array(spec.strength)
    light, contrast, saturation, hue = jax.random.uniform(
        keys[2], (4,), minval=around - reach, maxval=around + reach
    )
    grey = lambda y: (y * jnp.array(GREY, y.dtype)[None, None]).sum(-1, keepdims=True)
    mixed = lambda y, other, share: jnp.clip(share * y + (1 - share) * other, 0, 1)
    y = jnp.clip(x * light, 0, 1)
    y = mixed(y, grey(y).mean(), contrast)
    y = shift_hue(mixed(y, grey(y), saturation), hue)
    x = jnp.where(chance(3, spec.jitter), y, x)
    x = jnp.where(chance(4, spec.grey), grey(x), x)
    sigma = jax.random.uniform(keys[5], minval=spec.sigma[0], maxval=spec.sigma[1])
    x = jnp.where(chance(6, spec.blur[view]), _blurred(x, sigma), x)
    return jnp.where(chance(7, spec.solarise[view]) & (x >= 0.5), 1 - x, x)


def photographs(images: Array, keys: Array, spec: Photo = PHOTO) -> tuple[Array, Array]:
    """Two views of colour images.

    Args:
      images: `[B, H, W, 3]` in [0, 1].
      keys: one for each, `[B]`.
      spec: strengths and chances.

    Raises:
      ValueError: images of other shapes.
    """
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"views are made of images [batch, H, W, 3], but got {images.shape}.")

    def pair(image: Array, key: Array) -> tuple[Array, Array]:
        first, second = jax.random.split(key)
        return _photograph(image, first, spec, 0), _photograph(image, second, spec, 1)

    return jax.vmap(pair)(images, keys)


def small(
    images: Array,
    keys: Array,
    *,
    shift: int = 1,
    brightness: tuple[float, float] = (0.8, 1.2),
    noise: float = 0.1,
    erased: int = 3,
    chance: float = 0.5,
) -> tuple[Array, Array]:
    """Two views of grey images of few pixels.

    Args:
      images: `[B, H, W]`.
      keys: one for each, `[B]`.
      shift: most pixels up, down and to the sides; zeros come in.
      brightness: range of the factor.
      noise: deviation of the noise of pixels.
      erased: side of the square that is set to 0.
      chance: of a square.

    Raises:
      ValueError: images of other shapes, or smaller than the square.
    """
    if images.ndim != 3 or min(images.shape[1:]) < erased:
        raise ValueError(
            f"views are made of grey images [batch, H, W] that a square of {erased} pixels fits "
            f"into, but got {images.shape}."
        )
    height, width = images.shape[1:]

    def one(image: Array, key: Array) -> Array:
        keys = jax.random.split(key, 5)
        start = jax.random.randint(keys[0], (2,), 0, 2 * shift + 1)
        moved = jax.lax.dynamic_slice(jnp.pad(image, shift), start, (height, width))
        low, high = brightness
        x = moved * jax.random.uniform(keys[1], minval=low, maxval=high)
        x = x + noise * jax.random.normal(keys[2], x.shape, x.dtype)
        highest = jnp.array([height, width]) - erased + 1
        corner = jax.random.randint(keys[3], (2,), 0, highest)
        inside = lambda size, low: (jnp.arange(size) >= low) & (jnp.arange(size) < low + erased)
        square = inside(height, corner[0])[:, None] & inside(width, corner[1])[None]
        return jnp.where(square & jax.random.bernoulli(keys[4], chance), 0, x)

    def pair(image: Array, key: Array) -> tuple[Array, Array]:
        first, second = jax.random.split(key)
        return one(image, first), one(image, second)

    return jax.vmap(pair)(images, keys)
