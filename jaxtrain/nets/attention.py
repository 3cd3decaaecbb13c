"""Attention without parameters: plain, fused, with a key of one's own; rotary codes; kept keys.

Projections belong to the networks (`jaxtrain.nets.transformer`). Keys and values may have fewer
heads than queries (grouped heads): query head i then reads head i // (heads / kv_heads).
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Fused = Literal["xla", "cudnn"]


def rotate(x: Array, angles: Array) -> Array:
    """Rotates neighbouring pairs of the first 2 n channels of `x` by `angles`; the rest stay.

    Args:
      x: `[..., heads, T, d]`.
      angles: `[..., heads or 1, T, n]` in radians, n at most d / 2; their type is computed in.
    """
    angles = jnp.expand_dims(angles, tuple(range(x.ndim - angles.ndim)))
    size = 2 * angles.shape[-1]
    if size < x.shape[-1]:
        return jnp.concatenate([rotate(x[..., :size], angles), x[..., size:]], axis=-1)
    pairs = x.reshape(*x.shape[:-1], size // 2, 2)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def rotary_angles(places: Array, size: int, base: float = 10_000.0) -> Array:
    """Angles `[..., 1, T, size / 2]` that code the `places` `[..., T]` in `size` channels.

    Pair i turns by place * base^(-2 i / size) radians (Su et al., RoFormer, arXiv 2104.09864).
    """
    frequencies = base ** (-jnp.arange(0, size, 2) / size)
    frequencies = jnp.expand_dims(frequencies, tuple(range(places.ndim + 1)))
    return places.astype(jnp.float32)[..., None, :, None] * frequencies


def attend(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """Scaled dot-product attention; logits, softmax and sums are float32 or wider.

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
    part = attend_in_part(q, k, v, mask)
    # The division is applied to the small result instead of the Q x K weights.
    mixed = (part.mixed / part.total).astype(v.dtype)
    return mixed.reshape(*mixed.shape[:-4], heads, *mixed.shape[-2:]) if grouped else mixed


class Part(NamedTuple):
    """Attention to some of the keys, which is to be joined with that to the others.

    Attributes:
      mixed: sum of the values by weight, `[..., heads, Q, head_dim]`, float32 or wider.
      total: sum of the weights, `[..., heads, Q, 1]`, likewise.
      top: largest logit, whose weight is 1, like `total`; a constant for gradients.
    """

    mixed: Array
    total: Array
    top: Array


def attend_in_part(q: Array, k: Array, v: Array, mask: Array | None = None) -> Part:
    """What queries find among some of their keys; arguments as in `attend`, without grouping."""
    wide: Any = jnp.promote_types(q.dtype, jnp.float32)
    product = functools.partial(jnp.einsum, preferred_element_type=wide)
    logits = product("...qd,...kd->...qk", q * q.shape[-1] ** -0.5, k)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    top = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    weights = jnp.exp(logits - top)
    mixed = product("...qk,...kd->...qd", weights.astype(v.dtype), v)
    return Part(mixed, weights.sum(axis=-1, keepdims=True), top)


def join(a: Part, b: Part) -> Array:
    """Mixed values of the attention to the keys of both, in the type of the parts.

    Dao et al., FlashAttention, arXiv 2205.14135, section 3.1. A query that may read no key of one
    part gets the values of the other.
    """
    top = jnp.maximum(a.top, b.top)
    of_a, of_b = jnp.exp(a.top - top), jnp.exp(b.top - top)
    return (of_a * a.mixed + of_b * b.mixed) / (of_a * a.total + of_b * b.total)


def attend_fused(q: Array, k: Array, v: Array, mask: Array | None, implementation: Fused) -> Array:
    """`attend` by `jax.nn.dot_product_attention`; numbers differ by rounding.

    Args:
      q, k, v, mask: as in `attend`.
      implementation: `"xla"` runs everywhere, and the compiler decides what it stores. `"cudnn"`
        never stores the Q x K weights of the heads, only the mask; it needs an Nvidia GPU, 16-bit
        activations and a head_dim of at most 128 that is a multiple of 8, and it can be
        differentiated once.
    """
    lead = jnp.broadcast_shapes(*(x.shape[:-3] for x in (q, k, mask) if x is not None))
    q, k, v = (jnp.broadcast_to(x, lead + x.shape[-3:]) for x in (q, k, v))
    if implementation == "xla":
        mask = None if mask is None else jnp.broadcast_to(mask, lead + mask.shape[-3:])
        return _dot_product_attention(q, k, v, mask, implementation)
    length, size = q.shape[-2], k.shape[-2]
    mask = jnp.broadcast_to(True if mask is None else mask, (*lead, 1, length, size))
    # cuDNN wants even numbers of queries and keys where a mask is to be differentiated around.
    q, k, v = (_padded(x, [(0, x.shape[-2] % 2), (0, 0)]) for x in (q, k, v))
    mask = _padded(mask, [(0, length % 2), (0, size % 2)])
    return _cudnn_attention(q, k, v, mask)[..., :length, :]


def _padded(x: Array, last: list[tuple[int, int]]) -> Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + last)


def _dot_product_attention(q: Array, k: Array, v: Array, mask: Any, implementation: Fused) -> Array:
    """Arrays with equal leading axes; the mask may be None."""
    flat = lambda x: x.reshape(-1, *x.shape[-3:])
    query, key, value = (flat(x).swapaxes(1, 2) for x in (q, k, v))
    mask = None if mask is None else flat(mask)
    mixed = jax.nn.dot_product_attention(
        query, key, value, mask=mask, implementation=implementation
    )
    return mixed.swapaxes(1, 2).reshape(q.shape)


def _leading_axes_under_vmap(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`fun` of arrays with equal leading axes, for which `vmap` is one more of them.

    Under `vmap` itself cuDNN's call asks for a mask of every head.
    """
    mapped = jax.custom_batching.custom_vmap(fun)

    @mapped.def_vmap
    def rule(size: int, batched: list[bool], *args: Array) -> tuple[Any, Any]:
        wide = [
            x if b else jnp.broadcast_to(x, (size, *x.shape))
            for x, b in zip(args, batched, strict=True)
        ]
        out = mapped(*wide)
        return out, jax.tree.map(lambda x: True, out)

    return mapped


@_leading_axes_under_vmap
def _cudnn_forward(q: Array, k: Array, v: Array, mask: Array) -> Array:
    return _dot_product_attention(q, k, v, mask, "cudnn")


@_leading_axes_under_vmap
def _cudnn_backward(q: Array, k: Array, v: Array, mask: Array, given: Array) -> Any:
    attention = lambda q, k, v: _dot_product_attention(q, k, v, mask, "cudnn")
    return jax.vjp(attention, q, k, v)[1](given)


@jax.custom_vjp
def _cudnn_attention(q: Array, k: Array, v: Array, mask: Array) -> Array:
    return _cudnn_forward(q, k, v, mask)


_cudnn_attention.defvjp(
    lambda *args: (_cudnn_forward(*args), args),
    lambda args, given: (*_cudnn_backward(*args, given), None),
)


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
