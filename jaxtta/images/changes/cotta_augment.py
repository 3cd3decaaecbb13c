"""The augmentation of CoTTA, PETAL, RMT, RoTTA and ViDA, and its lighter forms, as one function.

One draw of parameters is shared by all images of a call, as in the official code; only the last
pixel noise differs between images. Steps, in order: clip; brightness, contrast, saturation, hue
and gamma in a random order; padding by half the side; rotation, translation and scaling
(bilinear, black outside); blur; centre crop; horizontal flip; noise; clip.

References:
  Wang et al., Continual Test-Time Domain Adaptation, CVPR 2022. Official code: qinenergy/cotta.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Range = tuple[float, float]


class Strength(NamedTuple):
    """Ranges of the uniform draws.

    Attributes:
      brightness, contrast, saturation, gamma: factors and exponent.
      hue: shift in turns.
      degrees: rotation.
      translation: share of the padded side, rounded to pixels.
      scale: factor.
      sigma: of the 5 x 5 blur in pixels; `None`: no blur.
      noise: deviation of the pixel noise; 0: none.
      reflect: whether padding mirrors instead of repeating the edge.
    """

    brightness: Range = (0.6, 1.4)
    contrast: Range = (0.7, 1.3)
    saturation: Range = (0.5, 1.5)
    hue: Range = (-0.06, 0.06)
    gamma: Range = (0.7, 1.3)
    degrees: Range = (-15.0, 15.0)
    translation: float = 1 / 16
    scale: Range = (0.9, 1.1)
    sigma: Range | None = (0.001, 0.5)
    noise: float = 0.005
    reflect: bool = False


NORMAL = Strength()
SOFT = Strength(
    brightness=(0.8, 1.2),
    contrast=(0.85, 1.15),
    saturation=(0.75, 1.25),
    hue=(-0.03, 0.03),
    gamma=(0.85, 1.15),
    degrees=(-8.0, 8.0),
    scale=(0.95, 1.05),
    sigma=(0.001, 0.25),
)
# ROID's: mirrored padding, neither blur nor noise.
REDUCED = Strength(sigma=None, noise=0.0, reflect=True)


class Draw(NamedTuple):
    """One draw of parameters.

    Attributes:
      order: of the colour operations (brightness, contrast, saturation, hue, gamma), `[5]`, int32.
      colour: their parameters, in that fixed sequence, `[5]`.
      degrees: clockwise rotation, `[]`.
      shift: right and down, whole pixels, `[2]`.
      scale: `[]`.
      sigma: of the blur, `[]`.
      flip: `[]`, bool.
    """

    order: Array
    colour: Array
    degrees: Array
    shift: Array
    scale: Array
    sigma: Array
    flip: Array


def draw(key: Array, side: int, strength: Strength = NORMAL) -> Draw:
    """Draws the parameters of one call for images with this side."""
    keys = jax.random.split(key, 7)
    uniform = lambda k, limits, shape=(): jax.random.uniform(
        k, shape, minval=jnp.asarray(limits[0]), maxval=jnp.asarray(limits[1])
    )
    s = strength
    ranges = (s.brightness, s.contrast, s.saturation, s.hue, s.gamma)
    low, high = (jnp.array([r[i] for r in ranges]) for i in (0, 1))
    reach = strength.translation * 2 * side
    return Draw(
        jax.random.permutation(keys[0], 5),
        jax.random.uniform(keys[1], (5,), minval=low, maxval=high),
        uniform(keys[2], s.degrees),
        jnp.round(uniform(keys[3], (-reach, reach), (2,))),
        uniform(keys[4], s.scale),
        uniform(keys[5], s.sigma or (0.0, 0.0)),
        jax.random.bernoulli(keys[6]),
    )


GREY = (0.2989, 0.587, 0.114)


def _grey(x: Array) -> Array:
    return (x * jnp.array(GREY, x.dtype)[None, None, None]).sum(-1, keepdims=True)


def _blend(x: Array, other: Array, factor: Array) -> Array:
    return jnp.clip(factor * x + (1 - factor) * other, 0, 1)


def shift_hue(x: Array, turns: Array) -> Array:
    """Rotates the hue of colours `[..., 3]` in [0, 1]."""
    value, spread = x.max(-1), x.max(-1) - x.min(-1)
    safe = jnp.where(spread > 0, spread, 1)
    red, green, blue = jnp.moveaxis(x, -1, 0)
    hue = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = (jnp.where(spread > 0, hue, 0) + 6 * turns) % 6
    # A channel is value - spread * clip(min(k, 4 - k), 0, 1), k = (n + hue) mod 6; n = 5, 3, 1.
    offset = jnp.array([5.0, 3.0, 1.0], x.dtype).reshape(*(1,) * hue.ndim, 3)
    k = (offset + hue[..., None]) % 6
    return value[..., None] - spread[..., None] * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)


_COLOURS = (
    lambda x, f: jnp.clip(x * f, 0, 1),
    lambda x, f: _blend(x, _grey(x).mean((1, 2), keepdims=True), f),
    lambda x, f: _blend(x, _grey(x), f),
    lambda x, f: shift_hue(x, f),
    lambda x, f: jnp.clip(x, 1e-8, 1) ** f,
)


def _affine(x: Array, drawn: Draw, margin: int, reflect: bool) -> Array:
    """The middle of the padded, transformed image: the original side and `margin` around it.

    out = centre + shift + scale * R (in - centre), sampled at the inverse. Padding is by half the
    side; only places that a result needs are looked at.
    """
    side = x.shape[1]
    pad, whole = side // 2, side + 2 * (side // 2)
    centre = (whole - 1) / 2
    place = jnp.arange(pad - margin, pad + side + margin, dtype=x.dtype) - centre
    right, down = place[None, :] - drawn.shift[0], place[:, None] - drawn.shift[1]
    angle = jnp.deg2rad(drawn.degrees)
    cos, sin = jnp.cos(angle) / drawn.scale, jnp.sin(angle) / drawn.scale
    columns = (cos * right + sin * down + centre).astype(x.dtype)
    rows = (cos * down - sin * right + centre).astype(x.dtype)

    def source(i: Array) -> Array:
        i = i - pad
        if reflect:
            i = jnp.abs(i)
            return jnp.clip(jnp.where(i >= side, 2 * side - 2 - i, i), 0, side - 1)
        return jnp.clip(i, 0, side - 1)

    top, left = jnp.floor(rows).astype(jnp.int32), jnp.floor(columns).astype(jnp.int32)
    total = jnp.zeros((x.shape[0], *rows.shape, x.shape[-1]), x.dtype)
    for dy in (0, 1):
        for dx in (0, 1):
            i, j = top + dy, left + dx
            inside = (i >= 0) & (i < whole) & (j >= 0) & (j < whole)
            weight = jnp.abs(1 - dy - (rows - top)) * jnp.abs(1 - dx - (columns - left))
            weight = jnp.where(inside, weight, 0)[None, :, :, None]
            total = total + weight * x[:, source(i), source(j)]
    return total


def _blur(x: Array, sigma: Array) -> Array:
    """5 x 5 Gaussian blur without padding: 2 pixels fewer on each side."""
    taps = jnp.exp(-0.5 * (jnp.arange(-2, 3, dtype=x.dtype) / sigma) ** 2)
    taps = taps / taps.sum()
    height, width = x.shape[1] - 4, x.shape[2] - 4
    rows = jnp.stack([taps[i] * x[:, i : i + height] for i in range(5)]).sum(0)
    return jnp.stack([taps[i] * rows[:, :, i : i + width] for i in range(5)]).sum(0)


def apply(
    x: Array,
    drawn: Draw,
    row_keys: Array | None = None,
    strength: Strength = NORMAL,
    *,
    moves: bool = True,
) -> Array:
    """Augments a batch with one draw.

    Args:
      x: square images `[B, S, S, 3]` in [0, 1], S even; of any sides where nothing moves.
      drawn: the parameters.
      row_keys: one key per image for its noise, `[B]`, or standard normal numbers like `x`; `None`:
        no noise.
      strength: says whether there are blur, noise and mirrored padding.
      moves: whether images are turned, shifted, scaled and flipped; without, there are colours,
        blur and noise alone, and every pixel stays in its place.

    Returns:
      In the shape of `x`, in [0, 1].

    Raises:
      ValueError: images that are not RGB or, where they move, not square or of odd side.
    """
    if x.ndim != 4 or x.shape[-1] != 3 or (moves and (x.shape[1] != x.shape[2] or x.shape[1] % 2)):
        raise ValueError(
            f"the augmentation takes square RGB images [batch, side, side, 3] of even side but got "
            f"{x.shape}; crop or resize them, or let nothing move."
        )
    x = jnp.clip(x, 0, 1)
    colour = drawn.colour.astype(x.dtype)

    def step(i: Array, x: Array) -> Array:
        which = drawn.order[i]
        return jax.lax.switch(which, _COLOURS, x, colour[which])

    x = jax.lax.fori_loop(0, 5, step, x)
    blurred = strength.sigma is not None
    if moves:
        x = _affine(x, drawn, 2 if blurred else 0, strength.reflect)
    elif blurred:
        x = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), "edge")
    if blurred:
        x = _blur(x, drawn.sigma.astype(x.dtype))
    if moves:
        x = jnp.where(drawn.flip, x[:, :, ::-1], x)
    if row_keys is not None and strength.noise:
        noise = row_keys
        if not jnp.issubdtype(noise.dtype, jnp.floating):
            noise = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(row_keys)
        x = x + strength.noise * noise
    return jnp.clip(x, 0, 1)
