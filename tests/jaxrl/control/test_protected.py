"""PROTECTED: what is discovered against linear programs, the bandit against weights by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxrl.control import protected
from jaxrl.envs.ledge import ledge_game


def lead(payoff, one, others):
    """By how much a policy is ahead of the others against the best mixture: a linear program."""
    ahead = payoff[one] - payoff[others]
    number = payoff.shape[1]
    found = linprog(
        np.append(np.zeros(number), -1.0),
        A_ub=np.column_stack([-ahead, np.ones(len(ahead))]),
        b_ub=np.zeros(len(ahead)),
        A_eq=np.append(np.ones(number), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, 1)] * number + [(None, None)],
    )
    return -found.fun


def not_dominated(payoff):
    """Leads of all policies over all others, `[P]`: above 0 if no mixture is as good."""
    everyone = np.arange(len(payoff))
    return np.array([lead(payoff, p, everyone != p) for p in everyone])


CORNERS = np.array([[1, 0], [0, 1], [0.6, 0.6], [0.4, 0.4], [0.2, 0.8], [0.9, -0.3]], np.float32)


def test_a_policy_for_mixtures_alone_is_found_and_one_dominated_by_a_mixture_is_not():
    found = jax.jit(protected.discover)(CORNERS)
    np.testing.assert_array_equal(found.pool, [True, True, True, False, False, False])
    assert sorted(found.joined.tolist()) == [-1, -1, -1, 0, 1, 2]
    # No single policy is as good as the fourth against both, nor is it best against either.
    assert not any((CORNERS[p] >= CORNERS[3]).all() for p in (0, 1))
    attack, ahead = protected.hardest(CORNERS[2] - CORNERS, jnp.arange(6) < 2)
    np.testing.assert_allclose(attack, [0.5, 0.5], atol=2e-3)
    np.testing.assert_allclose(ahead, 0.1, atol=2e-3)


def test_the_lead_is_that_of_the_linear_program_and_attained():
    payoff = np.random.default_rng(3).uniform(size=(9, 6)).astype(np.float32)
    rivals = np.arange(9) % 2 == 0
    for one in (1, 3, 5):
        attack, ahead = jax.jit(protected.hardest)(payoff[one] - payoff, rivals)
        np.testing.assert_allclose(ahead, lead(payoff, one, rivals), atol=1e-3)
        np.testing.assert_allclose(attack.sum(), 1, rtol=1e-5)
        assert ((payoff[one] - payoff[rivals]) @ np.asarray(attack) >= ahead - 1e-6).all()


@pytest.mark.ci
def test_on_the_ledge_exactly_those_are_found_that_no_mixture_dominates():
    payoff = ledge_game().payoff
    _, distinct = np.unique(payoff.round(6), axis=0, return_index=True)  # the first of equals
    leads = np.zeros(len(payoff))
    leads[distinct] = not_dominated(payoff[distinct])
    assert not ((leads > 1e-6) & (leads < 1e-2)).any(), "a policy at the threshold"
    found = jax.jit(protected.discover)(payoff)
    np.testing.assert_array_equal(found.pool, leads > 1e-3)
    assert found.pool.sum() == 8 and found.gap <= 1e-3


def test_log_weights_are_those_of_the_losses_divided_by_their_chances():
    arms = jnp.array([True, False, True, True])
    bandit = protected.exp3(arms, 50, scale=2.0)
    rate = 2 * np.sqrt(np.log(3) / (3 * 50))
    np.testing.assert_allclose(bandit.rate, rate, rtol=1e-6)
    weights = np.array([1.0, 0, 1, 1])
    for arm, reward in ((0, 0.3), (2, 0.9), (3, 0.0), (0, 1.0), (3, 0.4)):
        chance = weights / weights.sum()
        np.testing.assert_allclose(bandit.chances, chance, rtol=1e-5)
        weights[arm] *= np.exp(-rate * (1 - reward) / (chance[arm] + rate / 2))
        bandit = bandit.after(jnp.int32(arm), jnp.float32(reward))
    np.testing.assert_allclose(bandit.chances, weights / weights.sum(), rtol=1e-5)


def test_weights_that_a_float_cannot_hold_are_no_trouble():
    bandit = protected.exp3(jnp.ones(3, bool), 2)
    lose = lambda bandit, arm: (bandit.after(arm, jnp.where(arm == 1, 1.0, 0.0)), None)
    bandit, _ = jax.lax.scan(lose, bandit, jnp.arange(3_000) % 3)
    assert np.isfinite(bandit.log_weights).all() and bandit.log_weights.min() < -1e3
    np.testing.assert_allclose(bandit.chances, [0, 1, 0], atol=1e-6)


def test_attacks_come_and_go():
    key, off = jax.random.key(0), jnp.zeros((), bool)
    now = [bool(protected.periodic(3)(key, jnp.int32(t), off)) for t in range(8)]
    assert now == [False] * 3 + [True] * 3 + [False] * 2
    always, attacked = protected.switching(2, 1.0), [off]
    for t in range(6):
        attacked.append(always(key, jnp.int32(t), attacked[-1]))
    assert [bool(x) for x in attacked[1:]] == [False, False, True, True, False, False]
    sometimes = jax.vmap(protected.switching(2, 0.3), (0, None, None))
    keys = jax.random.split(key, 500)
    assert abs(sometimes(keys, jnp.int32(4), off).mean() - 0.3) < 0.07
    assert not sometimes(keys, jnp.int32(5), off).any()


def test_a_round_tells_the_bandit_its_return_and_counts_what_was_possible():
    payoff, pool = jnp.asarray(CORNERS[:3]), jnp.array([True, True, False])
    play = lambda key, policy, attacker: payoff[policy, attacker]
    always = lambda key, time, before: jnp.ones((), bool)
    core = protected.defence(play, payoff, always, pool=pool, num_defenders=4, num_rounds=10)
    state, update = jax.jit(core.init)(jax.random.key(0)), jax.jit(core.update)
    assert (state.attacker == 1).all()
    for number in range(2):
        chances = np.exp(state.bandit.log_weights)
        chances = chances / chances.sum(1, keepdims=True)
        before, (state, out) = state, update(state, jnp.arange(4), jax.random.key(number))
        gained = np.asarray(state.earned - before.earned)
        np.testing.assert_allclose(gained, chances @ CORNERS[:3, 1], rtol=1e-5)
    np.testing.assert_allclose(state.possible, [2 * CORNERS[:3, 1]] * 4, rtol=1e-5)
    np.testing.assert_allclose(out.metrics["regret"], (2 - state.earned).mean(), rtol=1e-5)
    # The first policy loses all it plays for, the second nothing, the third is not there.
    assert (state.bandit.log_weights[:, 1] == 0).all()
    assert (state.bandit.log_weights[:, 2] == -np.inf).all()
    lost = state.bandit.log_weights[:, 0] < 0
    assert out.metrics["return"] <= 1 and lost.any()
    assert state.num_rounds == 2


def regrets(num_rounds, is_shuffled, number=48):
    """Regrets and weights of a dominated policy, at the end of runs against random attackers."""
    payoff = jnp.array([[0.9, 0.5], [0.3, 0.6], [0.5, 0.3], [0.2, 0.2]])

    def play(key, policy, attacker):
        key_other, key_return = jax.random.split(key)
        other = jax.random.randint(key_other, (), 0, 4)
        chance = payoff[other if is_shuffled else policy, attacker]
        return jax.random.bernoulli(key_return, chance) * 1.0

    core = protected.defence(
        play,
        payoff,
        lambda key, time, before: jax.random.bernoulli(key),
        pool=jnp.ones(4, bool),
        num_defenders=number,
        num_rounds=num_rounds,
    )

    def step(state, key):
        return core.update(state, jnp.arange(number), key)[0], None

    keys = jax.random.split(jax.random.key(1), num_rounds)
    state, _ = jax.jit(functools.partial(jax.lax.scan, step))(core.init(jax.random.key(0)), keys)
    return float(state.regret.mean()), float(state.bandit.chances[:, 3].mean())


@pytest.mark.ci
def test_regret_grows_like_the_root_of_the_rounds_but_not_with_shuffled_feedback():
    rounds = np.array([250, 1_000, 4_000])
    slope = lambda regret: np.polyfit(np.log(rounds), np.log(regret), 1)[0]
    own, weight = np.transpose([regrets(int(n), False) for n in rounds])
    shuffled, of_dominated = np.transpose([regrets(int(n), True) for n in rounds])
    assert 0.35 < slope(own) < 0.65
    assert slope(shuffled) > 0.85
    assert weight[2] < 0.01 < 0.15 < of_dominated[2]


def test_sizes_and_places_are_checked():
    payoff, pool = jnp.zeros((2, 2)), jnp.ones(2, bool)
    make = functools.partial(protected.defence, None, payoff, protected.periodic(1), pool=pool)
    with pytest.raises(ValueError, match="num_rounds is 0"):
        make(num_defenders=2, num_rounds=0)
    core = make(num_defenders=2, num_rounds=3)
    with pytest.raises(ValueError, match="places of the defenders"):
        core.update(core.init(jax.random.key(0)), jnp.arange(3), jax.random.key(0))
