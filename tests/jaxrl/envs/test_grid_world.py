"""The grid world against a plain loop, its optimum against enumeration, its distributions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.envs import FAMILIES, GridShape, grid_world, optimal_return, sample_level, step_and_reset
from jaxrl.envs.grid_levels import MAZES, first_positive, sample_lifetime
from jaxrl.envs.grid_world import Level

SHAPE = GridShape(max_size=4, max_objects=3, num_types=2)
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0))


def make_level(**changes):
    """A 3 x 3 level inside arrays for 4 x 4; objects 0 and 2 are of type 0, 1 of type 1."""
    walls = np.zeros(16, bool)
    walls[4] = True  # the centre
    level = Level(
        size=np.int32(3),
        walls=walls,
        start=np.int32(0),
        object_cell=np.array([2, 6, 8], np.int32),
        object_type=np.array([0, 1, 0], np.int32),
        object_used=np.array([True, True, True]),
        reward=np.array([1.0, -0.5], np.float32),
        p_terminate=np.array([0.0, 1.0], np.float32),
        p_respawn=np.array([1.0, 0.0], np.float32),
        random_cells=np.array(False),
        max_steps=np.int32(7),
    )
    return jax.tree.map(jnp.asarray, level._replace(**changes))


def walk(level, cell, action):
    size = int(level.size)
    row, column = cell // size + MOVES[action][0], cell % size + MOVES[action][1]
    if not (0 <= row < size and 0 <= column < size) or level.walls[row * size + column]:
        return cell
    return row * size + column


@pytest.mark.parametrize("seed", range(3))
def test_steps_are_those_of_a_loop(seed):
    """Probabilities are 0 or 1, so the loop knows every outcome."""
    used = [True, True, seed != 2]  # what a level does not use never appears
    level = make_level(
        p_terminate=jnp.zeros(2), max_steps=jnp.int32(60), object_used=jnp.array(used)
    )
    env = grid_world(SHAPE)
    step = jax.jit(env.step)
    _, state = env.reset(jax.random.key(0), level)
    cell, exists = 0, list(used)
    for t, action in enumerate(np.random.default_rng(seed).integers(0, 5, 60)):
        found = step(jax.random.key(t), state, action, level)
        state, cell = found.state, walk(level, cell, action)
        collected = [e and c == cell for e, c in zip(exists, level.object_cell, strict=True)]
        reward = sum(
            float(level.reward[k]) for k, c in zip(level.object_type, collected, strict=True) if c
        )
        back = [
            not e and u and level.p_respawn[k] == 1
            for e, u, k in zip(exists, used, level.object_type, strict=True)
        ]
        exists = [(e and not c) or b for e, c, b in zip(exists, collected, back, strict=True)]
        assert state.cell == cell and state.exists.tolist() == exists
        assert found.reward == pytest.approx(reward)
        subset = sum(2**i for i, e in enumerate(exists) if e)
        assert found.observation.index == cell + 16 * subset
        assert found.observation.time == pytest.approx(0.001 * (t + 1))
        assert bool(found.truncated) == (t == 59) and not found.terminated


def test_termination_and_time_limit_are_told_apart():
    env, level = grid_world(SHAPE), make_level(max_steps=jnp.int32(2))
    _, state = env.reset(jax.random.key(0), level)
    first = env.step(jax.random.key(0), state, 1, level)  # down, to cell 3
    second = env.step(jax.random.key(1), first.state, 1, level)  # to cell 6 with its object
    assert not first.terminated and not first.truncated
    assert second.terminated and second.truncated and second.reward == -0.5


def test_reset_keeps_the_final_observation():
    env, level = grid_world(SHAPE), make_level(max_steps=jnp.int32(1))
    _, state = env.reset(jax.random.key(0), level)
    step = step_and_reset(env, jax.random.key(0), jax.random.key(1), state, 1, level)
    assert step.info["final_observation"].index == 3 + 16 * 7 and step.observation.index == 16 * 7
    assert step.state.time == 0 and step.truncated and not step.terminated


def test_respawn_and_termination_have_their_probabilities():
    level = make_level(p_terminate=jnp.array([0.3, 0.0]), p_respawn=jnp.array([0.2, 0.9]))
    env = grid_world(SHAPE)
    _, state = env.reset(jax.random.key(0), level)
    absent = state._replace(cell=jnp.int32(1), exists=jnp.array([True, False, False]))
    keys = jax.random.split(jax.random.key(1), 4000)
    steps = jax.vmap(env.step, (0, None, None, None))(keys, absent, 3, level)
    back = steps.state.exists.mean(0)
    np.testing.assert_allclose(back, [0.0, 0.9, 0.2], atol=0.03)
    assert steps.terminated.mean() == pytest.approx(0.3, abs=0.03)


def optimum_by_enumeration(level, num_objects):
    """max over actions by recursion over states, with all subsets of objects that may come back."""
    kinds = [int(k) for k in level.object_type[:num_objects]]
    cells = [int(c) for c in level.object_cell[:num_objects]]

    @functools.cache
    def value(cell, exists, steps):
        if steps == 0:
            return 0.0
        best = -np.inf
        for action in range(5):
            to = walk(level, cell, action)
            got = [e and c == to for e, c in zip(exists, cells, strict=True)]
            reward = sum(float(level.reward[k]) for k, g in zip(kinds, got, strict=True) if g)
            end = sum(float(level.p_terminate[k]) for k, g in zip(kinds, got, strict=True) if g)
            future = 0.0
            for after in itertools.product([False, True], repeat=num_objects):
                chance = 1.0
                for e, g, k, a in zip(exists, got, kinds, after, strict=True):
                    p = 0.0 if g else 1.0 if e else float(level.p_respawn[k])
                    chance *= p if a else 1 - p
                if chance:
                    future += chance * value(to, after, steps - 1)
            best = max(best, reward + (1 - min(end, 1.0)) * future)
        return best

    return value(int(level.start), (True,) * num_objects, int(level.max_steps))


@pytest.mark.parametrize("num_objects", [1, 2, 3])
def test_optimal_return_by_enumeration(num_objects):
    level = make_level(
        object_used=jnp.arange(3) < num_objects,
        p_terminate=jnp.array([0.2, 0.6]),
        p_respawn=jnp.array([0.3, 0.1]),
    )
    found = jax.jit(functools.partial(optimal_return, SHAPE))(level)
    np.testing.assert_allclose(found, optimum_by_enumeration(level, num_objects), rtol=1e-5)


def test_a_walled_off_level_has_optimum_zero():
    walls = jnp.zeros(16, bool).at[jnp.array([1, 3])].set(True)
    level = make_level(walls=walls)
    assert jax.jit(functools.partial(optimal_return, SHAPE))(level) == 0


def test_dense_observation_shows_agent_and_objects():
    shape = SHAPE._replace(tabular=False)
    env, level = grid_world(shape), make_level(random_cells=jnp.array(True))
    observation, state = env.reset(jax.random.key(3), level)
    planes = np.asarray(observation[:-1]).reshape(3, 16)
    assert planes[0].argmax() == 0 and planes[0].sum() == 1
    placed = {int(c) for c in state.object_cell}
    assert len(placed) == 3 and not placed & {0, 4} and max(placed) < 9
    assert set(np.flatnonzero(planes[1])) == {int(state.object_cell[i]) for i in (0, 2)}
    assert set(np.flatnonzero(planes[2])) == {int(state.object_cell[1])}
    # Objects that come back do so at other free cells.
    absent = state._replace(exists=jnp.zeros(3, bool))
    level = level._replace(p_respawn=jnp.ones(2))
    keys = jax.random.split(jax.random.key(1), 200)
    moved = jax.vmap(env.step, (0, None, None, None))(keys, absent, 4, level).state
    assert len(np.unique(moved.object_cell)) > 3
    assert not np.isin(moved.object_cell, [0, 4]).any() and (moved.object_cell < 9).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_levels_are_possible(name):
    family = FAMILIES[name]
    keys = jax.random.split(jax.random.key(0), 50)
    levels = jax.jit(jax.vmap(functools.partial(sample_level, family)))(keys)
    size = np.asarray(levels.size)
    assert size.min() >= family.size[0] and size.max() <= family.size[1]
    places = np.concatenate([levels.start[:, None], levels.object_cell], 1)
    assert all(len(set(row)) == len(row) for row in places.tolist())
    assert (places < size[:, None] ** 2).all()
    assert not np.take_along_axis(np.asarray(levels.walls), places, 1).any()
    steps, used = np.asarray(levels.max_steps), np.asarray(levels.object_used).sum(1)
    assert steps.min() >= family.max_steps[0] and steps.max() <= family.max_steps[1]
    assert {used.min(), used.max()} == set(family.num_objects)
    lifetimes = jax.vmap(functools.partial(sample_lifetime, family))(keys)
    assert lifetimes.min() >= family.lifetime[0] and lifetimes.max() <= family.lifetime[1]


def test_lifetimes_are_log_uniform():
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = functools.partial(sample_lifetime, FAMILIES["all_vrandlife"])
    lifetimes = np.asarray(jax.vmap(draw)(keys))
    assert (lifetimes < 50).mean() == pytest.approx(0.5, abs=0.03)  # sqrt(10 * 250)
    assert lifetimes.mean() == pytest.approx((250 - 10) / np.log(25), rel=0.03)


@pytest.mark.parametrize("name", MAZES)
def test_mazes_are_connected(name):
    free = ~np.asarray(MAZES[name]).reshape(13, 13)
    reached = np.zeros_like(free)
    reached.flat[free.argmax()] = True
    for _ in range(169):
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        reached = grown & free
    assert (reached == free).all() and 40 < free.sum() < 140


@pytest.mark.parametrize("lifetime", [(0, 4), (5, 4), (-1, 4)])
def test_impossible_lifetimes_are_refused(lifetime):
    family = FAMILIES["debug"]._replace(lifetime=lifetime)
    with pytest.raises(ValueError, match="lifetimes from"):
        sample_lifetime(family, jax.random.key(0))


def test_the_first_reward_of_a_random_level_is_positive():
    drawn = jax.vmap(lambda key: first_positive(key, 3))(jax.random.split(jax.random.key(0), 400))
    assert (drawn[:, 0] >= 0).all() and (abs(drawn) <= 1).all()
    # Means of U(0, 1) and U(-1, 1), to four standard deviations.
    np.testing.assert_allclose(drawn.mean(0), [0.5, 0, 0], atol=0.12)
