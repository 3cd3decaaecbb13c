"""Searches without gradients against NumPy loops written from the equations."""

import jax
import numpy as np
import pytest

from jaxtta.lpn.strategies import cem, evolution_strategy, local_search
from tests.jaxtta.lpn.landscapes import (
    KEY,
    ROOT,
    SIZE,
    STARTS,
    TARGET,
    compiled,
    quadratic,
)


def test_local_search_keeps_only_improvements():
    search = local_search(quadratic(TARGET), scale=0.4)
    result = compiled(search, KEY, STARTS, 20)
    latents, scores = np.asarray(result.latents), np.asarray(result.scores)
    rejected = 0
    for chain in range(2):
        current, best = latents[0, chain], scores[0, chain]
        for step in range(1, 21):
            key = jax.random.fold_in(jax.random.fold_in(ROOT, step), chain)
            mutated = current + 0.4 * np.asarray(jax.random.normal(key, (SIZE,)))
            np.testing.assert_allclose(latents[step, chain], mutated, atol=1e-5)
            rejected += scores[step, chain] <= best
            if scores[step, chain] > best:
                current, best = latents[step, chain], scores[step, chain]
    assert 0 < rejected < 40


def test_cem_fits_the_elites():
    search = cem(quadratic(TARGET), population=6, num_elites=3, scale=0.5, smoothing=0.7)
    result = compiled(search, KEY, STARTS, 1)
    latents = np.asarray(result.latents).reshape(2, 2, 7, SIZE)
    scores = np.asarray(result.scores).reshape(2, 2, 7)
    np.testing.assert_array_equal(latents[0, :, 0], STARTS)
    for start in range(2):
        elites = latents[0, start][np.argsort(-scores[0, start])[:3]]
        mean = 0.3 * np.asarray(STARTS[start]) + 0.7 * elites.mean(0)
        deviation = 0.3 * 0.5 + 0.7 * elites.std(0)
        np.testing.assert_allclose(latents[1, start, 0], mean, atol=1e-6)
        key = jax.random.fold_in(jax.random.fold_in(ROOT, 1), start)
        noise = np.asarray(jax.random.normal(key, (6, SIZE)))
        np.testing.assert_allclose(latents[1, start, 1:], mean + deviation * noise, atol=1e-5)


def test_evolution_strategy_follows_the_ranked_estimate():
    search = evolution_strategy(quadratic(TARGET), 0.2, population=4, scale=0.1)
    result = compiled(search, KEY, STARTS, 1)
    latents = np.asarray(result.latents).reshape(2, 2, 5, SIZE)
    scores = np.asarray(result.scores).reshape(2, 2, 5)
    for start in range(2):
        noise = (latents[0, start, 1:] - latents[0, start, 0]) / 0.1
        np.testing.assert_allclose(noise[:2], -noise[2:], atol=1e-4)
        ranks = np.argsort(np.argsort(scores[0, start, 1:])) / 3 - 0.5
        gradient = (ranks[:, None] * noise).sum(0) / (4 * 0.1)
        first_adam_step = 0.2 * gradient / (np.abs(gradient) + 1e-8)
        np.testing.assert_allclose(
            latents[1, start, 0], latents[0, start, 0] + first_adam_step, atol=1e-5
        )


SCORE = quadratic(TARGET)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cem(SCORE, population=4, num_elites=6, scale=1.0), "use 1 to 5"),
        (lambda: evolution_strategy(SCORE, 0.1, population=3, scale=1.0), "needs 2, 4, 6"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
