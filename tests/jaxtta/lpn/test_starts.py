"""Start points and the latents they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.lpn import Posterior, Starts, first_latent, product_latent, start_points
from jaxtta.lpn.starts import product_of_experts, sample_latents
from tests.jaxtta.lpn.landscapes import KEY, SIZE, STARTS


def test_start_points():
    rng = np.random.default_rng(1)
    samples, mask = rng.normal(size=(4, SIZE)).astype(np.float32), np.array([1, 0, 1, 1], bool)
    mean = samples[[0, 2, 3]].mean(0)
    starts, valid = start_points(jnp.asarray(samples), jnp.asarray(mask))
    np.testing.assert_allclose(starts, mean[None], atol=1e-6)
    np.testing.assert_array_equal(valid, [True])
    starts, valid = start_points(
        jnp.asarray(samples),
        jnp.asarray(mask),
        KEY,
        starts=Starts(include_all_latents=True, random_perturbation=(2, 0.5)),
    )
    np.testing.assert_allclose(starts[0], mean, atol=1e-6)
    np.testing.assert_allclose(
        starts[1:3], mean + 0.5 * np.asarray(jax.random.normal(KEY, (2, SIZE))), atol=1e-6
    )
    np.testing.assert_array_equal(starts[3:], samples)
    np.testing.assert_array_equal(valid, [True] * 3 + list(mask))
    pairs_only = Starts(include_mean_latent=False, include_all_latents=True)
    starts, valid = start_points(jnp.asarray(samples), jnp.asarray(mask), starts=pairs_only)
    np.testing.assert_array_equal(starts, samples)
    np.testing.assert_array_equal(valid, mask)
    empty, _ = start_points(jnp.asarray(samples), jnp.zeros(4, bool))
    np.testing.assert_array_equal(empty, np.zeros((1, SIZE)))


def test_a_sample_has_the_deviation_of_its_posterior():
    means = jnp.arange(4.0)[:, None] * jnp.ones((4, 5_000))
    posterior = Posterior(means, jnp.full(means.shape, np.log(9.0), jnp.float32))
    drawn = sample_latents(posterior, KEY)
    # Means and deviations of 5,000 normal numbers, to five standard errors.
    np.testing.assert_allclose(drawn.mean(-1), np.arange(4), atol=5 * 3 / np.sqrt(5_000))
    np.testing.assert_allclose(drawn.std(-1), 3, rtol=5 / np.sqrt(10_000))
    np.testing.assert_array_equal(sample_latents(Posterior(means, None), KEY), means)


def test_product_of_experts_is_the_product_of_densities():
    rng = np.random.default_rng(2)
    mean, logvar = rng.normal(size=(2, 3, SIZE)).astype(np.float32)
    got_mean, got_logvar = product_of_experts(mean, logvar, jnp.array([True, False, True]))
    grid = np.linspace(-15, 15, 20001)[:, None]
    density = np.exp(
        sum(-0.5 * (grid - mean[j]) ** 2 / np.exp(logvar[j]) for j in (0, 2)).astype(np.float64)
    )
    density /= density.sum(0)
    expected = (density * grid).sum(0)
    np.testing.assert_allclose(got_mean, expected, atol=1e-5)
    np.testing.assert_allclose(
        np.exp(got_logvar), (density * (grid - expected) ** 2).sum(0), rtol=1e-4
    )
    for value in product_of_experts(mean, logvar, jnp.zeros(3, bool)):
        np.testing.assert_array_equal(value, np.zeros(SIZE))


@pytest.mark.parametrize("perturbed", [False, True])
def test_aggregates_take_the_place_of_the_mean(perturbed):
    rng = np.random.default_rng(3)
    latents, mean, logvar = rng.normal(size=(3, 3, SIZE)).astype(np.float32)
    mask = np.array([False, True, True])
    precision = np.exp(-logvar[1:])
    product = (precision * mean[1:]).sum(0) / precision.sum(0)
    further = (1, 0.0) if perturbed else None
    for aggregate, expected in ((first_latent, latents[1]), (product_latent, product)):
        starts = Starts(aggregate, random_perturbation=further)
        points, _ = start_points(
            jnp.asarray(latents), mask, KEY, starts=starts, posterior=Posterior(mean, logvar)
        )
        np.testing.assert_allclose(points, [expected] * (1 + perturbed), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Starts(include_mean_latent=False), "no start point"),
        (
            lambda: Starts(first_latent, include_mean_latent=False, include_all_latents=True),
            "aggregate=first_latent has no effect",
        ),
        (
            lambda: start_points(STARTS, jnp.ones(2), starts=Starts(random_perturbation=(1, 0.1))),
            "a key",
        ),
        (
            lambda: start_points(STARTS, jnp.ones(2), starts=Starts(product_latent)),
            "needs the posterior of a variational encoder",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
