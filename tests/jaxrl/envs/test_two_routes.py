"""Demonstrations round a block: where they begin, what they pass and where they end."""

import jax
import numpy as np
import pytest

from jaxrl.envs.two_routes import POCKETS, START, WITHIN, demonstration, routes_maze, side_of, start


@pytest.fixture(scope="module")
def shown():
    maze = routes_maze()
    keys = jax.random.split(jax.random.key(0), 400)
    position, action = jax.jit(jax.vmap(lambda k: demonstration(maze, k, 40)))(keys)
    side = jax.vmap(side_of)(position)
    return np.asarray(position), np.asarray(action), np.asarray(side)


def test_starts_are_below_the_middle_of_the_block():
    places = np.asarray(jax.vmap(start)(jax.random.split(jax.random.key(1), 100)))
    assert (places[:, 0] == START[0]).all()
    offset = places[:, 1] - START[1]
    assert np.abs(offset).max() <= WITHIN and offset.min() < 0 < offset.max()


def test_both_ways_are_shown_whatever_the_start_and_the_pocket(shown):
    position, _, side = shown
    end = np.linalg.norm(position[:, -1, None] - POCKETS, axis=-1)
    assert (end.min(1) < 0.5).all()
    pocket, right_of = end.argmin(1), position[:, 0, 1] > START[1]
    assert set(side) == {-1, 1}
    for known in (pocket == 0, pocket == 1, right_of, ~right_of):
        assert 0.4 < (side[known] == 1).mean() < 0.6


def test_the_mean_of_what_is_done_first_leads_to_neither_side(shown):
    _, action, side = shown
    assert abs(action[:, 0, 1].mean()) < 0.15
    assert action[side == 1, 0, 1].mean() > 0.8 and action[side == -1, 0, 1].mean() < -0.8


def test_the_side_is_the_one_beside_the_block():
    up = np.array([[4, 3], [4, 1], [3, 1], [2, 1], [2, 5]], np.float32)
    assert side_of(up) == -1 and side_of(up * [1, -1] + [0, 6]) == 1
    assert side_of(up[:2]) == 0
