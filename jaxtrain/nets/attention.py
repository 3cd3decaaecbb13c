"""Attention without parameters: plain, fused, with a key of one's own; rotary codes; kept keys.

Projections belong to the networks (`jaxtrain.nets.transformer`). Keys and values may have fewer
heads than queries (grouped heads): query head i then reads head i // (heads / kv_heads).
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

Fused = Literal["xla", "cudnn"]


def rotate(x: Array, angles: Array) -> Array:
    """Rotates neighbouring pairs of the first 2 n channels of `x` by `angles`; the rest stay.

    Args:
      x: `[..., heads, T, d]`.
      angles: `[..., heads or 1, T, n]` in radians, n at most d / 2.
    """
    angles = jnp.expand_dims(angles, tuple(range(x.ndim - angles.ndim)))
    size = 2 * angles.shape[-1]
    if size < x.shape[-1]:
        return jnp.concatenate([rotate(x[..., :size], angles), x[..., size:]], axis=-1)
    pairs = x.reshape(*x.shape[:-1], size // 2, 2)
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    even, odd = pairs[..., 0], pairs[..., 1]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def rotary_angles(places: Array, size: int, base: float = 10_000.0) -> Array:
    """Angles `[..., 1, T, size / 2]` that code the `places` `[..., T]` in `size` channels.

    Pair i turns by place * base^(-2 i / size) radians (Su et al., RoFormer, arXiv 2104.09864).
    """
    frequencies = base ** (-jnp.arange(0, size, 2) / size)
    frequencies = jnp.expand_dims(frequencies, tuple(range(places.ndim + 1)))
    return places.astype(jnp.float32)[..., None, :, None] * frequencies


def attend(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """Scaled dot-product attention with the softmax in float32 or wider.

    Args:
      q: queries, `[..., heads, Q, head_dim]`.
      k: keys, `[..., kv_heads, K, head_dim]`; kv_heads divides heads.
      v: values, like `k`.
      mask: True where a query may read a key, broadcastable to `[..., 1, Q, K]`; None: all. A query
        that may read nothing gets the mean of all values.

    Returns:
      Mixed values, `[..., heads, Q, head_dim]`.
    """
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if grouped := kv_heads != heads:
        q = q.reshape(*q.shape[:-3], kv_heads, heads // kv_heads, *q.shape[-2:])
        k, v = k[..., None, :, :], v[..., None, :, :]
        mask = None if mask is None else mask[..., None, :, :]
    logits = jnp.einsum("...qd,...kd->...qk", q * q.shape[-1] ** -0.5, k)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    # Softmax with the division applied to the small result instead of the Q x K weights.
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    mixed = jnp.einsum("...qk,...kd->...qd", weights.astype(v.dtype), v) / total.astype(v.dtype)
    return mixed.reshape(*mixed.shape[:-4], heads, *mixed.shape[-2:]) if grouped else mixed


def attend_fused(q: Array, k: Array, v: Array, mask: Array | None, implementation: Fused) -> Array:
    """`attend` by `jax.nn.dot_product_attention`; numbers differ by rounding.

    Args:
      q, k, v, mask: as in `attend`.
      implementation: `"cudnn"` never stores the Q x K weights; it needs an Nvidia GPU and 16-bit
        activations. `"xla"` runs everywhere.
    """
    lead = jnp.broadcast_shapes(*(x.shape[:-3] for x in (q, k, mask) if x is not None))

    def flat(x: Array) -> Array:
        x = jnp.expand_dims(x, tuple(range(len(lead) + 3 - x.ndim)))
        return jnp.broadcast_to(x, lead + x.shape[-3:]).reshape(-1, *x.shape[-3:])

    query, key, value = (flat(x).swapaxes(1, 2) for x in (q, k, v))
    mixed = jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=None if mask is None else flat(mask),
        implementation=implementation,
    )
    return mixed.swapaxes(1, 2).reshape(*lead, *q.shape[-3:])


def attend_with_own(q: Array, k: Array, v: Array, mask: Array, own_k: Array, own_v: Array) -> Array:
    """Attention over shared keys and, for each query, one further key that no other query reads.

    The shared keys are not touched, so that many queries can read the same ones: a new token
    against a cache, or queries that must not see each other.

    Args:
      q: queries, `[..., heads, Q, head_dim]`.
      k: shared keys, `[..., heads, K, head_dim]`.
      v: shared values, like `k`.
      mask: True where a query may read a shared key, broadcastable to `[..., 1, Q, K]`.
      own_k: the queries' own keys, like `q`.
      own_v: the queries' own values, like `q`.

    Returns:
      Mixed values, `[..., heads, Q, head_dim]`.
    """
    q = q * q.shape[-1] ** -0.5
    logits = jnp.einsum("...qd,...kd->...qk", q, k).astype(jnp.float32)
    logits = jnp.where(mask, logits, -jnp.inf)
    own = (q * own_k).sum(axis=-1, keepdims=True).astype(jnp.float32)
    top = jax.lax.stop_gradient(jnp.maximum(logits.max(axis=-1, keepdims=True), own))
    weights, own_weight = jnp.exp(logits - top), jnp.exp(own - top)
    total = weights.sum(axis=-1, keepdims=True) + own_weight
    mixed = jnp.einsum("...qk,...kd->...qd", weights.astype(v.dtype), v)
    return (mixed + own_weight.astype(v.dtype) * own_v) / total.astype(v.dtype)


def with_room(kept: Any, extra: int) -> Any:
    """Adds `extra` empty places after kept keys and values, a tree of `[..., T, head_dim]`."""
    return jax.tree.map(lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, extra), (0, 0)]), kept)


def keep(kept: Any, new: Any, place: Array | int) -> Any:
    """Writes the keys and values of new tokens over the places `place`, `place + 1`, ... of `kept`.

    Both are trees of `[..., T, head_dim]`. Where `kept` does not have all of these places nothing
    is written: no token is moved over another one's place. What counts the tokens says so.

    Raises:
      ValueError: there are more new tokens than places, or `place` is known and too large.
    """

    def write(x: Array, y: Array) -> Array:
        size, number = x.shape[-2], y.shape[-2]
        if number > size or isinstance(place, int) and not 0 <= place <= size - number:
            raise ValueError(
                f"{number} new tokens do not fit at place {place} of {size} kept ones; make room "
                "with with_room."
            )
        old = jax.lax.dynamic_slice_in_dim(x, place, number, axis=-2)
        y = jnp.where((place >= 0) & (place <= size - number), y, old)
        return jax.lax.dynamic_update_slice_in_dim(x, y, place, axis=-2)

    return jax.tree.map(write, kept, new)
