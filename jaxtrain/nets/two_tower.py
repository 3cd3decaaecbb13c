"""Two towers in one space: contrastive loss between things that belong together."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel


def unit(x: Array) -> Array:
    """Vectors at length 1, `[..., E]`; 0 stays 0."""
    return x * jax.lax.rsqrt(jnp.maximum((x**2).sum(-1, keepdims=True), 1e-12))


def contrastive_loss(
    a: Array,
    b: Array,
    scale: ArrayLike,
    texts: Array | None = None,
    axis_name: parallel.AxisName | None = None,
) -> Array:
    """InfoNCE in both directions, averaged over the pairs and the directions.

    -log softmax of scale a.b at the own partner, among all partners of the batch. Partners that say
    the same are no negatives: being right about one would be punished by the others.

    Args:
      a: unit vectors, `[B, E]`.
      b: their partners, unit vectors, `[B, E]`.
      scale: inverse temperature; may be traced.
      texts: which text each pair has, `[B]`, int; pairs of one number are left out of each other's
        negatives. None: all differ.
      axis_name: mapped device axis, `None` for global arrays; pairs are compared with those of all
        devices.

    Returns:
      `[]`, of this shard's pairs.

    Raises:
      ValueError: shapes that do not belong together.
    """
    number = len(a)
    if a.shape != b.shape or a.ndim != 2 or (texts is not None and texts.shape != (number,)):
        given = "" if texts is None else f" with texts {texts.shape}"
        raise ValueError(f"pairs are rows [B, E], but have shapes {a.shape} and {b.shape}{given}.")
    own = jnp.arange(number)
    if axis_name is not None:
        own = own + number * jax.lax.axis_index(axis_name)
    whole_a, whole_b = parallel.gather((a, b), axis_name)
    place = jnp.arange(len(whole_a))
    same = jnp.zeros((number, len(whole_a)), bool)
    if texts is not None:
        same = texts[:, None] == parallel.gather(texts, axis_name)[None]
    masked = same & (own[:, None] != place[None])

    def one_way(x: Array, others: Array) -> Array:
        logits = jnp.where(masked, -jnp.inf, scale * x @ others.T)
        return -jax.nn.log_softmax(logits)[jnp.arange(number), own].mean()

    return (one_way(a, whole_b) + one_way(b, whole_a)) / 2
