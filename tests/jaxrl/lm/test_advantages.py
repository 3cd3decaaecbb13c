"""Advantages of groups, tokens and turns against loops in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.lm import advantages

RNG = np.random.default_rng(0)
REWARD = RNG.integers(0, 2, (6, 4)).astype(np.float32)
REWARD[0], REWARD[1], REWARD[2] = 0.1, 1, [0, 1, 1, 0]


def group_by_hand(rewards, baseline):
    n = len(rewards)
    if len(set(rewards)) == 1:
        return np.zeros(n)
    if baseline == "leave_one_out":
        return [rewards[i] - (rewards.sum() - rewards[i]) / (n - 1) for i in range(n)]
    centred = rewards - rewards.mean()
    return centred if baseline == "centred" else centred / (np.std(rewards, ddof=1) + 1e-6)


@pytest.mark.parametrize("baseline", ["centred", "standardised", "leave_one_out"])
def test_advantages_in_a_group(baseline):
    found = advantages.group_advantage(jnp.array(REWARD), baseline)
    expected = [group_by_hand(row, baseline) for row in REWARD.astype(float)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    odd = jnp.full((1, 7), 0.9)  # whose mean is not 0.9 in float32
    assert (found[:2] == 0).all() and (advantages.group_advantage(odd, baseline) == 0).all()


def test_leave_one_out_is_the_centred_reward_times_g_over_g_minus_1():
    centred, left_out = (
        advantages.group_advantage(jnp.array(REWARD), b) for b in ("centred", "leave_one_out")
    )
    np.testing.assert_allclose(left_out, 4 / 3 * centred, rtol=1e-6)


def test_groups_of_one_and_unknown_baselines_are_refused():
    with pytest.raises(ValueError, match="no baseline; sample at least two"):
        advantages.group_advantage(jnp.ones((3, 1)), "centred")
    with pytest.raises(ValueError, match="no baseline 'max'"):
        advantages.group_advantage(jnp.array(REWARD), "max")


def test_groups_that_teach_nothing_are_left_out():
    reward = jnp.array([[1, 1], [0, 1], [0, 0], [1, 0]], jnp.float32)
    assert advantages.informative(reward).tolist() == [False, True, False, True]
    mask = advantages.without_equal_groups(jnp.ones((4, 2, 3), bool), reward)
    assert mask.any((1, 2)).tolist() == [False, True, False, True] and mask[1].all()


def test_forced_tokens_take_no_time_in_token_advantages():
    rows, length, gamma, lambda_ = 3, 8, 0.9, 0.7
    reward, value = RNG.normal(size=(2, rows, length)).astype(np.float32)
    mask = np.array([[0, 1, 1, 0, 0, 1, 1, 0], [1] * 8, [0] * 8], bool)
    expected = np.zeros((rows, length))
    for b in range(rows):
        following = advantage = 0.0
        for t in np.flatnonzero(mask[b])[::-1]:
            delta = reward[b, t] + gamma * following - value[b, t]
            advantage = delta + gamma * lambda_ * advantage
            expected[b, t], following = advantage, value[b, t]
    blank = lambda x: jnp.array(np.where(mask, x, np.nan))
    found = advantages.token_advantages(
        blank(reward), blank(value), jnp.array(mask), gamma=gamma, lambda_=lambda_
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_turns():
    reward = jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
    np.testing.assert_allclose(advantages.turn_returns(reward, 0.0), reward)
    expected = [[1 + 0.5 * 0 + 0.25 * 2, 0 + 0.5 * 2, 2], [0.5 + 0.25, 1 + 0.5, 1]]
    np.testing.assert_allclose(advantages.turn_returns(reward, 0.5), expected)
    bonus = advantages.with_progress(reward, 10.0)
    np.testing.assert_allclose(bonus, [[1, -10, 22], [0, 11, 1]])
    turn = jnp.array([[-1, 0, 0, -1, 1, 2], [0, 1, 1, 2, -1, -1]])
    found = advantages.of_turns(reward, turn)
    assert found.tolist() == [[0, 1, 1, 0, 0, 2], [0, 1, 1, 1, 0, 0]]
