"""The ring buffer against lists in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import buffers

CAPACITY = 7


def rows(first, number):
    n = np.arange(first, first + number)
    return {"number": n.astype(np.int32), "pair": np.stack([n, -n], 1).astype(np.float32)}


def test_the_newest_rows_stay():
    """Blocks of many sizes; a list keeps the last ones, each where the oldest was."""
    ring = buffers.empty(jax.tree.map(lambda x: x[0], rows(0, 1)), CAPACITY)
    add, kept, first = jax.jit(buffers.add, donate_argnums=0), [None] * CAPACITY, 1
    for number in (3, 2, 7, 1, 6, 4):
        for i in range(first, first + number):
            kept[(i - 1) % CAPACITY] = i
        ring = add(ring, rows(first, number))
        first += number
        assert ring.size == min(first - 1, CAPACITY) and ring.next == (first - 1) % CAPACITY
        expected = np.array([i or 0 for i in kept])
        np.testing.assert_array_equal(ring.rows["number"], expected)
        np.testing.assert_array_equal(ring.rows["pair"][:, 1], -expected)


def test_rows_are_drawn_evenly_from_those_that_were_written():
    ring = buffers.add(buffers.empty(jnp.int32(0), CAPACITY), jnp.arange(1, 5))
    drawn = np.asarray(buffers.sample(ring, jax.random.key(0), 4000))
    counts = np.bincount(drawn, minlength=5)
    assert counts[0] == 0 and len(counts) == 5 and (abs(counts[1:] - 1000) < 150).all()
    full = buffers.add(ring, jnp.arange(5, 10))
    drawn = np.asarray(buffers.sample(full, jax.random.key(1), 4000))
    assert set(drawn) == set(range(3, 10))


def test_an_empty_buffer_gives_zeros():
    ring = buffers.empty(jnp.float32(3.0), CAPACITY)
    np.testing.assert_array_equal(buffers.sample(ring, jax.random.key(0), 2), [0, 0])


def test_the_buffer_is_written_in_place():
    ring = buffers.empty(jnp.zeros(3), CAPACITY)
    add = jax.jit(buffers.add, donate_argnums=0).lower(ring, jnp.ones((2, 3))).compile()
    assert add.memory_analysis().alias_size_in_bytes >= CAPACITY * 3 * 4


@pytest.mark.parametrize("number", [8, 20])
def test_more_rows_than_places_are_refused(number):
    with pytest.raises(ValueError, match=f"{number} rows do not fit into a buffer of 7"):
        buffers.add(buffers.empty(jnp.float32(0), CAPACITY), jnp.zeros(number))


def test_a_buffer_has_a_place():
    with pytest.raises(ValueError, match="capacity is 0"):
        buffers.empty(jnp.float32(0), 0)
