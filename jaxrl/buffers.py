"""A ring buffer of rows, as arrays of a fixed size: new rows take the place of the oldest.

    ring = empty(row, capacity)
    ring = add(ring, rows)                        # leaves [n, ...]
    batch = sample(ring, key, 64)                 # leaves [64, ...]

It is part of the state of a core, is donated with it and so written in place, and is saved with it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.schedules.checks import check_counts


class Ring(NamedTuple):
    """The buffer.

    Attributes:
      rows: a pytree of arrays `[capacity, ...]`.
      size: rows that have been written, at most the capacity, `[]`, int32.
      next: where the next row goes, `[]`, int32.
    """

    rows: Any
    size: Array
    next: Array


def empty(row: Any, capacity: int) -> Ring:
    """A buffer without rows.

    Args:
      row: what one looks like; its numbers do not matter.
      capacity: rows that are kept.

    Raises:
      ValueError: the capacity is below 1.
    """
    check_counts(capacity=capacity)
    zeros = lambda x: jnp.zeros((capacity, *jnp.shape(x)), jnp.result_type(x))
    return Ring(jax.tree.map(zeros, row), jnp.int32(0), jnp.int32(0))


def add(ring: Ring, rows: Any) -> Ring:
    """The buffer with `rows` `[n, ...]`, the last of them the newest.

    Raises:
      ValueError: there are more rows than the buffer keeps.
    """
    number, capacity = (jax.tree.leaves(x)[0].shape[0] for x in (rows, ring.rows))
    if number > capacity:
        raise ValueError(f"{number} rows do not fit into a buffer of {capacity}.")
    places = (ring.next + jnp.arange(number)) % capacity
    written = jax.tree.map(lambda old, new: old.at[places].set(new), ring.rows, rows)
    size = jnp.minimum(ring.size + number, capacity)
    return Ring(written, size, (ring.next + number) % capacity)


def sample(ring: Ring, key: Array, number: int) -> Any:
    """`number` rows, each drawn evenly from all that have been written, `[number, ...]`.

    Of an empty buffer, rows of zeros.
    """
    index = jax.random.randint(key, (number,), 0, jnp.maximum(ring.size, 1))
    return jax.tree.map(lambda x: x[index], ring.rows)
