"""AugMix for one image as a function of its draws: views for MEMO.

A view starts from a random crop of the padded image, mirrored half the time. Three chains of one to
three operations are applied to it, their results are averaged with Dirichlet weights, and the
average is mixed with the start by a Beta weight. Operations work on whole pixel levels 0 to 255,
like those of Pillow that the official code calls: autocontrast, equalise, rotate, solarise, shear
and shift along either axis, posterise.

References:
  Hendrycks et al., AugMix, ICLR 2020; the operations and strengths that zhangmarvin/memo uses.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

NUM_CHAINS, MAX_DEPTH = 3, 3
OPERATIONS = (
    "autocontrast",
    "equalise",
    "rotate",
    "solarise",
    "shear_x",
    "shear_y",
    "shift_x",
    "shift_y",
    "posterise",
)
# Pillow reads the official fill colour 128 of RGB images as red.
FILL = (128.0, 0.0, 0.0)


class Draw(NamedTuple):
    """Draws of one view.

    Attributes:
      crop: down and right, in the padded image, whole pixels, `[2]`.
      flip: `[]`, bool.
      operation: index into `OPERATIONS`, `[chains, depth]`, int32.
      amount: strength between 0.1 and the level, out of 10, `[chains, depth]`.
      negative: direction of rotations, shears and shifts, `[chains, depth]`, bool.
      depth: operations in each chain, `[chains]`, int32.
      weights: of the chains, `[chains]`, sum 1.
      share: of the start in the result, `[]`.
    """

    crop: Array
    flip: Array
    operation: Array
    amount: Array
    negative: Array
    depth: Array
    weights: Array
    share: Array


def draw(key: Array, level: float = 1.0, padding: int = 4) -> Draw:
    """Draws one view; `level` is the largest strength out of 10."""
    keys = jax.random.split(key, 8)
    shape = (NUM_CHAINS, MAX_DEPTH)
    return Draw(
        jax.random.randint(keys[0], (2,), 0, 2 * padding + 1),
        jax.random.bernoulli(keys[1]),
        jax.random.randint(keys[2], shape, 0, len(OPERATIONS)),
        jax.random.uniform(keys[3], shape, minval=0.1, maxval=level),
        jax.random.bernoulli(keys[4], shape=shape),
        jax.random.randint(keys[5], (NUM_CHAINS,), 1, MAX_DEPTH + 1),
        jax.random.dirichlet(keys[6], jnp.ones(NUM_CHAINS)),
        jax.random.uniform(keys[7]),  # Beta(1, 1)
    )


def autocontrast(x: Array) -> Array:
    """Stretches every channel of levels `[H, W, C]` to 0 ... 255."""
    low, high = x.min((0, 1), keepdims=True), x.max((0, 1), keepdims=True)
    span = jnp.where(high > low, high - low, 255)
    # The small term keeps whole results whole.
    stretched = jnp.floor((x - low) * 255 / span + 1e-3)
    return jnp.where(high > low, stretched, x)


def equalise(x: Array) -> Array:
    """Flattens the histogram of every channel of levels `[H, W, C]`."""

    def channel(x: Array) -> Array:
        level = x.astype(jnp.int32)
        count = jnp.zeros(256, jnp.int32).at[level].add(1)
        last = count[level.max()]
        step = (x.size - last) // 255
        before = jnp.cumsum(count) - count
        table = jnp.clip((before + step // 2) // jnp.maximum(step, 1), 0, 255)
        return jnp.where(step > 0, table[level].astype(x.dtype), x)

    return jax.vmap(channel, -1, -1)(x)


def solarise(x: Array, threshold: Array) -> Array:
    """Inverts levels from `threshold` on."""
    return jnp.where(x < threshold, x, 255 - x)


def posterise(x: Array, bits: Array) -> Array:
    """Keeps the highest `bits` of the eight bits of a level."""
    unit = jnp.left_shift(1, 8 - bits.astype(jnp.int32)).astype(x.dtype)
    return jnp.floor(x / unit) * unit


def affine(x: Array, matrix: Array) -> Array:
    """Samples levels `[H, W, C]` at transformed places, bilinearly, `FILL` outside.

    Args:
      x: levels.
      matrix: `[2, 3]`, from (right, down, 1) of a pixel's centre in the result to right and down in
        `x`, in pixels from the corner.
    """
    height, width, _ = x.shape
    down, right = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    centre = jnp.stack([right, down, jnp.ones_like(down)]).astype(x.dtype)
    places = jnp.einsum("ij,jhw->ihw", matrix.astype(x.dtype), centre)
    inside = (places[0] >= 0) & (places[0] < width) & (places[1] >= 0) & (places[1] < height)
    left, top = jnp.floor(places[0] - 0.5), jnp.floor(places[1] - 0.5)
    total = jnp.zeros_like(x)
    for i in (0, 1):
        for j in (0, 1):
            row = jnp.clip(top + i, 0, height - 1).astype(jnp.int32)
            column = jnp.clip(left + j, 0, width - 1).astype(jnp.int32)
            vertical = jnp.abs(1 - i - (places[1] - 0.5 - top))
            horizontal = jnp.abs(1 - j - (places[0] - 0.5 - left))
            total = total + (vertical * horizontal)[..., None] * x[row, column]
    fill = jnp.broadcast_to(jnp.array(FILL, x.dtype), x.shape)
    return jnp.where(inside[..., None], jnp.floor(total + 1e-3), fill)


def operate(x: Array, operation: Array, amount: Array, negative: Array) -> Array:
    """One of `OPERATIONS` on levels `[H, W, 3]`, with `amount` out of 10."""
    side = x.shape[0]
    whole = lambda largest: jnp.trunc(amount * largest / 10)
    sign = jnp.where(negative, -1.0, 1.0)
    angle = jnp.deg2rad(sign * whole(30))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    centre = side / 2
    shear, shift = sign * amount * 0.03, sign * whole(side / 3)
    one, zero = jnp.ones_like(amount), jnp.zeros_like(amount)
    rotation = [cos, -sin, centre * (1 - cos + sin), sin, cos, centre * (1 - cos - sin)]
    matrices = {
        "rotate": rotation,
        "shear_x": [one, shear, zero, zero, one, zero],
        "shear_y": [one, zero, zero, shear, one, zero],
        "shift_x": [one, zero, shift, zero, one, zero],
        "shift_y": [one, zero, zero, zero, one, shift],
    }
    others = {
        "autocontrast": lambda: autocontrast(x),
        "equalise": lambda: equalise(x),
        "solarise": lambda: solarise(x, 256 - whole(256)),
        "posterise": lambda: posterise(x, 4 - whole(4)),
    }
    # Under vmap every branch is computed, so the five that move pixels share one.
    names = list(others)
    branch = [names.index(name) if name in others else len(others) for name in OPERATIONS]
    rows = jnp.stack([jnp.stack(matrices.get(name, rotation)) for name in OPERATIONS])
    move = lambda: affine(x, rows[operation].reshape(2, 3))
    return jax.lax.switch(jnp.array(branch)[operation], [*others.values(), move])


def apply(x: Array, drawn: Draw, padding: int = 4) -> Array:
    """One view of one image.

    Args:
      x: square image `[S, S, 3]` in [0, 1]; rounded to 256 levels first.
      drawn: the draws, for this padding.
      padding: black pixels around the image before the crop.

    Returns:
      `[S, S, 3]` in [0, 1].

    Raises:
      ValueError: not a square RGB image.
    """
    if x.ndim != 3 or x.shape[0] != x.shape[1] or x.shape[-1] != 3:
        raise ValueError(
            f"AugMix takes one square RGB image [side, side, 3] but got {x.shape}; crop or resize "
            "it, and map over a batch."
        )
    side = x.shape[0]
    levels = jnp.round(jnp.clip(x, 0, 1) * 255)
    padded = jnp.pad(levels, ((padding, padding), (padding, padding), (0, 0)))
    start = jax.lax.dynamic_slice(padded, (drawn.crop[0], drawn.crop[1], 0), (side, side, 3))
    start = jnp.where(drawn.flip, start[:, ::-1], start)

    def chain(total: Array, given: tuple[Array, ...]) -> tuple[Array, None]:
        operation, amount, negative, depth, weight = given

        def step(i: Array, x: Array) -> Array:
            changed = operate(x, operation[i], amount[i].astype(x.dtype), negative[i])
            return jnp.where(i < depth, changed, x)

        return total + weight * jax.lax.fori_loop(0, MAX_DEPTH, step, start), None

    weights = drawn.weights.astype(x.dtype)
    chains = (drawn.operation, drawn.amount, drawn.negative, drawn.depth, weights)
    mixed, _ = jax.lax.scan(chain, jnp.zeros_like(start), chains)
    share = drawn.share.astype(x.dtype)
    return (share * start + (1 - share) * mixed) / 255


def view(x: Array, key: Array | Draw) -> Array:
    """`apply` with fresh draws, or the given ones: level 1, padding an eighth of the side."""
    padding = math.ceil(x.shape[0] / 8)
    return apply(x, key if isinstance(key, Draw) else draw(key, padding=padding), padding)
