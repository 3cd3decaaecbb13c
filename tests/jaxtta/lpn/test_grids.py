"""Raster streams against NumPy slices."""

import jax
import numpy as np
import pytest

from jaxtta.lpn import grids

from_padded = jax.jit(grids.from_padded, static_argnames="max_cells")
to_padded = jax.jit(grids.to_padded, static_argnums=(1, 2))


def random_padded(rng, leading, rows, cols):
    """Padded squares whose padding is garbage, so that a leak of padding is seen."""
    pairs = rng.integers(0, 10, (*leading, rows, cols, 2), dtype=np.uint8)
    shapes = np.stack(
        [rng.integers(1, rows + 1, (*leading, 2)), rng.integers(1, cols + 1, (*leading, 2))], -2
    )
    return pairs, shapes.astype(np.uint8)


@pytest.mark.parametrize("leading", [(3,), (2, 3), (2, 2, 3)])
def test_from_padded_equals_flattened_slices(leading):
    pairs, shapes = random_padded(np.random.default_rng(0), leading, 5, 7)
    streams = from_padded(pairs, shapes)
    assert streams.mask.shape == leading and streams.mask.all()
    for channel, grid in enumerate((streams.inputs, streams.outputs)):
        assert grid.cells.dtype == np.uint8 and grid.shape.dtype == np.int32
        np.testing.assert_array_equal(grid.shape, shapes[..., channel])
        for index in np.ndindex(leading):
            rows, cols = shapes[index][:, channel]
            expected = np.zeros(35, np.uint8)
            expected[: rows * cols] = pairs[index][:rows, :cols, channel].ravel()
            np.testing.assert_array_equal(grid.cells[index], expected)


def test_to_padded_inverts_from_padded_on_valid_cells():
    pairs, shapes = random_padded(np.random.default_rng(1), (4, 3), 6, 6)
    shapes[0, 0] = 6  # a full-size grid
    shapes[0, 1] = 1  # a single cell
    streams = from_padded(pairs, shapes)
    for channel, grid in enumerate((streams.inputs, streams.outputs)):
        shape = shapes[..., channel][..., None, None, :]
        valid = (np.arange(6)[:, None] < shape[..., 0]) & (np.arange(6) < shape[..., 1])
        np.testing.assert_array_equal(
            to_padded(grid, 6, 6), np.where(valid, pairs[..., channel], 0)
        )


def test_stream_length_can_differ_from_the_square():
    pairs, shapes = random_padded(np.random.default_rng(2), (3,), 4, 4)
    longer = from_padded(pairs, shapes, max_cells=20)
    assert longer.inputs.cells.shape == (3, 20)
    shorter = from_padded(pairs, np.minimum(shapes, 3), max_cells=9)
    full = from_padded(pairs, np.minimum(shapes, 3))
    np.testing.assert_array_equal(shorter.outputs.cells, full.outputs.cells[..., :9])
    np.testing.assert_array_equal(to_padded(shorter.outputs, 3, 5)[..., 3:], 0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 3), (4, 5)])
def test_coordinates_enumerate_the_cells(shape):
    rows, cols, valid = jax.jit(grids.coordinates, static_argnums=1)(np.array([shape]), 20)
    cells = list(np.ndindex(shape))
    np.testing.assert_array_equal(valid[0], np.arange(20) < len(cells))
    expected = np.array(cells + [(0, 0)] * (20 - len(cells)))
    np.testing.assert_array_equal(np.stack([rows[0], cols[0]], -1), expected)


def test_mask_is_kept_and_pairs_vmap():
    pairs, shapes = random_padded(np.random.default_rng(3), (4, 2), 3, 3)
    mask = np.array([[True, False]] * 4)
    direct = from_padded(pairs, shapes, mask)
    mapped = jax.jit(jax.vmap(grids.from_padded))(pairs, shapes, mask)
    jax.tree.map(np.testing.assert_array_equal, direct, mapped)
    np.testing.assert_array_equal(direct.mask, mask)


def test_leave_one_out():
    np.testing.assert_array_equal(
        grids.leave_one_out(4), [[j for j in range(4) if j != i] for i in range(4)]
    )
    assert isinstance(grids.leave_one_out(2), np.ndarray)
    with pytest.raises(ValueError, match="at least 2 pairs per task, got 1"):
        grids.leave_one_out(1)


def test_wrong_array_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(3, 4, 4, 2\) with shapes of shape \(3, 2\)"):
        grids.from_padded(np.zeros((3, 4, 4, 2)), np.ones((3, 2)))
