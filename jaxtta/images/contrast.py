"""Contrast between views of the same rows, one of them the nearest prototype: for RMT."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel

AxisName = parallel.AxisName


def new_projector(key: Array, num_features: int, width: int = 128, dtype: Any = None) -> Any:
    """Random parameters of the projector: linear to `width`, ReLU, linear to `width`.

    Weights and biases are uniform up to 1 / sqrt(inputs), the default of PyTorch's linear layers.
    """
    keys = jax.random.split(key, 4)

    def linear(keys: Array, size: int) -> dict[str, Array]:
        draw = lambda k, shape: jax.random.uniform(
            k, shape, dtype or float, -(size**-0.5), size**-0.5
        )
        return {"kernel": draw(keys[0], (size, width)), "bias": draw(keys[1], (width,))}

    return {"linear1": linear(keys[:2], num_features), "linear2": linear(keys[2:], width)}


def project(projector: Any, x: Array) -> Array:
    """Rows `[N, D]` through the projector to unit length, `[N, width]`."""
    linear = lambda part, x: x @ part["kernel"] + part["bias"][None]
    z = linear(projector["linear2"], jax.nn.relu(linear(projector["linear1"], x)))
    # The square is bounded, not the length: the length has no gradient at 0.
    return z * jax.lax.rsqrt(jnp.maximum((z**2).sum(-1, keepdims=True), 1e-24))


def contrastive_loss(
    views: Array, mask: Array, temperature: ArrayLike = 0.1, axis_name: AxisName | None = None
) -> Array:
    """Supervised-contrastive loss over several views of every row.

    -mean over anchors a of mean over the other views p of the same row of
    log(exp(a.p / t) / sum over all views but a of exp(a.b / t)). Every view of every row is an
    anchor; rows that share a prototype count as different.

    Args:
      views: unit vectors, `[V, B, D]`.
      mask: rows that count, `[B]`, bool.
      temperature: t; may be traced.
      axis_name: mapped device axis, `None` for global arrays; rows are compared with those of all
        devices.

    Returns:
      `[]`, 0 if no row counts.
    """
    number, size, _ = views.shape
    everything, counted, index = views, mask, jnp.arange(size)
    if axis_name is not None:
        gather = lambda x, axis: jax.lax.all_gather(x, axis_name, axis=axis, tiled=True)
        everything, counted = gather(views, 1), gather(mask, 0)
        index = index + size * jax.lax.axis_index(axis_name)
    similarity = jnp.einsum("abd,vcd->abvc", views, everything) / temperature
    same_row = index[:, None] == jnp.arange(len(counted))[None]
    same_view = jnp.eye(number, dtype=bool)
    itself = same_row[None, :, None] & same_view[:, None, :, None]
    lowest = jnp.finfo(similarity.dtype).min
    others = jnp.where(counted[None, None, None] & ~itself, similarity, lowest)
    total = jax.nn.logsumexp(others, axis=(2, 3))
    positive = same_row[None, :, None] & ~same_view[:, None, :, None]
    attracted = jnp.where(positive, similarity, 0).sum((2, 3)) / (number - 1)
    return parallel.masked_mean((total - attracted).mean(0), mask, axis_name)


def nearest_prototypes(prototypes: Array, features: Array) -> Array:
    """For each feature `[B, D]` the prototype of `[C, D]` with the largest cosine, `[B, D]`."""
    length = jnp.linalg.norm(prototypes, axis=-1)
    around = jnp.linalg.norm(features, axis=-1, keepdims=True)
    cosine = features @ prototypes.T / jnp.maximum(around * length[None], 1e-8)
    return prototypes[jnp.where(length[None] > 0, cosine, -jnp.inf).argmax(-1)]
