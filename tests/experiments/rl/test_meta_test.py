"""The numbers of a meta-test from their definitions in NumPy; controls known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import meta_rl
from experiments.rl import meta_test
from jaxrl import drift
from jaxrl.envs import optimal_return, sample_level
from jaxrl.meta import lifetime as lives
from jaxrl.meta.learned_rule import Rule, RuleInputs, RuleOutputs, recurrent_rule
from jaxtrain.host.config import load

RNG = np.random.default_rng(0)
L, W, T, M = 2, 3, 4, 2
RATIO, ADVANTAGE = np.linspace(0.5, 1.5, 81), np.linspace(-2, 2, 5)


def random_inputs():
    draw = lambda *shape: jnp.asarray(RNG.uniform(0.1, 1.0, (L, W, T, *shape)), jnp.float32)
    return RuleInputs(draw(), draw() > 0.8, draw(), draw(M), draw(M))


def closed_form_rule(pi_hat):
    """A rule that says `pi_hat(eta, probability, n / N)` about the policy."""

    def apply(eta, inputs, n, lifetime):
        return RuleOutputs(pi_hat(eta, inputs.probability, n / lifetime), inputs.prediction)

    return Rule(lambda key: None, apply, M)


@pytest.mark.parametrize("lifetime", [10, 60])
def test_time_sensitivity_in_closed_form(lifetime):
    sensitivity = functools.partial(
        meta_test.time_sensitivity, inputs=random_inputs(), lifetime=lifetime
    )
    blind = closed_form_rule(lambda eta, p, x: eta * p)
    assert sensitivity(blind, 3.0) == 0
    line = closed_form_rule(lambda eta, p, x: -p * (1 + eta * x))
    np.testing.assert_allclose(sensitivity(line, 3.0), 3.0 / (1 + 3.0 / 2), rtol=1e-5)
    # Up and down again: the whole way counts, not the distance between the ends.
    tent = closed_form_rule(lambda eta, p, x: p * (1 - jnp.abs(2 * x - 1)))
    np.testing.assert_allclose(sensitivity(tent, None), 2 / (5 / 11), rtol=1e-5)


def test_time_sensitivity_is_a_ratio_of_means():
    """Steps of unlike size, so that the mean of the steps' own ratios is another number."""
    inputs, x = random_inputs(), np.linspace(0, 1, 11)
    uneven = closed_form_rule(lambda eta, p, x: eta[0] + eta[1] * p**2 * x)
    said = 0.5 + 2.0 * np.float64(inputs.probability)[..., None] ** 2 * x
    moved, size = np.abs(np.diff(said)).sum(-1), np.abs(said).mean(-1)
    found = meta_test.time_sensitivity(uneven, jnp.array([0.5, 2.0]), inputs, 20)
    np.testing.assert_allclose(found, moved.mean() / size.mean(), rtol=1e-5)
    assert abs((moved / size).mean() - found) > 0.1


@pytest.mark.parametrize("temporal", [False, True])
def test_time_sensitivity_of_a_recurrent_rule_by_a_loop(temporal):
    rule = recurrent_rule(M, width=3, embed_width=2, temporal=temporal)
    eta = jax.tree.map(lambda x: x + 0.2, rule.init(jax.random.key(0)))
    inputs, apply = random_inputs(), jax.jit(rule.apply)
    said = np.zeros((11, L, W, T))
    for k in range(11):
        for i in range(L):
            for w in range(W):
                one = jax.tree.map(lambda x, i=i, w=w: x[i, w], inputs)
                said[k, i, w] = apply(eta, one, 6.0 * k, 60.0).pi_hat
    expected = sum(np.abs(said[k + 1] - said[k]).mean() for k in range(10)) / np.abs(said).mean()
    found = meta_test.time_sensitivity(rule, eta, inputs, 60)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found > 0.01 if temporal else found == 0


def objective(weights, rho, a, progress):
    """rho A - D of the learned drift with the PPO start, in float64."""
    u = np.array([1 - rho, (1 - rho) ** 2, np.log(rho), np.log(rho) ** 2])
    x = np.concatenate([u, a * u])
    x = np.concatenate([x, progress * x])[: weights.hidden.shape[0]]
    f = np.tanh(x @ np.float64(weights.hidden)) @ np.float64(weights.output)
    clipped = max((rho - np.clip(rho, 0.8, 1.2)) * a, 0)
    return rho * a - max(clipped + f - 1e-4, 0)


@pytest.mark.parametrize("temporal", [False, True])
def test_slopes_are_finite_differences(temporal):
    weights = drift.random_weights(jax.random.key(1), 8, temporal=temporal, scale=0.5)
    fun, h, expected = drift.learned(weights), 1e-6, {}
    for progress in (0.0, 1.0):
        difference = lambda rho, a, n=progress: (
            objective(weights, rho + h, a, n) - objective(weights, rho - h, a, n)
        )
        expected[progress] = np.array(
            [[difference(rho, a) / (2 * h) for rho in RATIO] for a in ADVANTAGE]
        )
        found = np.asarray(meta_test.slopes(fun, progress))
        smooth = np.abs(np.abs(RATIO - 1) - 0.2) > 1e-6  # not at the corners of the clip
        np.testing.assert_allclose(
            found[:, smooth], expected[progress][:, smooth], rtol=1e-3, atol=1e-3
        )
    change = np.abs(expected[1.0] - expected[0.0]).mean() / np.abs(expected[0.0]).mean()
    found = meta_test.slope_change(fun)
    np.testing.assert_allclose(found, change, rtol=0.02, atol=0)
    assert found > 0.1 if temporal else found == 0


