"""Mixing the style of images inside a network: MixStyle.

References:
  Zhou et al., Domain Generalization with MixStyle, ICLR 2021; with the choices of ITTA's official
  code, liangchen527/ITTA: always applied, partners from the whole batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain import parallel
from jaxtta import adaptation

AxisName = parallel.AxisName


class Mixing(NamedTuple):
    """A draw.

    Attributes:
      stage: after which styles are mixed, `[]`, 0 or 1.
      partner: place in the global batch of the image that each row is mixed with, `[B]`.
      itself: whether that is the row itself, `[B]`.
      share: of the row's own style, `[B]`.
    """

    stage: Array
    partner: Array
    itself: Array
    share: Array


def draw_mixing(key: Array, mask: Array, axis_name: AxisName | None = None) -> Mixing:
    """Stage 0 or 1 with equal chances, a random order of the rows, and shares Beta(0.1, 0.1).

    With `stage, share, order = split(key, 3)` and the row keys of `adaptation.row_keys`, the rows
    that count are ordered by one uniform number each, and the i-th of them is mixed with the i-th
    of that order. Padding is mixed with itself.

    Args:
      key: of the draw.
      mask: rows that count, `[B]`, bool.
      axis_name: mapped device axis, `None` for global arrays.
    """
    key_stage, key_share, key_order = jax.random.split(key, 3)
    size = len(mask)
    keys = adaptation.row_keys(key_share, size, axis_name)
    share = jax.vmap(lambda k: jax.random.beta(k, 0.1, 0.1))(keys)
    numbers = jax.vmap(jax.random.uniform)(adaptation.row_keys(key_order, size, axis_name))
    numbers, counted = parallel.gather((numbers, mask), axis_name)
    order = jnp.argsort(jnp.where(counted, numbers, jnp.inf))
    places = jnp.arange(len(counted))
    partner = jnp.where(counted, order[jnp.cumsum(counted) - 1], places)
    if axis_name is not None:
        here = lambda x: jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis_name) * size, size)
        partner, places = here(partner), here(places)
    stage = jax.random.bernoulli(key_stage).astype(jnp.int32)
    return Mixing(stage, partner, partner == places, share)


def mixed_style(x: Array, mixing: Mixing, axis_name: AxisName | None = None) -> Array:
    """Features `[B, H, W, C]` with the style of a mixture of each row's and its partner's.

    Style is mean and deviation over positions, sqrt(unbiased variance + 1e-6), without gradient.
    Rows that are their own partner stay as they are, to the bit.
    """
    size = x.shape[1] * x.shape[2]
    fixed = jax.lax.stop_gradient(x)
    mean = fixed.mean((1, 2))
    variance = ((fixed - mean[:, None, None]) ** 2).sum((1, 2)) / max(size - 1, 1)
    deviation = jnp.sqrt(variance + 1e-6)
    others = parallel.gather((mean, deviation), axis_name)
    share = mixing.share.astype(x.dtype)[:, None]
    mean_mixed, deviation_mixed = jax.tree.map(
        lambda own, all_rows: share * own + (1 - share) * all_rows[mixing.partner],
        (mean, deviation),
        others,
    )
    wide = lambda v: v[:, None, None]
    result = (x - wide(mean)) / wide(deviation) * wide(deviation_mixed) + wide(mean_mixed)
    return jnp.where(mixing.itself[:, None, None, None], x, result)
