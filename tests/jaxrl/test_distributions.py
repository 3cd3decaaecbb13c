"""Action distributions against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import distributions


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
