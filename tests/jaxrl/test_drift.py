"""Drift functions: the conditions of mirror learning, and each against its formula in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import drift

RNG = np.random.default_rng(0)
RATIO = RNG.uniform(0.3, 2.0, 64).astype(np.float32)
ADVANTAGE = RNG.normal(0, 2, 64).astype(np.float32)


def batched(fun, progress=0.3):
    return jax.vmap(fun, (0, 0, None))(jnp.log(RATIO), jnp.asarray(ADVANTAGE), progress)


def weights(seed, temporal):
    return drift.random_weights(jax.random.key(seed), 16, temporal=temporal, scale=2.0)


DRIFTS = {
    "ppo": drift.ppo(),
    "dpo": drift.dpo(),
    "lpo": drift.learned(weights(0, False)),
    "lpo_from_nothing": drift.learned(weights(1, False), epsilon=None),
    "ta_lpo": drift.learned(weights(2, True)),
    "ta_lpo_clipped_inputs": drift.learned(weights(3, True), clip=2.0),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_conditions_hold_for_any_weights(name):
    fun = DRIFTS[name]
    assert (batched(fun) >= 0).all() and (batched(fun) > 0).any()
    for progress in (0.0, 0.25, 1.0):
        for advantage in (-3.0, 0.0, 0.5, 10.0):
            value, slope = jax.value_and_grad(fun)(jnp.float32(0.0), advantage, progress)
            assert value == 0 and slope == 0


def test_control_an_appended_input_breaks_the_conditions():
    """A bias does what appending n/N would do: f is no longer 0 at rho = 1."""
    w = weights(0, False)

    def biased(log_ratio, advantage, progress):
        away = -jnp.expm1(log_ratio)
        u = jnp.stack([away, away**2, log_ratio, log_ratio**2])
        x = jnp.concatenate([u, advantage * u])
        return jax.nn.relu(jnp.tanh(x @ w.hidden + 0.5) @ jnp.abs(w.output) - 1e-4)

    assert biased(jnp.float32(0.0), 1.0, 0.5) > 0


def test_ppo_drift_is_the_clipped_objective():
    clipped = np.minimum(RATIO * ADVANTAGE, np.clip(RATIO, 0.8, 1.2) * ADVANTAGE)
    found = RATIO * ADVANTAGE - batched(drift.ppo(0.2))
    np.testing.assert_allclose(found, clipped, rtol=1e-5, atol=1e-6)


def test_dpo_formula():
    expected = []
    for rho, a in zip(RATIO.astype(float), ADVANTAGE.astype(float), strict=True):
        u, scale = ((rho - 1) * a, 2.0) if a >= 0 else (np.log(rho) * a, 0.6)
        expected.append(max(u - scale * np.tanh(u / scale), 0.0))
    np.testing.assert_allclose(batched(drift.dpo()), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("temporal", [False, True])
def test_learned_formula(temporal, clip):
    w, progress, expected = weights(4, temporal), 0.3, []
    for rho, a in zip(RATIO.astype(float), ADVANTAGE.astype(float), strict=True):
        u = np.array([1 - rho, (1 - rho) ** 2, np.log(rho), np.log(rho) ** 2])
        x = np.concatenate([u, a * u])
        x = x if clip is None else np.clip(x, -clip, clip)
        x = np.concatenate([x, progress * x]) if temporal else x
        f = np.tanh(x @ np.float64(w.hidden)) @ np.float64(w.output)
        base = max((rho - np.clip(rho, 0.8, 1.2)) * a, 0)
        expected.append(max(base + f - 1e-4, 0))
    found = batched(drift.learned(w, clip=clip), progress)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_zero_weights_are_ppo_with_a_dead_zone():
    for temporal in (False, True):
        found = batched(drift.learned(drift.zero_weights(temporal=temporal)))
        expected = np.maximum(batched(drift.ppo()) - 1e-4, 0)
        np.testing.assert_allclose(found, expected, atol=1e-7)


def test_temporal_drift_at_the_start_uses_half_its_weights():
    w = weights(5, True)
    half = drift.DriftWeights(w.hidden[:8], w.output)
    found, expected = batched(drift.learned(w), 0.0), batched(drift.learned(half))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.abs(batched(drift.learned(w), 1.0) - expected).max() > 0.1


def test_slope_of_ppo_is_the_advantage_inside_the_clip():
    ratio, advantage = jnp.array([0.5, 1.0, 1.5]), jnp.array([2.0, -2.0])
    np.testing.assert_allclose(
        drift.slope(drift.ppo(), ratio, advantage, 0.0), [[2, 2, 0], [0, -2, -2]], atol=1e-6
    )


def loss_in_float64(name, log_ratio, advantage, progress):
    """D - rho A as a maximum of two products, with PPO's minimum written out; nothing cancels."""
    rho = np.exp(min(log_ratio, 20.0))
    a, plain = float(advantage), -rho * advantage
    if name == "ppo":
        return -min(rho * a, np.clip(rho, 0.8, 1.2) * a)
    if name == "dpo":
        if a >= 0:
            return -a - min((rho - 1) * a, 2.0 * np.tanh((rho - 1) * a / 2.0))
        v = log_ratio * a
        return plain + max(v - 0.6 * np.tanh(v / 0.6), 0.0)
    w = {
        "lpo": weights(0, False),
        "lpo_from_nothing": weights(1, False),
        "ta_lpo": weights(2, True),
    }
    w = w[name]
    u = np.array([1 - rho, (1 - rho) ** 2, log_ratio, log_ratio**2])
    x = np.concatenate([u, a * u])
    x = np.concatenate([x, progress * x]) if name == "ta_lpo" else x
    f = np.tanh(x @ np.float64(w.hidden)) @ np.float64(w.output)
    base = plain if name == "lpo_from_nothing" else -min(rho * a, np.clip(rho, 0.8, 1.2) * a)
    return max(base + f - 1e-4, plain)


