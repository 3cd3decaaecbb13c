"""Augmentation of one task: rotation, permutation of colours, and optionally a flip.

Every change is drawn once per task and applied to all pairs and both channels, so the task keeps
its rule up to symmetry. Rotation moves no padding around: on a raster stream it is one gather with
computed source indices, cheap enough to run inside the training step.

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, arXiv 2411.08706. Official code:
  clement-bonnet/lpn (`online_data_augmentation`, which rotates and permutes colours, without flip).
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxtta.lpn.grids import Grid, Pairs, coordinates


def augment(
    key: Array, pairs: Pairs, *, rotate: bool = True, colors: bool = True, flip: bool = False
) -> Pairs:
    """Applies one random symmetry to a task. Use `jax.vmap` over keys and tasks for a batch.

    Args:
      key: typed key, consumed.
      pairs: one task, cells `[N, L]`.
      rotate: rotate by k * 90 degrees clockwise, k uniform in 0..3. Rows and columns of the grids
        change places when k is odd.
      colors: permute colours 1..9 uniformly; colour 0 never moves.
      flip: mirror left to right with probability 1/2, before the rotation. Not in the source.

    Returns:
      The changed pairs, same structure.
    """
    key_rotate, key_colors, key_flip = jax.random.split(key, 3)
    turns = jax.random.randint(key_rotate, (), 0, 4) if rotate else 0
    mirror = jax.random.bernoulli(key_flip) if flip else False
    table = color_table(key_colors) if colors else None

    def change(grid: Grid) -> Grid:
        if rotate or flip:
            grid = rotate_grid(grid, turns, mirror)
        return grid if table is None else grid._replace(cells=table[grid.cells])

    return pairs._replace(inputs=change(pairs.inputs), outputs=change(pairs.outputs))


def color_table(key: Array) -> Array:
    """Draws a permutation of the colours that keeps 0, `[10]`, uint8: new = table[old]."""
    permuted = jax.random.permutation(key, jnp.arange(1, 10, dtype=jnp.uint8))
    return jnp.concatenate([jnp.zeros(1, jnp.uint8), permuted])


def rotate_grid(grid: Grid, turns: ArrayLike, mirror: ArrayLike = False) -> Grid:
    """Mirrors grids left to right if asked, then rotates them clockwise, by one gather.

    Args:
      grid: cells `[..., L]`.
      turns: number of quarter turns, 0..3, `[]`, may be traced.
      mirror: whether to mirror first, `[]`, may be traced.

    Returns:
      The rotated grids: shape (cols, rows) when `turns` is odd.
    """
    shape = jnp.asarray(grid.shape, jnp.int32)
    odd = jnp.asarray(turns) % 2 == 1
    new_shape = jnp.where(odd, shape[..., ::-1], shape)
    row, col, valid = coordinates(new_shape, grid.cells.shape[-1])
    last_row, last_col = shape[..., :1] - 1, shape[..., 1:] - 1
    # Where does cell (row, col) of the result come from in the grid before the rotation?
    source_row = jnp.select(
        [turns == 0, turns == 1, turns == 2], [row, last_row - col, last_row - row], col
    )
    source_col = jnp.select(
        [turns == 0, turns == 1, turns == 2], [col, row, last_col - col], last_col - row
    )
    source_col = jnp.where(mirror, last_col - source_col, source_col)
    source = jnp.where(valid, source_row * shape[..., 1:] + source_col, 0)
    cells = jnp.take_along_axis(grid.cells, source, axis=-1)
    return Grid(jnp.where(valid, cells, 0).astype(grid.cells.dtype), new_shape)
