"""Attention for networks that keep keys and values: plain, with a key of one's own, rotary codes.

Projections belong to the networks; these are the parts that have no parameters.
"""

import jax
import jax.numpy as jnp
from jax import Array


def rotate(x: Array, angles: Array) -> Array:
    """Rotates neighbouring channel pairs of `x` `[..., T, d]` by `angles` `[..., T, d / 2]`."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    even, odd = pairs[..., 0], pairs[..., 1]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def attend(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """Scaled dot-product attention with the softmax in float32.

    Args:
      q: queries, `[..., heads, Q, head_dim]`.
      k: keys, `[..., heads, K, head_dim]`.
      v: values, like `k`.
      mask: True where a query may read a key, broadcastable to `[..., 1, Q, K]`.

    Returns:
      Mixed values, `[..., heads, Q, head_dim]`.
    """
    logits = jnp.einsum("...qd,...kd->...qk", q * q.shape[-1] ** -0.5, k).astype(jnp.float32)
    logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    # Softmax with the division applied to the small result instead of the Q x K weights.
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    return jnp.einsum("...qk,...kd->...qd", weights.astype(v.dtype), v) / total.astype(v.dtype)


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