@pytest.mark.parametrize("name", ["ppo", "dpo", "lpo", "lpo_from_nothing", "ta_lpo"])
def test_losses_are_accurate_up_to_a_log_ratio_of_100(name):
    log_ratios = np.float32(
        [-100, -60, -15, -1, -0.1, 0, 0.05, 0.5, 3, 12, 15, 20, 44, 60, 89, 100]
    )
    at = [(x, a) for x in log_ratios for a in (-3.0, -0.1, 0.0, 0.7, 3.0)]
    logs, advantages = (jnp.asarray(x, jnp.float32) for x in zip(*at, strict=True))
    found, slopes = jax.jit(jax.vmap(jax.value_and_grad(DRIFTS[name].loss), (0, 0, None)))(
        logs, advantages, 0.3
    )
    expected = [loss_in_float64(name, float(x), np.float32(a), 0.3) for x, a in at]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.isfinite(slopes).all()


def test_a_clipped_sample_far_away_loses_what_the_clip_allows():
    """The numbers that D - rho A from two float32 numbers got wrong: -3.0, 0 and NaN."""
    for log_ratio in (15.0, 20.0, 60.0, 89.0, 100.0):
        found = drift.ppo(0.2).loss(jnp.float32(log_ratio), 3.0, 0.0)
        np.testing.assert_allclose(found, -3.6, rtol=1e-6)


@pytest.mark.parametrize("name", DRIFTS)
def test_near_1_the_loss_is_the_distance_less_the_product(name):
    fun = DRIFTS[name]
    np.testing.assert_allclose(
        batched(fun.loss), batched(fun) - RATIO * ADVANTAGE, rtol=1e-4, atol=1e-5
    )


def test_a_drift_of_your_own_gets_the_plain_loss():
    fun = drift.from_distance(lambda log_ratio, advantage, progress: progress * log_ratio**2)
    np.testing.assert_allclose(
        fun.loss(jnp.log(2.0), 3.0, 0.5), 0.5 * np.log(2) ** 2 - 6, rtol=1e-6
    )
    assert fun(jnp.log(2.0), 3.0, 0.0) == 0
    assert drift.none().loss(jnp.float32(0.0), 3.0, 0.5) == -3


@pytest.mark.parametrize("xi", [0.0, -1e-4, float("nan")])
def test_a_learned_drift_without_a_dead_zone_is_refused(xi):
    with pytest.raises(ValueError, match="must be above 0"):
        drift.learned(weights(0, False), xi=xi)


def test_other_numbers_of_inputs_are_refused():
    with pytest.raises(ValueError, match="8 .LPO. or 16 .TA-LPO. inputs but got 12"):
        drift.learned(drift.DriftWeights(jnp.zeros((12, 4)), jnp.zeros(4)))
