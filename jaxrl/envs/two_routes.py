"""Two ways past a trap to two pockets: demonstrations whose average leads into the trap.

The point starts below a dead end and is shown the ways past it on both sides, to both pockets
above, each as often, whatever the start and whichever the goal. Whoever imitates the mean of the
actions goes straight up into the dead end; whoever ignores the goal is in the wrong pocket half of
the time.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxrl.envs.point_maze import Maze, read_maze, walk

ROUTES = """
#######
##...##
###.###
#.....#
#.###.#
#.#.#.#
#.....#
#######
"""
START = (6.3, 3.0)
GATES = np.array([[5, 1], [5, 5]])  # left and right of the dead end
STEM = np.array([[3, 3], [1, 3]])  # where both ways meet, and between the pockets
POCKETS = np.array([[1, 2], [1, 4]])  # what is to be reached
WITHIN = 0.05  # of the start's column


def routes_maze() -> Maze:
    """The maze of the task, 21 cells."""
    return read_maze(ROUTES)


def start(key: Array) -> Array:
    """A position `[2]` in the lowest row below the dead end, its column within 0.05."""
    offset = jax.random.uniform(key, (), minval=-WITHIN, maxval=WITHIN)
    return jnp.array(START, jnp.float32).at[1].add(offset)


def demonstration(
    maze: Maze, key: Array, num_steps: int, noise: ArrayLike = 0.15
) -> tuple[Array, Array]:
    """Past a random side to a random pocket, and there it stays; as `point_maze.walk`.

    Returns:
      Positions `[T, 2]` and actions `[T, 2]`.
    """
    key_start, key_draws, key_noise = jax.random.split(key, 3)
    side, goal = jax.random.randint(key_draws, (2,), 0, 2)
    gate, pocket = jnp.asarray(GATES)[side], jnp.asarray(POCKETS)[goal]
    corner, stem = gate.at[0].add(-2), jnp.asarray(STEM)
    points = jnp.stack([gate, corner, *stem, pocket]).astype(jnp.float32)
    return walk(maze, key_noise, start(key_start), points, num_steps, noise, straight=True)


def side_of(position: Array) -> Array:
    """Through which gate a path `[T, 2]` went first: -1 left, 1 right, 0 through none."""
    row, column = position.T
    beside = (row < GATES[0, 0] + 0.5) & (row > GATES[0, 0] - 1.5)
    way = jnp.where(beside & (jnp.abs(column - START[1]) > 1.5), jnp.sign(column - START[1]), 0)
    return way[jnp.argmax(way != 0)].astype(jnp.int32)
