"""Samplers against the closed form of a Gaussian, levels and scales against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import diffusion

MEAN, DEVIATION = 0.7, 0.3


def denoise(x, sigma):
    """What is clean, for data that are normal: E[clean | x]."""
    share = DEVIATION**2 / (DEVIATION**2 + sigma**2)
    return MEAN + share * (x - MEAN)


def test_ddim_on_a_gaussian_is_a_product_of_factors():
    levels = diffusion.exponential_levels(4, 0.05, 2.0)
    x = np.array([-3.0, 0.2, 2.5])
    found = diffusion.sampled(denoise, jnp.asarray(x), levels, jax.random.key(0))
    for s, after in zip(np.asarray(levels)[:-1], np.asarray(levels)[1:], strict=True):
        share = DEVIATION**2 / (DEVIATION**2 + s**2)
        x = MEAN + (x - MEAN) * (after / s + (1 - after / s) * share)
    np.testing.assert_allclose(found, x, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "steps", "tolerance"), [("ddim", 400, 4e-3), ("heun", 40, 4e-3)]
)
def test_many_steps_follow_the_flow(method, steps, tolerance):
    """The exact flow scales distances from the mean by d / sqrt(d^2 + s^2)."""
    levels, x = diffusion.exponential_levels(steps, 1e-3, 2.0), jnp.array([-3.0, 0.2, 2.5])
    found = jax.jit(lambda x: diffusion.sampled(denoise, x, levels, jax.random.key(0), method))(x)
    expected = MEAN + (x - MEAN) * DEVIATION / np.sqrt(DEVIATION**2 + 4.0)
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("method", diffusion.SAMPLERS)
def test_samples_of_a_gaussian_have_its_mean_and_deviation(method):
    levels = diffusion.exponential_levels(40, 0.01, 5.0)
    x = levels[0] * jax.random.normal(jax.random.key(1), (20_000,))
    found = jax.jit(lambda x: diffusion.sampled(denoise, x, levels, jax.random.key(2), method))(x)
    # At the greatest level the data's mean is still in the noise, 0.3 / 5 of it.
    assert abs(found.mean() - MEAN) < 0.06
    assert abs(found.std() - DEVIATION) < 0.03


def test_one_step_is_the_denoiser_itself():
    levels, x = diffusion.exponential_levels(1, 0.1, 2.0), jnp.array([1.0, -1.0])
    np.testing.assert_allclose(levels, [2.0, 0.0])
    for method in diffusion.SAMPLERS:
        found = diffusion.sampled(denoise, x, levels, jax.random.key(0), method)
        np.testing.assert_allclose(found, denoise(x, 2.0), rtol=1e-6)


def test_levels_fall_by_equal_factors_to_nothing():
    levels = np.asarray(diffusion.exponential_levels(5, 0.01, 1.0))
    np.testing.assert_allclose(levels[1:-1] / levels[:-2], 0.01**0.25, rtol=1e-5)
    assert levels[-1] == 0 and levels[0] == 1
    with pytest.raises(ValueError, match="num_steps is 0"):
        diffusion.exponential_levels(0, 0.1, 1.0)
    with pytest.raises(ValueError, match="'euler' is unknown; choose ddim"):
        diffusion.sampled(denoise, jnp.ones(1), levels, jax.random.key(0), "euler")


def test_inputs_and_targets_of_the_network_have_deviation_one():
    rng = np.random.default_rng(0)
    clean, noise = 0.5 * rng.normal(size=200_000), rng.normal(size=200_000)
    for sigma in (0.05, 0.5, 3.0):
        around = diffusion.scales(sigma, 0.5)
        noisy = clean + sigma * noise
        wanted = diffusion.target(clean, noisy, around)
        assert abs(np.std(around.into * noisy) - 1) < 0.02
        assert abs(np.std(wanted) - 1) < 0.02
        np.testing.assert_allclose(around.skip * noisy + around.out * wanted, clean, atol=1e-4)


def test_training_levels_are_log_logistic_between_their_ends():
    """Against the distribution function, cut off at both ends."""
    keys = jax.random.split(jax.random.key(0), 20_000)
    draw = jax.jit(jax.vmap(lambda k: diffusion.random_level(k, 0.05, 1.0, location=0.5)))
    found = np.asarray(draw(keys))
    assert found.min() >= 0.05 and found.max() <= 1.0
    share = lambda s: 1 / (1 + (s / 0.5) ** -2.0)
    for s in (0.2, 0.5, 0.8):
        expected = (share(s) - share(0.05)) / (share(1.0) - share(0.05))
        assert abs((found <= s).mean() - expected) < 0.012


def test_guidance_goes_from_without_to_with_and_beyond():
    with_it, without = (lambda x, s: 3 * x + s), (lambda x, s: x - s)
    for scale, expected in ((0.0, 1.0), (1.0, 7.0), (2.0, 13.0)):
        assert diffusion.guided(with_it, without, scale)(jnp.array(2.0), jnp.array(1.0)) == expected
