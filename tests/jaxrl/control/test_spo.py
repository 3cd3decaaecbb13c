"""SPO's win rates against a tournament played out, its rewards in PPO, and games of one step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl.actor_critic import a2c
from jaxrl.control.spo import (
    comparisons,
    exploitability,
    minimax_winner,
    reward_model,
    self_play,
    win_rates,
)
from jaxrl.envs.quota import STEPS, Earned, earned, prefers, quota
from jaxrl.networks import mlp
from jaxrl.rollout import Transition


def rewards(seed, number=7):
    return np.random.default_rng(seed).integers(0, 2, (number, STEPS)).astype(np.float32)


def beats(a, b):
    """The rule of the quota in words of Python."""
    keeps = a[12:].sum() <= 1, b[12:].sum() <= 1
    if keeps[0] != keeps[1]:
        return float(keeps[0])
    first = a[:12].sum(), b[:12].sum()
    return 0.5 if first[0] == first[1] else float(first[0] > first[1])


def steps_of(reward):
    """Steps of trajectories whose action is the reward."""
    time = np.broadcast_to(np.eye(STEPS, dtype=np.float32), (len(reward), STEPS, STEPS))
    empty = np.zeros(reward.shape, bool)
    return Transition(time, reward.astype(np.int32), (), reward, empty, empty, time, reward, empty)


def test_win_rates_are_those_of_a_tournament():
    played = rewards(0)
    expected = [
        np.mean([beats(a, b) for j, b in enumerate(played) if j != i]) for i, a in enumerate(played)
    ]
    assert len(set(expected)) > 3
    relabel = self_play(earned, prefers)
    reward, kept, said = relabel.apply((), steps_of(played), jax.random.key(0))
    np.testing.assert_allclose(reward[:, -1], expected, rtol=1e-6)
    assert (reward[:, :-1] == 0).all() and kept == () and said == {}
    np.testing.assert_allclose(reward.sum(), len(played) / 2, rtol=1e-6)


def test_a_judge_that_is_wrong_is_so_for_both_of_a_pair():
    compared = Earned(jnp.arange(40.0), jnp.zeros(40))
    wins = np.asarray(comparisons(prefers, compared, jax.random.key(1), 0.2))
    np.testing.assert_allclose(wins + wins.T, 1)
    right = np.tril(np.ones((40, 40)), -1)
    wrong = (wins != right)[np.triu_indices(40, 1)].mean()
    assert abs(wrong - 0.2) < 0.05
    exact = np.asarray(comparisons(prefers, compared, jax.random.key(1)))
    np.testing.assert_allclose(exact[np.triu_indices(40, 1)], 0)
    np.testing.assert_allclose(win_rates(jnp.asarray(exact)), np.arange(40) / 39, rtol=1e-6)


@pytest.mark.parametrize("is_timed", [False, True])
def test_the_reward_model_takes_the_gradient_of_bradley_and_terry(is_timed):
    played, number = rewards(2, 5), STEPS if is_timed else 1
    features = (lambda s, a: s * a) if is_timed else (lambda s, a: a[None] * 1.0)
    model = reward_model(earned, prefers, features, number, optax.sgd(1.0))
    weights = np.random.default_rng(0).normal(size=number).astype(np.float32)
    kept = jnp.asarray(weights), model.init(jax.random.key(0))[1]
    reward, (after, _), said = model.apply(kept, steps_of(played), jax.random.key(0))
    phi = played if is_timed else played.sum(1, keepdims=True)
    loss, gradient, pairs = 0.0, np.zeros(number), 0
    for i in range(5):
        for j in range(5):
            if i == j:
                continue
            margin, won = (phi[i] - phi[j]) @ weights, beats(played[i], played[j])
            chance = 1 / (1 + np.exp(-margin))
            loss -= won * np.log(chance) + (1 - won) * np.log(1 - chance)
            gradient += (chance - won) * (phi[i] - phi[j])
            pairs += 1
    np.testing.assert_allclose(said["preference_loss"], loss / pairs, rtol=1e-5)
    np.testing.assert_allclose(after, weights - gradient / pairs, rtol=1e-4, atol=1e-5)
    expected = played * weights if is_timed else played * weights[0]
    np.testing.assert_allclose(reward, expected, rtol=1e-5)


def test_ppo_learns_from_the_rates_and_reports_the_rewards_of_the_task():
    env = quota()
    relabel = self_play(earned, prefers)
    core = a2c(
        env,
        mlp(env.action, ()),
        optax.sgd(1.0),
        num_workers=6,
        num_steps=STEPS,
        gamma=1.0,
        lambda_=1.0,
        relabel=relabel,
    )
    state = core.init(jax.random.key(0))
    params = state.params | {"critic": jax.tree.map(jnp.zeros_like, state.params["critic"])}
    update = jax.jit(core.update)
    after, out = update(state._replace(params=params), jnp.arange(6), jax.random.key(1))
    assert out.metrics["num_episodes"] == 6 and 3 < out.metrics["episode_return"] < 13
    # Of a value of 0 the error is half the mean square of the rates, whose mean is 1/2.
    assert 0.125 <= out.metrics["value_loss"] * 1.0001 <= 0.25
    assert after.relabel == ()


PAYOFF = np.array([[0, -0.2, 0.8], [0.2, 0, -0.2], [-0.8, 0.2, 0]], np.float32)


def test_self_play_between_three_actions_finds_their_equilibrium_on_average():
    policy = jax.jit(minimax_winner)(PAYOFF)
    np.testing.assert_allclose(policy, [1 / 6, 2 / 3, 1 / 6], atol=0.03)
    assert exploitability(PAYOFF, policy) < 0.006
    # Who scores actions one by one takes the first, which the second beats.
    assert PAYOFF.mean(1).argmax() == 0
    np.testing.assert_allclose(exploitability(PAYOFF, jnp.array([1.0, 0, 0])), 0.2, rtol=1e-6)
