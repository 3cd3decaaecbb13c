"""Cart-pole, pendulum and bandits against their equations; adapters."""

import importlib.util
import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.envs import (
    Box,
    Discrete,
    bandit,
    cart_pole,
    from_brax,
    from_gymnax,
    pendulum,
    sample_bandit,
)
from jaxrl.envs.bandit import gaussian
from jaxrl.envs.environment import Environment, Step, step_and_reset


def cart_pole_by_hand(state, action):
    """The equations of motion solved as a linear system for both accelerations (float64)."""
    x, v, th, w = (float(s) for s in state)
    force, g, mc, mp, half = (10.0 if action else -10.0), 9.8, 1.0, 0.1, 0.5
    # (mc + mp) a + mp l cos(th) b = F + mp l w^2 sin(th);  cos(th) a + 4/3 l b = g sin(th)
    matrix = [[mc + mp, mp * half * math.cos(th)], [math.cos(th), 4 / 3 * half]]
    right = [force + mp * half * w**2 * math.sin(th), g * math.sin(th)]
    a, b = np.linalg.solve(matrix, right)
    return np.array([x + 0.02 * v, v + 0.02 * a, th + 0.02 * w, w + 0.02 * b])


def test_cart_pole_follows_its_equations():
    env = cart_pole()
    step = jax.jit(env.step)
    rng = np.random.default_rng(0)
    _, state = env.reset(jax.random.key(0), env.params)
    for _ in range(30):
        physics = rng.uniform(-0.3, 0.3, 4).astype(np.float32)
        action = rng.integers(2)
        found = step(jax.random.key(0), state._replace(physics=physics), action, env.params)
        expected = cart_pole_by_hand(physics, action)
        np.testing.assert_allclose(found.observation, expected, rtol=1e-4, atol=1e-5)
        assert bool(found.terminated) == (abs(expected[2]) > 12 * math.pi / 180)
        assert found.reward == 1 and not found.truncated


def test_cart_pole_ends():
    env = cart_pole()
    _, state = env.reset(jax.random.key(0), env.params)
    late = env.step(jax.random.key(0), state._replace(time=jnp.int32(499)), 1, env.params)
    assert late.truncated and not late.terminated
    gone = state._replace(physics=jnp.array([2.39, 5.0, 0.0, 0.0]))
    assert env.step(jax.random.key(0), gone, 1, env.params).terminated


def test_pendulum_follows_its_equations():
    env = pendulum()
    step = jax.jit(env.step)
    rng = np.random.default_rng(0)
    _, state = env.reset(jax.random.key(0), env.params)
    for _ in range(30):
        angle, speed, torque = rng.uniform([-7, -8, -4], [7, 8, 4])
        before = state._replace(angle=np.float32(angle), speed=np.float32(speed))
        found = step(jax.random.key(0), before, np.float32([torque]), env.params)
        u = min(max(torque, -2), 2)
        new = min(max(speed + (15 * math.sin(angle) + 3 * u) * 0.05, -8), 8)
        turned = angle + new * 0.05
        expected = [math.cos(turned), math.sin(turned), new]
        np.testing.assert_allclose(found.observation, expected, rtol=1e-4, atol=1e-4)
        wrapped = math.remainder(angle, 2 * math.pi)
        cost = wrapped**2 + 0.1 * speed**2 + 0.001 * u**2
        np.testing.assert_allclose(found.reward, -cost, rtol=1e-4, atol=1e-4)
        assert not found.terminated and not found.truncated
    assert env.action == Box((1,), -2.0, 2.0)
    for time, late in ((198, False), (199, True)):  # the 200th step is the last one
        before = state._replace(time=jnp.int32(time))
        found = step(jax.random.key(0), before, np.float32([0]), env.params)
        assert bool(found.truncated) == late and not found.terminated


def test_actions_outside_of_their_box_are_clipped():
    """An environment that would use any action: its reward is the action."""

    def step(key, state, action, params):
        never = jnp.zeros((), bool)
        return Step(state, state, action[0], never, never, {})

    env = Environment(lambda key, params: (0.0, 0.0), step, Box((1,), -1.5, 0.5), None)
    for action, used in ((7.0, 0.5), (-7.0, -1.5), (0.25, 0.25)):
        key = jax.random.key(0)
        assert step_and_reset(env, key, key, 0.0, jnp.array([action]), None).reward == used


