"""Two ways round a block to two pockets: demonstrations whose average leads nowhere.

The point starts below the middle of a block and is shown both ways round it to both pockets above,
each as often, whatever the start and whichever the goal. Whoever imitates the mean of the actions
runs into the block; whoever ignores the goal is in the wrong pocket half of the time.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxrl.envs.point_maze import Maze, read_maze, walk

ROUTES = """
#######
##.#.##
#.....#
#.###.#
#.....#
#######
"""
START = (4, 3)
CORNERS = np.array([[2, 1], [2, 5]])  # left and right of the block
POCKETS = np.array([[1, 2], [1, 4]])  # what is to be reached
WITHIN = 0.15  # of the start's column


def routes_maze() -> Maze:
    """The maze of the task, 16 cells."""
    return read_maze(ROUTES)


def start(key: Array) -> Array:
    """A position `[2]` in the middle of the row below the block, its column within 0.15."""
    offset = jax.random.uniform(key, (), minval=-WITHIN, maxval=WITHIN)
    return jnp.array(START, jnp.float32).at[1].add(offset)


def demonstration(
    maze: Maze, key: Array, num_steps: int, noise: ArrayLike = 0.2
) -> tuple[Array, Array]:
    """Round a random side to a random pocket, and there it stays; as `point_maze.walk`.

    Returns:
      Positions `[T, 2]` and actions `[T, 2]`.
    """
    key_start, key_draws, key_noise = jax.random.split(key, 3)
    side, goal = jax.random.randint(key_draws, (2,), 0, 2)
    by = jnp.asarray(maze.number[tuple(CORNERS.T)])[side]
    pocket = jnp.asarray(maze.number[tuple(POCKETS.T)])[goal]
    return walk(maze, key_noise, start(key_start), jnp.stack([by, pocket]), num_steps, noise)


def side_of(position: Array) -> Array:
    """Which way round the block a path `[T, 2]` took: -1 left, 1 right, 0 not yet either."""
    row, column = position.T
    beside = (row < START[0] - 0.5) & (row >= CORNERS[0, 0] - 0.5)
    way = jnp.where(beside & (jnp.abs(column - START[1]) > 1.5), jnp.sign(column - START[1]), 0)
    return way[jnp.argmax(way != 0)].astype(jnp.int32)
