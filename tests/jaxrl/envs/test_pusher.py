"""The pusher against a simulation of its own in NumPy, and its walls."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.envs import check_env
from jaxrl.envs.pusher import FURTHEST, SPEED, TOUCH, PusherParams, bumps, push, pusher, seen


def shoved(point, disc, action):
    """One step in words: the point goes, the disc gives way, what a wall holds does not."""
    point = np.clip(point + SPEED * action, -1, 1)
    distance = np.hypot(*(disc - point))
    if distance < TOUCH:
        disc = point + (disc - point) * (TOUCH / distance)
        disc = np.clip(disc, -FURTHEST, FURTHEST)
        distance = np.hypot(*(disc - point))
        if distance < TOUCH:
            point = np.clip(disc + (point - disc) * (TOUCH / distance), -1, 1)
    return point, disc


def test_pushes_are_those_of_the_simulation_and_nothing_leaves_the_square():
    random, step = np.random.default_rng(0), jax.jit(push)
    moved = held = 0
    for _ in range(6):
        point, disc, aim = random.uniform(-0.9, 0.9, 2), random.uniform(-0.5, 0.5, 2), None
        for time in range(30):
            aim = disc + random.normal(size=2) * 0.1 if time % 3 == 0 else aim
            action = np.clip((aim - point) / SPEED, -1, 1).astype(np.float32)
            found = step(jnp.float32(point), jnp.float32(disc), action)
            after = shoved(point, disc, action)
            np.testing.assert_allclose(found, after, atol=2e-5)
            moved += (after[1] != disc).any()
            held += (np.abs(after[1]) == FURTHEST).any() and (after[1] == disc).any()
            point, disc = after
            assert (np.abs(point) <= 1).all() and (np.abs(disc) <= FURTHEST).all()
    assert moved > 20 and held > 5


def test_a_disc_is_pushed_along_the_line_between_the_two():
    point, disc = push(jnp.array([-0.2, 0.0]), jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose((point, disc), [[-0.1, 0], [0.1, 0]], atol=1e-6)
    away = push(jnp.array([-0.2, 0.0]), jnp.array([0.0, 0.0]), jnp.array([-1.0, 0.0]))
    np.testing.assert_allclose(away, [[-0.3, 0], [0, 0]], atol=1e-6)
    cornered = push(jnp.array([0.65, 0.0]), jnp.array([FURTHEST, 0.0]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(cornered, [[0.65, 0], [FURTHEST, 0]], atol=1e-6)


def test_running_into_a_wall_is_noticed():
    observation = jnp.array([0.95, 0.0, 0, 0, 0, 0, 0.3])
    assert bumps(observation, jnp.array([1.0, 0.0])) and not bumps(observation, jnp.zeros(2))
    assert not bumps(observation, jnp.array([0.4, 0.0]))
    assert not bumps(observation, jnp.array([-9.0, 0.0])), "actions are at most 1"


def test_it_is_an_environment_whose_reward_is_the_way_of_the_disc():
    env = pusher(PusherParams(2))
    check_env(env)
    observation, state = env.reset(jax.random.key(3), env.params)
    assert np.hypot(*seen(observation).way) >= TOUCH - 1e-6
    np.testing.assert_allclose(seen(observation).way, state.disc - state.point, atol=1e-6)
    state = state._replace(point=state.disc - jnp.array([TOUCH, 0]))
    step = env.step(jax.random.key(0), state, jnp.array([0.5, 0.0]), env.params)
    np.testing.assert_allclose(step.reward, 0.05, rtol=1e-4)
    assert not step.truncated
    assert env.step(jax.random.key(0), step.state, jnp.zeros(2), env.params).truncated