@pytest.mark.parametrize("draw", ["bernoulli", "gaussian"])
def test_bandit_pays_its_means(draw):
    env = bandit(3, max_steps=5) if draw == "bernoulli" else bandit(3, draw=gaussian, max_steps=5)
    params = sample_bandit(jax.random.key(0), 3, max_steps=5)
    observation, state = env.reset(jax.random.key(0), params)
    assert (observation == 0).all() and env.action == Discrete(3)
    keys = jax.random.split(jax.random.key(1), 4000)
    steps = jax.vmap(env.step, (0, None, None, None))(keys, state, 2, params)
    assert steps.reward.mean() == pytest.approx(float(params.mean[2]), abs=0.06)
    np.testing.assert_array_equal(steps.observation[:, :3], [[0, 0, 1]] * 4000)
    np.testing.assert_array_equal(steps.observation[:, 3], steps.reward)
    assert not steps.truncated.any()
    last = env.step(keys[0], state._replace(time=jnp.int32(4)), 0, params)
    assert last.truncated and not last.terminated
    with pytest.raises(ValueError, match="at least 2"):
        bandit(1)


class State(NamedTuple):
    """What brax's states have."""

    pipeline_state: Any
    obs: Any
    reward: Any
    done: Any
    metrics: Any


class Falling:
    """An environment with brax's interface: it falls a metre a step and is done below -3."""

    action_size = 2

    def reset(self, key):
        height = jax.random.uniform(key)
        metrics = {"reward": jnp.zeros(())}
        return State(height, jnp.stack([height]), jnp.zeros(()), jnp.zeros(()), metrics)

    def step(self, state, action):
        height = state.pipeline_state - 1
        done = jnp.where(height < -3, 1.0, 0.0)
        state.metrics.update(reward=1.0)  # in place and a Python number, as in brax
        return State(height, jnp.stack([height]), action.sum(), done, state.metrics)


def test_brax_interface_truncates_and_terminates():
    env = from_brax(Falling(), max_steps=2)
    _, state = env.reset(jax.random.key(0), env.params)
    first = env.step(jax.random.key(0), state, jnp.ones(2), env.params)
    second = env.step(jax.random.key(0), first.state, jnp.ones(2), env.params)
    assert first.reward == 2 and not first.truncated and second.truncated
    assert not second.terminated
    env = from_brax(Falling(), max_steps=100)
    ends = []
    for _ in range(4):
        step = env.step(jax.random.key(0), state, jnp.ones(2), env.params)
        state = step.state
        ends.append(bool(step.terminated))
    assert ends[-1] and not any(ends[:2])


@pytest.mark.optional_dep
@pytest.mark.skipif(importlib.util.find_spec("gymnax") is None, reason="needs gymnax")
@pytest.mark.parametrize(
    ("name", "make", "action"),
    [("CartPole-v1", cart_pole, np.int32(1)), ("Pendulum-v1", pendulum, np.float32([0.7]))],
)
def test_gymnax_steps_as_ours(name, make, action):
    import gymnax

    with jax.numpy_rank_promotion("allow"):  # gymnax mixes ranks
        compare(make(), from_gymnax(*gymnax.make(name)), name, action)


@pytest.mark.optional_dep
@pytest.mark.skipif(importlib.util.find_spec("brax") is None, reason="needs brax")
@pytest.mark.parametrize("name", ["ant", "inverted_pendulum"])
def test_brax_steps_under_scan(name):
    """As brax's own steps, in the order reset, step, step."""
    from brax import envs

    with jax.numpy_rank_promotion("allow"):
        theirs = envs.get_environment(name, backend="spring")
        env = from_brax(theirs, max_steps=3)
        action = jnp.full(env.action.shape, 0.3)

        @jax.jit
        def run(key):
            def one(state, _):
                step = env.step(key, state, action, env.params)
                return step.state, (step.observation, step.reward, step.truncated)

            return jax.lax.scan(one, env.reset(key, env.params)[1], length=3)[1]

        observations, rewards, truncated = run(jax.random.key(0))
        state, step = jax.jit(theirs.reset)(jax.random.key(0)), jax.jit(theirs.step)
        for t in range(3):
            state = step(state, action)
            np.testing.assert_allclose(observations[t], state.obs, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(rewards[t], state.reward, rtol=1e-4, atol=1e-4)
    assert truncated.tolist() == [False, False, True]


def compare(ours, theirs, name, action):
    assert theirs.action == ours.action
    observation, state = theirs.reset(jax.random.key(0), theirs.params)
    mine = ours.reset(jax.random.key(0), ours.params)[1]
    if name.startswith("Cart"):
        mine = mine._replace(physics=observation)
    else:
        mine = mine._replace(angle=state.theta, speed=state.theta_dot)
    for t in range(20):
        a = theirs.step(jax.random.key(t), state, action, theirs.params)
        b = ours.step(jax.random.key(t), mine, action, ours.params)
        state, mine = a.state, b.state
        np.testing.assert_allclose(a.observation, b.observation, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(a.reward, b.reward, rtol=1e-4, atol=1e-5)
        assert a.terminated == b.terminated and a.truncated == b.truncated
        if a.terminated:
            break


def test_old_gymnax_is_refused():
    with pytest.raises(ValueError, match=r"gymnax >= 1\.0\.1"):
        from_gymnax(SimpleNamespace(default_params=None))
