"""A point in a maze: continuous actions, distances that are known exactly, data of play.

    maze = read_maze(CORRIDORS)                      # 32 cells and all distances between them
    env = point_maze(maze)                           # reach a goal; `ppo` learns in it
    position, action = play(maze, key, 400)          # [400, 2], [400, 2]

Lengths are in cells: a position is (row, column), the middle of a cell has whole numbers, and the
distance of two cells is the number of steps of the shortest path through free neighbours.

References:
  The maze tasks and the way to play in them are those of Park et al., OGBench, ICLR 2025, arXiv
  2410.20092 (pointmaze), without MuJoCo: here the point has no inertia.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxrl.envs.environment import Box, Environment, Step

SPEED = 0.5  # cells of a step with the largest action
REACHED = 0.4  # cells from the middle of a goal

CORRIDORS = """
#########
#...#...#
#.#.#.#.#
#.#...#.#
#.#####.#
#.#...#.#
#.#.#.#.#
#...#...#
#########
"""


class Maze(NamedTuple):
    """A maze and its shortest paths, NumPy arrays.

    Attributes:
      wall: `[rows, columns]`, bool.
      cells: row and column of the free cells, `[C, 2]`, int32.
      number: of the free cell at a place, `[rows, columns]`, int32; -1 in walls.
      distance: steps between free cells, `[C, C]`, int32.
      toward: from a cell, the next one on a shortest path to another, `[C, C]`, int32.
    """

    wall: np.ndarray
    cells: np.ndarray
    number: np.ndarray
    distance: np.ndarray
    toward: np.ndarray


class MazeParams(NamedTuple):
    """Cells of a step, and the time limit in steps."""

    speed: ArrayLike = SPEED
    max_steps: ArrayLike = 200


class MazeState(NamedTuple):
    """Position `[2]` and goal `[2]` in cells, steps done `[]`, int32."""

    position: Array
    goal: Array
    time: Array


def read_maze(text: str = CORRIDORS) -> Maze:
    """The maze drawn by `text`: `#` is a wall, `.` is free, all lines are equally long.

    Raises:
      ValueError: other characters, uneven lines, an open border, or cells that cannot be reached.
    """
    lines = text.split()
    if not lines or len({len(line) for line in lines}) > 1 or set("".join(lines)) - set("#."):
        raise ValueError("a maze is drawn with # and . in lines of one length.")
    wall = np.array([[letter == "#" for letter in line] for line in lines])
    if not (wall[[0, -1]].all() and wall[:, [0, -1]].all()):
        raise ValueError("the border of a maze must be wall, or the point leaves it.")
    cells = np.argwhere(~wall).astype(np.int32)
    number = np.full(wall.shape, -1, np.int32)
    number[tuple(cells.T)] = np.arange(len(cells))
    beside = np.abs(cells[:, None] - cells[None]).sum(-1) == 1
    far = len(cells) + 1
    distance = np.where(np.eye(len(cells), dtype=bool), 0, np.where(beside, 1, far))
    for k in range(len(cells)):  # Floyd and Warshall
        distance = np.minimum(distance, distance[:, [k]] + distance[[k]])
    if not len(cells) or (distance >= far).any():
        raise ValueError("every free cell of a maze must be reachable from every other.")
    # The neighbour of a cell that is nearest to the target; the cell itself at the target.
    through = np.where(beside[:, :, None], distance[None], far)
    toward = np.where(distance == 0, np.arange(len(cells))[:, None], through.argmin(1))
    return Maze(wall, cells, number, distance.astype(np.int32), toward.astype(np.int32))


def cell_of(maze: Maze, position: Array) -> Array:
    """Number of the free cell `[]` that holds a position `[2]` in cells."""
    row, column = jnp.round(position).astype(jnp.int32)
    return jnp.asarray(maze.number)[row, column]


def move(maze: Maze, position: Array, action: Array, speed: ArrayLike = SPEED) -> Array:
    """The position after `action`, `[2]` in [-1, 1]; walls stop the row and the column apart."""
    step = speed * jnp.clip(action, -1, 1)
    for axis in (0, 1):
        moved = position.at[axis].add(step[axis])
        position = jnp.where(cell_of(maze, moved) >= 0, moved, position)
    return position


def random_place(maze: Maze, key: Array, cells: Array | np.ndarray | None = None) -> Array:
    """A position `[2]`: uniform among the given free cells, and within 0.3 of the middle."""
    key_cell, key_within = jax.random.split(key)
    numbers = jnp.arange(len(maze.cells)) if cells is None else jnp.asarray(cells)
    middle = jnp.asarray(maze.cells)[jax.random.choice(key_cell, numbers)]
    return middle + jax.random.uniform(key_within, (2,), minval=-0.3, maxval=0.3)


def point_maze(maze: Maze | None = None, params: MazeParams | None = None) -> Environment:
    """The task to reach a random cell from a random cell.

    Action `[2]` in [-1, 1]: how far to move along rows and columns, in units of `speed` cells;
    observation `[4]`: position and goal; reward 1 where the goal is reached (within 0.4 cells),
    which terminates the episode, 0 before. Truncated after `max_steps`.
    """
    maze = read_maze() if maze is None else maze

    def observe(state: MazeState) -> Array:
        return jnp.concatenate([state.position, state.goal])

    def reset(key: Array, p: MazeParams) -> tuple[Array, MazeState]:
        key_start, key_goal = jax.random.split(key)
        cells = jnp.asarray(maze.cells, jnp.float32)
        goal = jax.random.choice(key_goal, cells)
        state = MazeState(random_place(maze, key_start), goal, jnp.int32(0))
        return observe(state), state

    def step(key: Array, state: MazeState, action: Array, p: MazeParams) -> Step:
        position = move(maze, state.position, action, p.speed)
        state = MazeState(position, state.goal, state.time + 1)
        there = jnp.linalg.norm(position - state.goal) < REACHED
        late = (state.time >= p.max_steps) & ~there
        return Step(observe(state), state, there.astype(jnp.float32), there, late, {})

    return Environment(reset, step, Box((2,), -1.0, 1.0), params or MazeParams())


# --- Data -----------------------------------------------------------------------------------------


def walk(
    maze: Maze,
    key: Array,
    start: Array,
    points: Array,
    num_steps: int,
    noise: ArrayLike = 0.5,
    *,
    straight: bool = False,
) -> tuple[Array, Array]:
    """Goes to one point after the other with a noisy hand, and stays at the last.

    The action points to the middle of the next cell of the shortest path, or straight to the point,
    at full speed until it is within one step, plus normal noise, clipped to [-1, 1].

    Args:
      maze: where.
      key: of the noise.
      start: position, `[2]`.
      points: where to go, middles of free cells, `[G, 2]`.
      num_steps: T.
      noise: standard deviation of each number of the action.
      straight: without a look at the walls.

    Returns:
      Positions before each action and actions, `[T, 2]` each.
    """
    cells, toward = jnp.asarray(maze.cells, jnp.float32), jnp.asarray(maze.toward)

    def one(carry: tuple[Array, Array], disturbance: Array) -> tuple[tuple[Array, Array], Any]:
        position, place = carry
        point = points[place]
        here, there = cell_of(maze, position), cell_of(maze, point)
        aim = point if straight else cells[toward[here, there]]
        way = (aim - position) / SPEED
        way = way / jnp.maximum(jnp.linalg.norm(way), 1.0)
        action = jnp.clip(way + noise * disturbance, -1, 1)
        is_there = jnp.linalg.norm(position - point) < REACHED
        place = jnp.where(is_there, jnp.minimum(place + 1, len(points) - 1), place)
        return (move(maze, position, action), place), (position, action)

    disturbances = jax.random.normal(key, (num_steps, 2))
    _, steps = jax.lax.scan(one, (start, jnp.int32(0)), disturbances)
    return steps


def play(maze: Maze, key: Array, num_steps: int, noise: ArrayLike = 0.5) -> tuple[Array, Array]:
    """Aimless play: from a random place to random cells for as long as it lasts; as `walk`."""
    key_start, key_goals, key_noise = jax.random.split(key, 3)
    goals = jax.random.randint(key_goals, (num_steps,), 0, len(maze.cells))
    points = jnp.asarray(maze.cells, jnp.float32)[goals]
    return walk(maze, key_noise, random_place(maze, key_start), points, num_steps, noise)
