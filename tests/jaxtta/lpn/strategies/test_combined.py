"""Searches made of searches: what is handed over, and when a round begins again."""

import numpy as np
import optax
import pytest

from jaxtta.lpn.strategies import cem, gradient_ascent, hybrid, restarts
from tests.jaxtta.lpn.landscapes import (
    KEY,
    SIZE,
    STARTS,
    TARGET,
    compiled,
    numpy_ascent,
    quadratic,
    quadratic_gradient,
)


def test_hybrid_hands_the_best_candidate_over():
    score = quadratic(TARGET)
    search = hybrid(
        cem(score, population=6, num_elites=2, scale=0.5), gradient_ascent(score, optax.sgd(0.2)), 3
    )
    result = compiled(search, KEY, STARTS, 8)
    flat = np.asarray(result.scores[:3]).ravel()
    best = np.asarray(result.latents[:3]).reshape(-1, SIZE)[np.argmax(flat)]
    iterates = numpy_ascent(quadratic_gradient(TARGET), best[None], 5, 0.2, "sgd")
    np.testing.assert_allclose(result.latents[3:, :1], iterates, atol=1e-5)
    np.testing.assert_array_equal(
        np.isfinite(result.scores), [[True] * 14] * 3 + [[True] + [False] * 13] * 6
    )
    assert np.asarray(result.best_scores)[0] == np.asarray(result.scores).max()


def test_restarts_begin_again_and_keep_the_best():
    inner = gradient_ascent(quadratic(TARGET), optax.sgd(0.2))
    again = compiled(restarts(inner, 3, scale=0.0), KEY, STARTS, 8)
    once = compiled(inner, KEY, STARTS, 2)
    np.testing.assert_allclose(again.latents, np.tile(once.latents, (3, 1, 1)), atol=1e-6)
    np.testing.assert_array_equal(again.best_scores, once.best_scores)
    moved = compiled(restarts(inner, 3, scale=1.0), KEY, STARTS, 8)
    rounds = [np.asarray(moved.latents[i]) for i in (0, 3, 6)]
    np.testing.assert_array_equal(rounds[0], STARTS)
    assert all(np.abs(a - b).min() > 1e-3 for a, b in zip(rounds, rounds[1:], strict=False))
    # At the optimum nothing improves: each round is its start and `patience` stalled steps.
    stalled = compiled(restarts(inner, 100, scale=0.5, patience=2), KEY, TARGET[None], 6)
    distance = np.abs(np.asarray(stalled.latents[:, 0]) - np.asarray(TARGET)).max(-1)
    assert (distance[:3] == 0).all() and distance[3] > 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hybrid(None, None, 0), "at least 1 step"),
        (lambda: restarts(None, 0, scale=1.0), "at least 1 step"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
