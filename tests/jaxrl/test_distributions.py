"""Action distributions against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import distributions
from jaxrl.distributions import SquashedNormal


def test_categorical_distribution():
    policy = distributions.Categorical(jnp.array([0.0, 1.0, -1.0]))
    p = np.exp([0.0, 1.0, -1.0]) / np.exp([0.0, 1.0, -1.0]).sum()
    np.testing.assert_allclose(policy.log_prob(2), np.log(p[2]), rtol=1e-5)
    np.testing.assert_allclose(policy.entropy(), -(p * np.log(p)).sum(), rtol=1e-5)
    drawn = jax.vmap(policy.sample)(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 4000, p, atol=0.03)
    assert policy.mode() == 1


def test_normal_distribution():
    mean, std = np.array([1.0, -2.0]), np.array([0.5, 3.0])
    policy = distributions.DiagonalNormal(jnp.asarray(mean), jnp.log(jnp.asarray(std)))
    x = np.array([0.7, 1.0])
    density = np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(policy.log_prob(jnp.asarray(x)), np.log(density).sum(), rtol=1e-5)
    entropy = np.log(std * np.sqrt(2 * np.pi * np.e)).sum()
    np.testing.assert_allclose(policy.entropy(), entropy, rtol=1e-5)
    drawn = jax.vmap(policy.sample)(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(drawn.std(0), std, rtol=0.05)


def test_the_density_of_a_squashed_normal_integrates_to_1():
    """By the trapezoid rule over the box, and the mean action by the same rule."""
    for mean, log_std in ((0.3, -0.5), (-1.0, 0.2)):
        policy = SquashedNormal(jnp.array([mean]), jnp.array([log_std]), -2.0, 3.0)
        x = np.linspace(-2, 3, 20_001)[1:-1].astype(np.float32)
        density = np.exp(np.asarray(jax.vmap(policy.log_prob)(x[:, None]), np.float64))
        np.testing.assert_allclose(np.trapezoid(density, x), 1, atol=2e-3)
        keys = jax.random.split(jax.random.key(0), 20_000)
        drawn = np.asarray(jax.vmap(policy.sample)(keys))[:, 0]
        assert -2 < drawn.min() and drawn.max() < 3
        np.testing.assert_allclose(drawn.mean(), np.trapezoid(density * x, x), atol=0.04)
        below = np.trapezoid(density[x < 0.5], x[x < 0.5])
        np.testing.assert_allclose((drawn < 0.5).mean(), below, atol=0.015)


def test_a_squashed_action_has_the_density_it_is_drawn_with():
    policy = SquashedNormal(jnp.array([0.2, -0.4]), jnp.array([-0.3, 0.1]), -1.0, 1.0)
    action, log_prob = policy.at(jnp.array([0.7, -1.1]))
    np.testing.assert_allclose(policy.log_prob(action), log_prob, rtol=1e-4)
    np.testing.assert_allclose(policy.mode(), np.tanh([0.2, -0.4]), rtol=1e-5)
    far = policy.at(jnp.array([40.0, 0.0]))[1]
    assert np.isfinite(far) and far < -700
