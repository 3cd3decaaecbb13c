"""Sampled points: how many, around what, how far, and that chunks change nothing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.lpn.strategies import encoder_sampling, random_search
from tests.jaxtta.lpn.landscapes import (
    KEY,
    SIZE,
    STARTS,
    TARGET,
    compiled,
    constant,
    mlp_params,
    mlp_score,
    quadratic,
)


def test_random_search_points():
    starts = jnp.arange(3.0)[:, None] * 100 + jnp.zeros((3, 2))
    for num_samples, counts in {0: [0, 0, 0], 2: [1, 1, 0], 7: [3, 3, 1], 600: [200] * 3}.items():
        search = random_search(constant, num_samples=num_samples, scale=0.5)
        result = compiled(search, KEY, starts, 0)
        assert result.latents.shape == (1, 3 + num_samples, 2)
        np.testing.assert_array_equal(result.latents[0, :3], starts)
        nearest = np.round(np.asarray(result.latents[0, 3:, 0]) / 100).astype(int)
        np.testing.assert_array_equal(np.bincount(nearest, minlength=3), counts)
    noise = np.asarray(result.latents[0, 3:]) - np.repeat(starts, 200, axis=0)
    # 1200 draws: standard errors 0.014 of the mean and 0.010 of the standard deviation.
    assert abs(noise.mean()) < 0.06 and abs(noise.std() - 0.5) < 0.04
    masked = compiled(search, KEY, starts, 0, start_mask=jnp.array([True, False, True]))
    nearest = np.round(np.asarray(masked.latents[0, 3:, 0]) / 100).astype(int)
    np.testing.assert_array_equal(np.bincount(nearest), [300, 0, 300])


def test_random_search_draws_again_at_every_step():
    search = random_search(quadratic(TARGET), num_samples=4, scale=0.5)
    result = compiled(search, KEY, STARTS, 2)
    np.testing.assert_array_equal(
        np.isfinite(result.scores), [[True] * 6] + [[False] * 2 + [True] * 4] * 2
    )
    points = np.asarray(result.latents[:, 2:]).reshape(-1, SIZE)
    assert len(np.unique(points, axis=0)) == 12


@pytest.mark.parametrize("chunk", [1, 5, 50])
def test_scoring_in_chunks_changes_nothing(chunk):
    make = partial(random_search, mlp_score(mlp_params()), num_samples=11, scale=0.5)
    expected = compiled(make(), KEY, STARTS, 0)
    result = compiled(make(scan_batch_size=chunk), KEY, STARTS, 0)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), result, expected)


def test_encoder_sampling_draws_the_mean_of_one_sample_per_pair():
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=(2, 3, SIZE)).astype(np.float32)
    mask = jnp.array([True, True, False])
    search = encoder_sampling(constant, mean, logvar, mask, num_samples=4000)
    samples = np.asarray(compiled(search, KEY, STARTS, 0).latents[0, 2:])
    deviation = np.sqrt(np.exp(logvar[:2]).sum(0)) / 2
    np.testing.assert_allclose(samples.mean(0), mean[:2].mean(0), atol=5 * deviation.max() / 63)
    np.testing.assert_allclose(samples.std(0), deviation, rtol=0.06)  # standard error 1.1 %


SCORE = quadratic(TARGET)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_search(SCORE, num_samples=-1, scale=1.0), "num_samples is -1"),
        (lambda: random_search(SCORE, num_samples=1, scale=1.0, scan_batch_size=0), "size is 0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
