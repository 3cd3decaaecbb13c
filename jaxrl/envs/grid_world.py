"""The configurable grid world of the learned-policy-gradient papers.

An agent walks on a grid with walls and collects objects by stepping on them. Each type of object
has a reward, a probability of ending the episode and a probability of coming back. A `Level` holds
all of that as arrays, so a batch of different levels is one vmap; `grid_levels.py` draws levels and
`grid_optimum.py` computes their optimal return.

Cells are numbered row by row, cell = row * size + column, with the size of the level.

References:
  Oh et al., Discovering Reinforcement Learning Algorithms, arXiv 2007.08794, appendix.
  Jackson et al., Discovering General Reinforcement Learning Algorithms with Adversarial Environment
  Design, arXiv 2310.02782; code EmptyJackson/groove (environments/gridworld).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.envs.environment import Discrete, Environment, Step

NUM_ACTIONS = 5  # up, down, left, right, stay


class GridShape(NamedTuple):
    """What fixes the shapes of levels and observations.

    Attributes:
      max_size: G, largest side of the grid.
      max_objects: n, largest number of objects.
      num_types: types of objects.
      tabular: whether the state is observed as one number, see `grid_world`.
    """

    max_size: int
    max_objects: int
    num_types: int
    tabular: bool = True

    @property
    def num_states(self) -> int:
        """Tabular observations, G^2 * 2^n."""
        return self.max_size**2 * 2**self.max_objects


class Level(NamedTuple):
    """One level; all arrays.

    Attributes:
      size: side of the grid g <= G, `[]`, int32.
      walls: cells the agent cannot enter, `[G * G]`, bool.
      start: the agent's first cell, `[]`, int32.
      object_cell: `[n]`, int32.
      object_type: `[n]`, int32.
      object_used: False for objects this level does not have, `[n]`, bool.
      reward: of collecting an object of each type, `[types]`.
      p_terminate: probability that collecting it ends the episode, `[types]`.
      p_respawn: probability per step that an absent object comes back, `[types]`.
      random_cells: objects appear at random free cells instead of their own, `[]`, bool.
      max_steps: steps until truncation, `[]`, int32.
    """

    size: Array
    walls: Array
    start: Array
    object_cell: Array
    object_type: Array
    object_used: Array
    reward: Array
    p_terminate: Array
    p_respawn: Array
    random_cells: Array
    max_steps: Array


class GridState(NamedTuple):
    """Agent's cell `[]`, objects' cells `[n]`, which of them exist `[n]`, steps done `[]`."""

    cell: Array
    object_cell: Array
    exists: Array
    time: Array


class TabularObservation(NamedTuple):
    """A state as one number.

    The dense observation of the papers is the one-hot of `index` with `time` appended; gathering
    row `index` of a weight matrix and adding `time` times its last row is the same product.

    Attributes:
      index: cell + G^2 * sum_i 2^i exists_i, `[]`, int32, below `GridShape.num_states`.
      time: 0.001 * steps done, `[]`.
    """

    index: Array  # type: ignore[assignment]  # shadows tuple.index
    time: Array


def next_cell(level: Level, cell: Array, action: Array) -> Array:
    """Where an action leads; walls and edges leave the agent in place."""
    row, column = cell // level.size, cell % level.size
    down = jnp.where(action == 1, 1, 0) - jnp.where(action == 0, 1, 0)
    right = jnp.where(action == 3, 1, 0) - jnp.where(action == 2, 1, 0)
    row = jnp.clip(row + down, 0, level.size - 1)
    column = jnp.clip(column + right, 0, level.size - 1)
    target = row * level.size + column
    return jnp.where(level.walls[target], cell, target)


def free_cells(key: Array, free: Array, num: int) -> Array:
    """`num` different cells among those where `free` `[cells]` is true, uniformly, `[num]`.

    If fewer are free, the last ones are not free.
    """
    order = jax.random.uniform(key, free.shape) + free
    return jax.lax.top_k(order, num)[1].astype(jnp.int32)


def grid_world(shape: GridShape, level: Level | None = None) -> Environment:
    """The grid world; levels are the environment's params.

    One step: the agent moves; the objects present in its new cell are collected; objects that were
    absent before the step come back with the probability of their type, and are not collected in
    this step; the reward is the sum over collected objects; the episode terminates with the sum of
    their probabilities (at most 1), and is truncated at the level's `max_steps`.

    Five actions: up, down, left, right, stay. The observation is a `TabularObservation`, or, if not
    `shape.tabular`, `[(1 + types) G^2 + 1]`: the agent's cell, one plane per type of object, and
    0.001 * steps done.

    Args:
      shape: array sizes.
      level: default params; None where levels are always given.
    """
    num_cells = shape.max_size**2
    bits = 2 ** jnp.arange(shape.max_objects, dtype=jnp.int32)

    def observe(state: GridState, level: Level) -> TabularObservation | Array:
        time = 0.001 * state.time.astype(jnp.float32)
        if shape.tabular:
            subset = jnp.sum(jnp.where(state.exists, bits, 0))
            return TabularObservation((state.cell + num_cells * subset).astype(jnp.int32), time)
        planes = jnp.zeros((1 + shape.num_types, num_cells)).at[0, state.cell].set(1.0)
        place = (1 + level.object_type, state.object_cell)
        planes = planes.at[place].max(state.exists.astype(jnp.float32))
        return jnp.append(planes.reshape(-1), time)

    def vacant(cell: Array, level: Level) -> Array:
        cells = jnp.arange(num_cells)
        return (cells < level.size**2) & ~level.walls & (cells != cell)

    def reset(key: Array, level: Level) -> tuple[TabularObservation | Array, GridState]:
        drawn = level.object_cell
        if not shape.tabular:
            drawn = free_cells(key, vacant(level.start, level), shape.max_objects)
        cells = jnp.where(level.random_cells, drawn, level.object_cell)
        state = GridState(level.start, cells, level.object_used, jnp.int32(0))
        return observe(state, level), state

    def step(key: Array, state: GridState, action: Array, level: Level) -> Step:
        key_end, key_respawn, key_cell = jax.random.split(key, 3)
        cell = next_cell(level, state.cell, action)
        collected = state.exists & (state.object_cell == cell)
        of_type = lambda numbers: numbers[level.object_type]
        back = jax.random.bernoulli(key_respawn, of_type(level.p_respawn))
        back = back & ~state.exists & level.object_used
        cells = state.object_cell
        if not shape.tabular:
            free = vacant(cell, level).at[state.object_cell].set(False)
            drawn = free_cells(key_cell, free, shape.max_objects)
            cells = jnp.where(level.random_cells & back, drawn, cells)
        exists = (state.exists & ~collected) | back
        reward = jnp.sum(jnp.where(collected, of_type(level.reward), 0.0))
        end = jnp.sum(jnp.where(collected, of_type(level.p_terminate), 0.0))
        terminated = jax.random.uniform(key_end) < end
        state = GridState(cell, cells, exists, state.time + 1)
        late = state.time >= level.max_steps
        return Step(observe(state, level), state, reward, terminated, late, {})

    return Environment(reset, step, Discrete(NUM_ACTIONS), level)
