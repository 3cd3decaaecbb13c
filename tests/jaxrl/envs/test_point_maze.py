"""The point maze against searches and steps written out in NumPy."""

import functools
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.envs import check_env
from jaxrl.envs.point_maze import (
    REACHED,
    SPEED,
    cell_of,
    move,
    play,
    point_maze,
    random_place,
    read_maze,
    walk,
)

MAZE = read_maze()


def by_search(maze, start):
    """Steps from one cell to all, breadth first."""
    found, queue = {tuple(start): 0}, deque([tuple(start)])
    while queue:
        row, column = queue.popleft()
        for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if not maze.wall[near] and near not in found:
                found[near] = found[row, column] + 1
                queue.append(near)
    return [found[tuple(cell)] for cell in maze.cells]


def test_distances_are_those_of_a_search():
    expected = [by_search(MAZE, cell) for cell in MAZE.cells]
    np.testing.assert_array_equal(MAZE.distance, expected)
    assert len(MAZE.cells) == 32 and MAZE.distance.max() == 16


def test_the_next_cell_is_one_step_nearer():
    here, goal = np.nonzero(MAZE.distance)
    nearer = MAZE.distance[MAZE.toward[here, goal], goal]
    np.testing.assert_array_equal(nearer, MAZE.distance[here, goal] - 1)
    assert (MAZE.distance[here, MAZE.toward[here, goal]] == 1).all()
    np.testing.assert_array_equal(np.diag(MAZE.toward), np.arange(len(MAZE.cells)))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("####\n#.x#\n####", "drawn with # and ."),
        ("####\n#.#\n####", "lines of one length"),
        ("###\n#..\n###", "border"),
        ("#####\n#.#.#\n#####", "reachable"),
        ("###\n###", "reachable"),
    ],
)
def test_impossible_mazes_are_refused(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_maze(text)


def moved_by_hand(maze, position, action):
    """Row first, then column; a wall stops one of them."""
    position = np.array(position, np.float32)
    for axis in (0, 1):
        new = position.copy()
        new[axis] += np.float32(SPEED) * np.clip(action[axis], -1, 1)
        if not maze.wall[tuple(np.round(new).astype(int))]:
            position = new
    return position


def test_moves_are_those_by_hand():
    rng = np.random.default_rng(0)
    places = MAZE.cells[rng.integers(0, 32, 200)] + rng.uniform(-0.49, 0.49, (200, 2))
    actions = rng.uniform(-1.5, 1.5, (200, 2))
    found = jax.jit(jax.vmap(functools.partial(move, MAZE)))(places, actions)
    expected = [moved_by_hand(MAZE, p, a) for p, a in zip(places, actions, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    stopped = np.abs(np.asarray(found) - places - SPEED * np.clip(actions, -1, 1)) > 0.01
    assert 20 < stopped.sum() < 300  # walls are met


def test_the_environment_ends_at_the_goal_and_is_cut_in_time():
    env = point_maze()
    check_env(env)
    observation, state = env.reset(jax.random.key(0), env.params)
    np.testing.assert_allclose(observation, [*state.position, *state.goal])
    near = state._replace(position=state.goal - jnp.array([0.0, REACHED + 0.1 * SPEED]))
    key, toward = jax.random.key(1), jnp.array([0.0, 1.0])
    for action, there in ((toward, True), (0 * toward, False)):
        step = env.step(key, near, action, env.params)
        assert step.reward == there and step.terminated == there and not step.truncated
    late = near._replace(time=jnp.int32(199))
    assert env.step(key, late, 0 * toward, env.params).truncated
    step = env.step(key, late, toward, env.params)
    assert step.terminated and not step.truncated


def test_play_keeps_to_the_maze_and_goes_everywhere():
    keys = jax.random.split(jax.random.key(0), 8)
    position, action = jax.jit(jax.vmap(lambda k: play(MAZE, k, 300)))(keys)
    cells = np.asarray(jax.vmap(jax.vmap(functools.partial(cell_of, MAZE)))(position))
    assert set(cells.ravel()) == set(range(32))
    assert np.abs(action).max() <= 1
    after = [
        moved_by_hand(MAZE, p, a)
        for p, a in zip(position[0, :50], np.asarray(action)[0, :50], strict=True)
    ]
    np.testing.assert_allclose(position[0, 1:51], after, atol=1e-5)


def test_a_walk_goes_to_its_goals_by_the_shortest_way_and_stays():
    start = MAZE.cells[0].astype(np.float32)
    goals = jnp.asarray(MAZE.cells[[5, 31]], jnp.float32)
    position, _ = jax.jit(lambda: walk(MAZE, jax.random.key(0), start, goals, 80, 0.0))()
    cells = [int(cell_of(MAZE, p)) for p in position]
    first, second = cells.index(5), cells.index(31)
    assert first < second and set(cells[second:]) == {31}
    steps = MAZE.distance[0, 5] + MAZE.distance[5, 31]
    # Corners are cut, and a goal counts before its middle is reached.
    assert 0.8 * steps <= second * SPEED <= steps + 1


def test_random_places_are_within_their_cells():
    keys = jax.random.split(jax.random.key(0), 200)
    place = jax.jit(jax.vmap(lambda k: random_place(MAZE, k, np.array([3, 7]))))(keys)
    near = np.abs(np.asarray(place)[:, None] - MAZE.cells[[3, 7]]).max(-1).min(1)
    assert near.max() <= 0.3 and near.min() < 0.15
