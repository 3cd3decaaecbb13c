"""Pattern tasks: paste a hidden pattern where the input shows a dot. Generated on device.

The program of a task is a small square pattern. The input of a pair is black but for one cell of
colour 1; the output is black but for the pattern, its top-left corner on that cell. Tasks are pure
functions of a key, so training data costs nothing on the host and resumes exactly.

Published settings: grid 10, pattern 4 (`pattern_4`), grid 10, pattern 5 (`pattern_5`), grid 4,
pattern 2 (`pattern_2d`), and grid 10, pattern 4 trained at density 0.5 and tested at 0.5, 0.75 and
1.0 (`pattern_ood`).

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, arXiv 2411.08706.
  Official code: clement-bonnet/lpn (`PatternTaskGenerator`).
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxtta.lpn.grids import Grid, Pairs


def sample_program(key: Array, *, pattern_size: int = 4, density: ArrayLike = 1.0) -> Array:
    """Draws a pattern.

    Args:
      key: typed key, consumed.
      pattern_size: side p of the pattern.
      density: probability that a cell is coloured, `[]`, may be traced.

    Returns:
      Colours, uniform in 1..9 where coloured and 0 elsewhere, `[p, p]`, uint8.
    """
    key_color, key_density = jax.random.split(key)
    colors = jax.random.randint(key_color, (pattern_size, pattern_size), 1, 10)
    coloured = jax.random.bernoulli(key_density, density, (pattern_size, pattern_size))
    return jnp.where(coloured, colors, 0).astype(jnp.uint8)


def execute(key: Array, program: Array, *, num_pairs: int, num_rows: int, num_cols: int) -> Pairs:
    """Draws pairs of a given program, with independent positions that may coincide.

    Args:
      key: typed key, consumed.
      program: pattern, `[p, p]`, uint8.
      num_pairs: N.
      num_rows: rows of every grid.
      num_cols: columns of every grid.

    Returns:
      One task, cells `[N, num_rows * num_cols]`.

    Raises:
      ValueError: if the pattern does not fit.
    """
    size = program.shape[0]
    if not 1 <= size < min(num_rows, num_cols):
        raise ValueError(
            f"pattern_size is {size} on a grid of {num_rows} x {num_cols}; it must be at least 1 "
            "and smaller than both sides."
        )
    limit = jnp.array([[num_rows - size + 1, num_cols - size + 1]] * num_pairs)
    corners = jax.random.randint(key, (num_pairs, 2), 0, limit)
    black = jnp.zeros((num_rows, num_cols), jnp.uint8)

    def paste(patch: Array) -> Grid:
        cells = jax.vmap(lambda corner: jax.lax.dynamic_update_slice(black, patch, corner))(corners)
        shape = jnp.broadcast_to(jnp.array([num_rows, num_cols], jnp.int32), (num_pairs, 2))
        return Grid(cells.reshape(num_pairs, num_rows * num_cols), shape)

    return Pairs(paste(jnp.ones((1, 1), jnp.uint8)), paste(program), jnp.ones(num_pairs, bool))


def sample_task_and_program(
    key: Array,
    *,
    num_pairs: int = 4,
    num_rows: int = 10,
    num_cols: int = 10,
    pattern_size: int = 4,
    density: ArrayLike = 1.0,
) -> tuple[Pairs, Array]:
    """Draws one task together with its program, for plots of the latent space by program.

    Args:
      key: typed key, consumed. Use `jax.vmap` over keys for a batch.
      num_pairs: N.
      num_rows: rows of every grid.
      num_cols: columns of every grid.
      pattern_size: side p of the pattern, smaller than both sides of the grid.
      density: probability that a cell of the pattern is coloured, in (0, 1], `[]`, may be traced.

    Returns:
      (pairs, program): cells `[N, num_rows * num_cols]` and `[p, p]`, uint8.

    Raises:
      ValueError: if the pattern does not fit or a Python density is outside (0, 1].
    """
    if isinstance(density, int | float) and not 0 < density <= 1:
        raise ValueError(f"density is {density}; it must be above 0 and at most 1.")
    key_program, key_pairs = jax.random.split(key)
    program = sample_program(key_program, pattern_size=pattern_size, density=density)
    pairs = execute(key_pairs, program, num_pairs=num_pairs, num_rows=num_rows, num_cols=num_cols)
    return pairs, program


def sample_task(
    key: Array,
    *,
    num_pairs: int = 4,
    num_rows: int = 10,
    num_cols: int = 10,
    pattern_size: int = 4,
    density: ArrayLike = 1.0,
) -> Pairs:
    """Draws one task: the pairs of `sample_task_and_program` for the same key and arguments."""
    return sample_task_and_program(
        key,
        num_pairs=num_pairs,
        num_rows=num_rows,
        num_cols=num_cols,
        pattern_size=pattern_size,
        density=density,
    )[0]