def test_slope_change_in_closed_form():
    """D = k n/N (rho - 1)^2 / 2 moves the slope from A to A - k n/N (rho - 1)."""
    fun = lambda log_ratio, a, progress: 0.5 * 3.0 * progress * jnp.expm1(log_ratio) ** 2
    expected = 3.0 * np.abs(RATIO - 1).mean() / np.abs(ADVANTAGE).mean()
    np.testing.assert_allclose(meta_test.slope_change(fun), expected, rtol=1e-4)
    for blind in (drift.ppo(), drift.dpo()):
        assert meta_test.slope_change(blind) == 0


def test_stops_in_closed_form():
    """With that drift the slope vanishes at 1 + A / (k n/N); PPO stops where its clip begins."""
    fun = lambda log_ratio, a, progress: 0.5 * 5.0 * progress * jnp.expm1(log_ratio) ** 2
    step = RATIO[1] - RATIO[0]
    for progress, expected in (
        (0.0, [np.nan] * 5),
        (0.5, [np.nan, 0.6, np.nan, 1.4, np.nan]),
        (1.0, [0.6, 0.8, np.nan, 1.2, 1.4]),
    ):
        found = meta_test.stops(fun, progress)
        np.testing.assert_allclose(found, expected, atol=1.01 * step)
    found = meta_test.stops(drift.ppo(0.2), 0.5)
    np.testing.assert_allclose(found, [0.8, 0.8, np.nan, 1.2, 1.2], atol=1.01 * step)
    # The slope A + 5 (ratio - 1) vanishes on the other side of 1 only, so nothing stops.
    fun = lambda log_ratio, a, progress: -0.5 * 5.0 * jnp.expm1(log_ratio) ** 2
    np.testing.assert_array_equal(meta_test.stops(fun, 0.0), [np.nan] * 5)


@pytest.mark.ci
def test_numbers_of_a_rule_by_a_loop_over_levels():
    config, _ = load("configs/meta_rl.py:debug,evaluation.seed=3")
    family = meta_rl.build_family(config)
    rule = recurrent_rule(**meta_rl.rule_settings(config))
    setting = meta_rl.build_setting(config, family, rule)
    eta, key = rule.init(jax.random.key(0)), jax.random.key(1)
    found = meta_rl.rule_test(config, family, setting).numbers(eta, key)

    keys = jax.random.split(jax.random.key(config.evaluation.seed), 4)
    levels = [jax.jit(functools.partial(sample_level, family))(k) for k in keys]
    best = [float(jax.jit(functools.partial(optimal_return, family.shape))(x)) for x in levels]
    assert min(best) <= 1e-6 < max(best)  # one level that cannot be normalised

    @jax.jit
    def score(level, horizon, key):
        key_agent, key_live, key_end = jax.random.split(key, 3)
        agent = lives.init_agent(setting, key_agent, level)
        agent = lives.live(setting, eta, agent, level, horizon, key_live)
        return lives.final_return(
            setting, agent, level, key_end, max_steps=family.max_steps[1], num_episodes=2
        )

    normalised = []
    for horizon in config.evaluation.horizons:
        run_keys = jax.random.split(jax.random.fold_in(key, horizon), 4)
        scores = [float(score(x, horizon, k)) for x, k in zip(levels, run_keys, strict=True)]
        np.testing.assert_allclose(found[f"return_{horizon}"], np.mean(scores), rtol=1e-4)
        shares = [s / b for s, b in zip(scores, best, strict=True) if b > 1e-6]
        np.testing.assert_allclose(found[f"normalised_{horizon}"], np.mean(shares), rtol=1e-4)
        normalised.append(np.mean(shares))
    np.testing.assert_allclose(found["normalised"], np.mean(normalised), rtol=1e-4)
    assert found["time_sensitivity"] > 0


@pytest.mark.ci
def test_numbers_of_a_drift_by_a_loop_over_seeds():
    """Returns over the last five updates of each training, for a horizon longer than that."""
    config, _ = load("configs/meta_rl.py:debug_lpo,evaluation.horizons=(7,)")
    weights = drift.random_weights(jax.random.key(0), 4, temporal=True)
    learner, key = meta_rl.learner_of(config), jax.random.key(1)
    found = meta_rl.drift_test(config, learner).numbers(weights, key)
    for name, fun in (("return_7", drift.learned(weights)), ("ppo_return_7", drift.ppo())):
        core, last = learner(7, fun), []
        update = jax.jit(core.update)
        for key_init, key_run in jax.random.split(key, (config.evaluation.num_seeds, 2)):
            state = core.init(key_init)
            for i in range(7):
                state, out = update(state, jnp.arange(2), jax.random.fold_in(key_run, i))
                last += [float(out.metrics["episode_return"])] * (i >= 2)
        assert len(last) == 10 and np.ptp(last) > 0
        np.testing.assert_allclose(found[name], np.mean(last), rtol=1e-4)
    assert found["slope_change"] == float(meta_test.slope_change(drift.learned(weights)))
