"""The ledge: exact returns against chances carried forward and against episodes that are played."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.envs import check_env
from jaxrl.envs.ledge import EARNED, SLIP, START, STEPS, episode_return, ledge, ledge_game

GAME = ledge_game()


def forward(policy, attacker):
    """Expected return by where the walker is after each step, the abyss being place 5."""
    to = np.zeros((6, 6))
    to[5, 5] = 1
    for place in range(5):
        step = 1 if policy[attacker[place]] else -1
        to[place, max(place + step, 0)] += 1 - SLIP
        to[place, place] += SLIP
    at, total = np.eye(6)[START], 0.0
    for _ in range(STEPS):
        at = at @ to
        total += at[:5] @ np.array(EARNED)
    return total / (STEPS * max(EARNED))


def test_every_policy_meets_every_attacker():
    assert GAME.policies.shape == (32, 5) and len(np.unique(GAME.policies, axis=0)) == 32
    assert GAME.attackers.shape == (108, 5) and len(np.unique(GAME.attackers, axis=0)) == 108
    np.testing.assert_array_equal(GAME.attackers[0], np.arange(5))
    assert (np.abs(GAME.attackers - np.arange(5)) <= 1).all()
    assert GAME.payoff.shape == (32, 108)
    assert (GAME.payoff > 0).all() and (GAME.payoff < 1).all()


def test_returns_are_exact():
    drawn = np.random.default_rng(0).integers(0, (32, 108), (60, 2))
    expected = [forward(GAME.policies[p], GAME.attackers[a]) for p, a in drawn]
    np.testing.assert_allclose(GAME.payoff[tuple(drawn.T)], expected, rtol=1e-5)


def test_episodes_return_what_is_expected_of_them():
    policy, attacker = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]), np.array([[0, 1, 2, 3, 3]] * 2)
    keys = jax.random.split(jax.random.key(0), (2, 2_000))
    found = jax.jit(jax.vmap(jax.vmap(episode_return, (None, None, 0))))(policy, attacker, keys)
    for one, p, a in zip(np.asarray(found), policy, attacker, strict=True):
        error = one.std() / len(one) ** 0.5
        assert abs(one.mean() - forward(p, a)) < 4 * error


def test_it_is_an_environment_and_falling_ends_the_episode():
    env = ledge()
    check_env(env)
    step = env.step(jax.random.key(1), (jnp.int32(4), jnp.int32(3)), jnp.int32(1), ())
    assert step.terminated and step.reward == 0
    step = env.step(jax.random.key(1), (jnp.int32(3), jnp.int32(STEPS - 1)), jnp.int32(1), ())
    assert step.terminated and step.observation == 4
    np.testing.assert_allclose(step.reward, 1 / STEPS)
