"""Grids as raster streams: the form in which the model sees coloured grids.

A grid of `rows x cols` cells is stored as a stream of length L >= rows * cols that holds its cells
row by row without gaps, followed by zeros. A 3 x 30 grid then costs 90 tokens instead of the 900 of
a padded 30 x 30 square, so streams are grouped by L, not by side. All functions accept any leading
dimensions and work under jit and vmap.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array


class Grid(NamedTuple):
    """Grids of one channel as raster streams.

    Attributes:
      cells: colours 0..9, valid cells first in row-major order, 0 beyond `rows * cols`,
        `[..., L]`, uint8.
      shape: (rows, cols) of each grid, both at least 1, `[..., 2]`, int32.
    """

    cells: Array
    shape: Array


class Pairs(NamedTuple):
    """Input/output pairs of one task or of a batch of tasks.

    Attributes:
      inputs: input grids, cells `[..., N, L_in]`.
      outputs: output grids, cells `[..., N, L_out]`.
      mask: True for real pairs, False for padding, `[..., N]`, bool.
    """

    inputs: Grid
    outputs: Grid
    mask: Array


def coordinates(shape: Array, length: int) -> tuple[Array, Array, Array]:
    """Returns where each token of a raster stream sits in its grid.

    Token k sits at row k // cols and column k % cols, and is valid iff k < rows * cols. Invalid
    tokens get row 0 and column 0, so that both indices are always safe to look up in a table.

    Args:
      shape: (rows, cols), `[..., 2]`, integers.
      length: L, the stream length.

    Returns:
      (rows, cols, valid): int32, int32 and bool, each `[..., L]`.
    """
    shape = jnp.asarray(shape, jnp.int32)
    num_rows, num_cols = shape[..., :1], shape[..., 1:]
    index = jnp.arange(length, dtype=jnp.int32).reshape((1,) * (shape.ndim - 1) + (length,))
    valid = index < num_rows * num_cols
    return jnp.where(valid, index // num_cols, 0), jnp.where(valid, index % num_cols, 0), valid


def from_padded(
    pairs: Array, shapes: Array, mask: Array | None = None, max_cells: int | None = None
) -> Pairs:
    """Converts padded squares (the interchange format of the LPN authors) to raster streams.

    Args:
      pairs: colours, last axis 0 = input and 1 = output, `[..., N, R, C, 2]`.
      shapes: true sizes, `[axis, channel]` with axis 0 = rows and 1 = columns, `[..., N, 2, 2]`.
      mask: True for real pairs, `[..., N]`; all pairs are real by default.
      max_cells: L of both streams, R * C by default. It must be at least rows * cols of every
        grid: cells beyond it are lost, which cannot be checked under jit.

    Returns:
      The same pairs with streams of length `max_cells`.

    Raises:
      ValueError: if the arrays do not have the shapes above.
    """
    pairs, shapes = jnp.asarray(pairs), jnp.asarray(shapes, jnp.int32)
    if pairs.ndim < 4 or pairs.shape[-1] != 2 or shapes.shape != (*pairs.shape[:-3], 2, 2):
        raise ValueError(
            f"got pairs of shape {pairs.shape} with shapes of shape {shapes.shape}; expected "
            "[..., N, R, C, 2] with [..., N, 2, 2] and the same leading dimensions in both."
        )
    height, width = pairs.shape[-3:-1]
    length = height * width if max_cells is None else max_cells

    def stream(channel: int) -> Grid:
        shape = shapes[..., channel]
        rows, cols, valid = coordinates(shape, length)
        flat = pairs[..., channel].reshape(*pairs.shape[:-3], height * width)
        source = jnp.minimum(rows * width + cols, height * width - 1)
        cells = jnp.take_along_axis(flat, source, axis=-1)
        return Grid(jnp.where(valid, cells, 0).astype(jnp.uint8), shape)

    if mask is None:
        mask = jnp.ones(pairs.shape[:-3], bool)
    return Pairs(stream(0), stream(1), jnp.asarray(mask, bool))


def to_padded(grid: Grid, rows: int, cols: int) -> Array:
    """Lays raster streams out on a `rows x cols` square, top-left aligned and filled with 0.

    Args:
      grid: cells `[..., L]`.
      rows: R, at least the largest number of rows; larger grids are cropped.
      cols: C, likewise for columns.

    Returns:
      Colours, `[..., R, C]`, same dtype as the cells.
    """
    shape = jnp.asarray(grid.shape, jnp.int32)[..., None, None, :]
    lead = (1,) * (shape.ndim - 3)
    row, col = jnp.arange(rows).reshape(*lead, rows, 1), jnp.arange(cols).reshape(*lead, 1, cols)
    valid = (row < shape[..., 0]) & (col < shape[..., 1])
    source = jnp.where(valid, row * shape[..., 1] + col, 0).reshape(*valid.shape[:-2], rows * cols)
    cells = jnp.take_along_axis(jnp.asarray(grid.cells), source, axis=-1).reshape(valid.shape)
    return jnp.where(valid, cells, 0).astype(cells.dtype)


def leave_one_out(num_pairs: int) -> np.ndarray:
    """Returns the constant index matrix whose row i lists every pair but i, `[N, N-1]`, int32.

    Raises:
      ValueError: if there are fewer than two pairs, so that nothing would be left.
    """
    if num_pairs < 2:
        raise ValueError(f"leave-one-out needs at least 2 pairs per task, got {num_pairs}.")
    index = np.arange(num_pairs - 1, dtype=np.int32)
    return index + (index >= np.arange(num_pairs, dtype=np.int32)[:, None])
