"""Trips through a maze with policies whose ways are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.offline import mazes
from jaxrl.envs.point_maze import REACHED, SPEED, cell_of, read_maze

MAZE = read_maze()


def guide(memory, key, position, goal):
    """The shortest way by the table, and away after 40 steps, which the memory counts."""
    cells = jnp.asarray(MAZE.cells, jnp.float32)
    here, there = cell_of(MAZE, position), cell_of(MAZE, goal)
    way = (cells[jnp.asarray(MAZE.toward)[here, there]] - position) / SPEED
    return memory + 1, jnp.where(memory < 40, jnp.clip(way, -1, 1), -1.0)


@pytest.fixture(scope="module")
def trips():
    return mazes.trips(MAZE, jax.random.key(0), 20, 10)


def test_trips_are_far_and_begin_off_the_middle(trips):
    begin, end = (np.asarray(x) for x in (trips.start, trips.goal))
    cell = lambda x: MAZE.number[tuple(np.round(x).astype(int).T)]
    assert (MAZE.distance[cell(begin), cell(end)] >= 10).all()
    np.testing.assert_array_equal(end, np.round(end))
    assert (np.abs(begin - np.round(begin)) > 0.01).any(1).all()
    with pytest.raises(ValueError, match="min_distance=17, but no two cells of the maze are more"):
        mazes.trips(MAZE, jax.random.key(0), 1, 17)


def test_a_guide_arrives_and_stays(trips):
    run = lambda act: jax.jit(lambda t: mazes.paths(MAZE, act, jnp.int32(0), t, 60))(trips)
    path = run(guide)
    assert mazes.reached(path, trips.goal).all()
    far = np.linalg.norm(np.asarray(path) - np.asarray(trips.goal)[:, None], axis=-1)
    for one in far:
        arrived = np.argmax(one < REACHED)
        assert arrived >= 10 and (one[arrived:] == one[arrived]).all()
    np.testing.assert_array_equal(path[:, 0], trips.start)


def test_whoever_stands_still_arrives_nowhere(trips):
    stand = lambda memory, key, position, goal: (memory, jnp.zeros(2))
    path = mazes.paths(MAZE, stand, (), trips, 3)
    assert path.shape == (20, 4, 2) and not mazes.reached(path, trips.goal).any()
    assert mazes.reached(np.asarray(trips.goal)[None, :, None], trips.goal).all()
