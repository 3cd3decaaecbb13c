"""A trial is several episodes of one hidden task, and one episode to the agent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.envs import bandit_trials, check_env, goal_trials, pendulum, trials
from jaxrl.envs.pendulum import PendulumParams
from jaxrl.envs.trials import returns_by_episode
from jaxrl.rollout import new_worker, rollout

ACT = lambda key, observation: (jax.random.randint(key, (), 0, 4), ())


def walked(env, num_steps, act=ACT):
    worker = new_worker(env, env.params, jax.random.key(4))
    return rollout(env, env.params, act, jax.random.key(5), worker, num_steps)[1]


def test_a_goal_stays_for_a_trial_and_is_not_shown():
    env = goal_trials(size=3, max_steps=5, num_episodes=3)
    check_env(env)
    steps = walked(env, 200)
    ended = np.asarray(steps.next_observation[:, -1], bool)
    # Three episodes are a trial, which terminates with the last of them.
    np.testing.assert_array_equal(steps.terminated, ended & (np.cumsum(ended) % 3 == 0))
    assert not steps.truncated.any() and steps.terminated.sum() > 10
    trial = np.cumsum(steps.terminated) - steps.terminated
    cells = np.asarray(steps.observation)[:, :9].argmax(1)
    goals = {}
    for t in range(199):
        assert np.asarray(steps.observation)[t, :9].sum() == 1
        if steps.reward[t]:
            assert ended[t]
            # An episode that ends begins again in the first cell, so the goal is where it moved to.
            row, column = divmod(int(cells[t]), 3)
            row += {0: -1, 1: 1}.get(int(steps.action[t]), 0)
            column += {2: -1, 3: 1}.get(int(steps.action[t]), 0)
            goals.setdefault(int(trial[t]), set()).add(3 * row + column)
        if ended[t]:
            assert cells[t + 1] == 0
    assert all(len(found) == 1 and found != {0} for found in goals.values())
    assert len(set.union(*goals.values())) > 2


def test_the_last_action_reward_and_end_are_told():
    steps = walked(goal_trials(size=3, max_steps=4, num_episodes=2), 60)
    observation, after = np.asarray(steps.observation), np.asarray(steps.next_observation)
    np.testing.assert_array_equal(after[:, 9:14], np.eye(5)[np.asarray(steps.action)])
    np.testing.assert_array_equal(after[:, 14], steps.reward)
    new = np.flatnonzero(np.asarray(steps.terminated))[:-1] + 1
    assert len(new) > 3 and not observation[new, 9:].any()
    inside = np.setdiff1d(np.arange(1, 60), np.flatnonzero(np.asarray(steps.terminated)) + 1)
    np.testing.assert_array_equal(observation[inside], after[inside - 1])


def test_nothing_but_the_end_is_told_where_that_is_asked_for():
    steps = walked(goal_trials(size=3, max_steps=4, num_episodes=2, tells=False), 60)
    assert steps.reward.any() and not np.asarray(steps.next_observation)[:, 9:15].any()
    assert steps.next_observation[:, -1].sum() >= steps.terminated.sum() > 3


def test_a_pull_is_an_episode_of_a_bandit():
    env = bandit_trials(num_arms=4, num_pulls=6)
    check_env(env)
    steps = walked(env, 600)
    assert steps.next_observation[:, -1].all()
    np.testing.assert_array_equal(steps.terminated, np.arange(1, 601) % 6 == 0)
    assert 0.4 < steps.reward.mean() < 0.6


def test_continuous_actions_are_told_as_they_are():
    sample = lambda key: PendulumParams(mass=jax.random.uniform(key), max_steps=3)
    env = trials(pendulum(), sample, num_episodes=2)
    check_env(env)
    steps = walked(env, 7, lambda key, observation: (jnp.array([0.7]), ()))
    np.testing.assert_allclose(steps.next_observation[:, 3], 0.7)
    assert np.flatnonzero(steps.terminated).tolist() == [5]


def test_returns_are_summed_by_episode():
    reward, ended = np.arange(1.0, 9.0), np.array([0, 1, 0, 0, 1, 1, 0, 1])
    found = returns_by_episode(jnp.asarray(reward), jnp.asarray(ended), 3)
    np.testing.assert_array_equal(found, [1 + 2, 3 + 4 + 5, 6])


def test_a_trial_has_an_episode():
    with pytest.raises(ValueError, match="num_episodes is 0"):
        goal_trials(num_episodes=0)
    with pytest.raises(ValueError, match="size is 1"):
        goal_trials(size=1)
