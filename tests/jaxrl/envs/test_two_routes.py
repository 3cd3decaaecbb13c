"""Demonstrations past a dead end: where they begin, what they pass and where they end."""

import jax
import numpy as np
import pytest

from jaxrl.envs.two_routes import POCKETS, START, WITHIN, demonstration, routes_maze, side_of, start


@pytest.fixture(scope="module")
def shown():
    maze = routes_maze()
    keys = jax.random.split(jax.random.key(0), 400)
    position, action = jax.jit(jax.vmap(lambda k: demonstration(maze, k, 34)))(keys)
    side = jax.vmap(side_of)(position)
    return np.asarray(position), np.asarray(action), np.asarray(side)


def test_starts_are_below_the_dead_end():
    places = np.asarray(jax.vmap(start)(jax.random.split(jax.random.key(1), 100)))
    assert (places[:, 0] == START[0]).all()
    offset = places[:, 1] - START[1]
    assert np.abs(offset).max() <= WITHIN and offset.min() < 0 < offset.max()


def test_both_ways_are_shown_whatever_the_start_and_the_pocket(shown):
    position, _, side = shown
    end = np.linalg.norm(position[:, -1, None] - POCKETS, axis=-1)
    assert (end.min(1) < 0.5).mean() > 0.99  # hardly any is caught itself
    pocket, right_of = end.argmin(1), position[:, 0, 1] > START[1]
    assert {-1, 1} <= set(side)
    for known in (pocket == 0, pocket == 1, right_of, ~right_of):
        assert 0.4 < (side[known] == 1).mean() < 0.6


def test_the_mean_of_what_is_done_first_leads_straight_up_into_the_dead_end(shown):
    _, action, side = shown
    assert abs(action[:, 0, 1].mean()) < 0.15 and action[:, 0, 0].mean() < -0.3
    assert action[side == 1, 0, 1].mean() > 0.7 and action[side == -1, 0, 1].mean() < -0.7
    maze = routes_maze()
    above = maze.number[5, 3]  # the dead end, three of whose neighbours are walls
    assert above >= 0 and (maze.distance[above] == 1).sum() == 1


def test_the_side_is_that_of_the_first_gate():
    up = np.array([[6, 3], [6, 1], [5, 1], [4, 1], [4, 5]], np.float32)
    assert side_of(up) == -1 and side_of(up * [1, -1] + [0, 6]) == 1
    assert side_of(up[:2]) == 0
