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


@pytest.mark.parametrize("baseline", ["centred", "standardised", "leave_one_out"])
def test_a_response_that_was_not_taken_is_neither_compared_nor_compared_with(baseline):
    taken = np.array([[1, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 0], [0] * 4, [0, 0, 1, 1]], bool)
    reward = jnp.array([[1, 0, 1, 9.0], [9, 0, 2, 9], [1, 9, 9, 9], [1, 2, 3, 4], [0, 9, 3, 3]])
    found = advantages.group_advantage(reward, baseline, jnp.asarray(taken))
    assert advantages.informative(reward, jnp.asarray(taken)).tolist() == [1, 1, 0, 0, 0]
    for row, got, which in zip(np.asarray(reward), found, taken, strict=True):
        expected = np.zeros(4)
        expected[which] = group_by_hand(row[which], baseline) if which.any() else []
        np.testing.assert_allclose(got, expected, atol=1e-5)


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
    second = jnp.ones((4, 2, 3), bool).at[1, 0].set(False)
    assert not advantages.without_equal_groups(second, reward)[1].any()


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
    taken = jnp.array([[True, True, True], [True, True, False]])
    bonus = advantages.with_progress(reward + 0.5, taken, 10.0)
    np.testing.assert_allclose(bonus, [[1.5, -9.5, 22.5], [0.5, 11.5, 1.5]])
    right_at_once, nothing_more = jnp.array([1.0, 0.0]), jnp.array([True, False])
    whole = advantages.turn_returns(
        advantages.with_progress(right_at_once, nothing_more, 10.0), 0.9
    )
    assert whole.tolist() == [1, 0]  # and no loss of what an answer that was right had to lose
    turn = jnp.array([[-1, 0, 0, -1, 1, 2], [0, 1, 1, 2, -1, -1]])
    found = advantages.of_turns(reward, turn)
    assert found.tolist() == [[0, 1, 1, 0, 0, 2], [0, 1, 1, 1, 0, 0]]
