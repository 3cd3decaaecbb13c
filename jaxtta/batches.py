"""Test batches: what an adapter may read, and which rows count.

A row counts if it is not padding and all its numbers are finite, those of the image and those that
the network makes of it. One NaN pixel would otherwise reach the batch statistics and the gradient,
and from there destroy a model for the rest of its stream. Logits of -inf are legitimate: the
classes that a task leaves out have probability 0.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Given(NamedTuple):
    """A test batch as methods use it.

    Attributes:
      inputs: `[B, H, W, C]`; numbers that are not finite are 0.
      rows: rows that are not padding, `[B]`, bool.
      valid: those of them whose inputs are all finite, `[B]`, bool.
    """

    inputs: Array
    rows: Array
    valid: Array


def inputs_of(batch: Any) -> tuple[Array, Array | None]:
    """Images and row mask (`None` when all rows count) of a test batch.

    Raises:
      ValueError: not such a dict, something that is not an input (labels), or wrong shapes.
    """
    if not isinstance(batch, Mapping) or "inputs" not in batch:
        given = sorted(batch) if isinstance(batch, Mapping) else type(batch)
        raise ValueError(
            "a test batch is a dict with 'inputs' [batch, height, width, channels] and optionally "
            f"'mask' [batch] but got {given}."
        )
    if extra := sorted(set(batch) - {"inputs", "mask"}):
        raise ValueError(
            f"a test batch holds inputs only but also has {extra}; keep labels outside, they "
            "belong to the evaluation."
        )
    inputs, mask = batch["inputs"], batch.get("mask")
    if mask is not None and mask.shape != inputs.shape[:1]:
        raise ValueError(
            f"the row mask has shape {mask.shape} but there are {inputs.shape[0]} inputs; give one "
            "bool per row."
        )
    return inputs, None if mask is None else mask.astype(bool)


def given(batch: Any) -> Given:
    """Checks and reads a test batch.

    Raises:
      ValueError: as `inputs_of`.
    """
    inputs, mask = inputs_of(batch)
    cleaned, finite = finite_images(inputs)
    rows = jnp.ones_like(finite) if mask is None else mask
    return Given(cleaned, rows, rows & finite)


def finite_images(inputs: Array) -> tuple[Array, Array]:
    """Images with 0 for numbers that are not finite, and the rows without such, `[B]`, bool."""
    finite = jnp.isfinite(inputs)
    return jnp.where(finite, inputs, 0), finite.reshape(len(inputs), -1).all(-1)


def sound(valid: Array, logits: Array, *others: Array) -> tuple[Array, ...]:
    """Leaves out the rows from which a network made numbers that no loss can use.

    Args:
      valid: rows that count so far, `[B]`, bool.
      logits: `[B, C]`, or `[B, H, W, C]`, of which one bad pixel spoils the row; bad are NaN, +inf,
        and -inf for all classes.
      others: features and the like, `[B, ...]`; bad is what is not finite.

    Returns:
      The rows that still count, and the arrays with 0 in the bad rows, so that no gradient leads
      through these.
    """
    good = jnp.isfinite(jax.lax.stop_gradient(logits).max(-1))
    good = good.reshape(len(good), -1).all(-1)
    for x in others:
        good &= jnp.isfinite(x).reshape(len(x), -1).all(-1)
    keep = lambda x: jnp.where(good.reshape(-1, *(1,) * (x.ndim - 1)), x, 0)
    return valid & good, *map(keep, (logits, *others))


def stays_finite(new: Any, old: Any) -> Array:
    """Whether every number of `old` that is finite still is in `new`, `[]`, bool."""
    kept = jnp.ones((), bool)
    for x, y in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
        if jnp.issubdtype(y.dtype, jnp.inexact):
            kept &= (jnp.isfinite(x) | ~jnp.isfinite(y)).all()
    return kept
