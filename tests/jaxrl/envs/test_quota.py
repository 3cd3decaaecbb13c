"""The task with a quota: its episodes and who wins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.envs import check_env
from jaxrl.envs.quota import STEPS, Earned, earned, prefers, quota


def test_an_episode_is_sixteen_steps_whose_actions_are_the_rewards():
    env = quota()
    check_env(env)
    observation, state = env.reset(jax.random.key(0), ())
    for time in range(STEPS):
        np.testing.assert_array_equal(observation, np.arange(STEPS) == time)
        step = env.step(jax.random.key(0), state, jnp.int32(time % 3 == 0), ())
        observation, state = step.observation, step.state
        assert step.reward == (time % 3 == 0) and not step.truncated
        assert step.terminated == (time == STEPS - 1)


def test_what_counts_are_twelve_steps_and_four():
    reward = np.arange(16.0)
    assert earned(reward) == (66, 54)
    assert Earned(jnp.float32(0), jnp.float32(1)).keeps_quota
    assert not Earned(jnp.float32(0), jnp.float32(2)).keeps_quota


@pytest.mark.parametrize(
    ("a", "b", "wins"),
    [
        ((5, 0), (4, 1), 1),
        ((4, 1), (5, 0), 0),
        ((5, 0), (5, 1), 0.5),
        ((0, 1), (12, 2), 1),
        ((12, 4), (0, 0), 0),
        ((7, 3), (6, 2), 1),
    ],
)
def test_a_kept_quota_counts_first_and_then_the_return(a, b, wins):
    a, b = (Earned(*map(jnp.float32, x)) for x in (a, b))
    assert prefers(a, b) == wins and prefers(b, a) == 1 - wins
