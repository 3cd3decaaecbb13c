"""Returns by episode of agents with and without memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rl import in_trials
from jaxrl.envs import bandit_trials
from jaxrl.memory import Decided, remembering

PULLS = 5
ENV = bandit_trials(num_arms=2, num_pulls=PULLS)


def stay(pulled, reward):
    """The arm of the last pull if it won, else the other one."""
    return jnp.where(reward > 0, pulled, 1 - pulled)


def from_last(key, seen):
    """Remembers nothing but what the trial tells: `[3 | 2 arms, reward, ended]`."""
    return stay(seen[3:5].argmax(), seen[5]), ()


def without(key, seen):
    return Decided(*from_last(key, seen.observation)[:1], seen.memory), ()


@pytest.mark.parametrize("remembers", [False, True])
def test_returns_are_those_of_each_pull(remembers):
    """The arms are x and y: the first pull is right with 1/2, the second with E[x^2 + (1-x) y]."""
    env, act = (remembering(ENV, ()), without) if remembers else (ENV, from_last)
    measure = jax.jit(lambda key: in_trials.mean_returns(env, act, key, 4000, PULLS + 3, PULLS))
    found = measure(jax.random.key(0))
    assert found.shape == (PULLS,)
    np.testing.assert_allclose(found[:2], [1 / 2, 1 / 3 + 1 / 4], atol=0.04)
    assert found[2:].min() > 0.53


def test_first_and_last_are_a_fifth_and_one_at_least():
    found = in_trials.first_and_last(np.arange(20.0).reshape(2, 10))
    np.testing.assert_array_equal(found["return_first"], [0.5, 10.5])
    np.testing.assert_array_equal(found["return_last"], [8.5, 18.5])
    found = in_trials.first_and_last(np.array([3.0, 4.0, 7.0]))
    assert found == {"return_first": 3, "return_last": 7}


def test_a_figure_has_a_line_per_agent(tmp_path):
    in_trials.figure(np.ones((2, 4)), tmp_path / "by_episode.png")
    assert (tmp_path / "by_episode.png").stat().st_size > 1000
