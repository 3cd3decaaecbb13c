"""Tester-learner of halfspaces: its parts beside NumPy, its verdicts on small samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxtta import halfspaces
from jaxtta.halfspaces import Limits, checks_of, descent, ramp, ramp_loss

ROWS, SIZE = 4000, 4
SHORT = dict(num_steps=256, batch_size=64, num_directions=4)
LEARN = jax.jit(functools.partial(halfspaces.tester_learner, **SHORT))
STRICT = jax.jit(functools.partial(halfspaces.tester_learner, **SHORT, limits=Limits(gradient=0)))
SIGMAS = jnp.array([0.8, 0.4])


def sample(shape=None, seed=0, wrong=0.1):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, SIZE)) if shape is None else shape(rng)
    w = np.array([0.6, 0.0, -0.8, 0.0])
    y = np.where(rng.random(ROWS) < wrong, -1, 1) * np.where(x @ w > 0, 1, -1)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), w


def ramp_by_cases(t, sigma):
    """The sheet's rule, case by case."""
    u = abs(t) / sigma
    if u >= 0.5:
        return float(t > 0)
    if u <= 1 / 6:
        return 0.5 + t / sigma
    v = (u - 1 / 6) / (1 / 3)
    return 0.5 + np.sign(t) * (1 / 6 + (v + v**2 - v**3) / 3)


def test_the_ramp_is_smooth_and_linear_in_the_middle():
    t, sigma = np.linspace(-0.5, 0.5, 201), 0.6
    expected = [ramp_by_cases(x, sigma) for x in t]
    np.testing.assert_allclose(ramp(jnp.asarray(t), sigma), expected, atol=1e-6)
    slope = np.asarray(jax.vmap(jax.grad(lambda x: ramp(x, sigma)))(jnp.asarray(t, jnp.float32)))
    np.testing.assert_allclose(slope[1:-1], np.gradient(expected, t)[1:-1], atol=0.05)
    np.testing.assert_allclose(slope, slope[::-1], atol=1e-5)
    assert slope[100] == pytest.approx(1 / sigma) and slope.max() <= 4 / (3 * sigma) + 1e-5
    assert np.abs(np.diff(slope)).max() < 0.2  # no jump


def test_the_gradient_of_the_loss_is_across_the_vector():
    x, y, _ = sample()
    w = jnp.asarray([0.0, 1.0, 0.0, 0.0])
    gradient = jax.grad(ramp_loss)(w, x, y, 0.5)
    assert abs(gradient @ w) < 1e-6 and jnp.linalg.norm(gradient) > 0.1


def test_statistics_are_those_of_numpy():
    x, y, w = sample(seed=1)
    directions = np.eye(SIZE)[:2]
    found = checks_of(jnp.asarray(w, jnp.float32), x, y, 0.6, jnp.asarray(directions), Limits())
    x64, rng = np.asarray(x, np.float64), np.random.default_rng(5)
    basis = np.linalg.qr(np.column_stack([w, rng.normal(size=(SIZE, SIZE - 1))]))[0][:, 1:]
    along = np.abs(x64 @ w)
    for i, high in enumerate((0.1, 0.3)):
        inside = x64[along <= high]
        share = len(inside) / ROWS / (norm.cdf(high) - norm.cdf(-high))
        np.testing.assert_allclose(found["band mass"].value[i], share, rtol=1e-4)
        local = np.linalg.eigvalsh((inside @ basis).T @ (inside @ basis) / len(inside))
        np.testing.assert_allclose(found["band covariance"].value[:, i], local[[0, -1]], rtol=1e-4)
        reach = 0.1 + 3 * np.sqrt(SIZE / len(inside))
        np.testing.assert_allclose(found["band covariance"].high[:, i], 1 + reach, rtol=1e-5)
        fourths = []
        for v in directions:
            across = v - (v @ w) * w
            fourths.append((((inside @ across) / np.linalg.norm(across)) ** 4).mean())
        np.testing.assert_allclose(found["band fourth moments"].value[i], max(fourths), rtol=1e-3)
    inside = x64[(along >= 0.5) & (along <= 1.0)]
    share = len(inside) / ROWS / (2 * (norm.cdf(1.0) - norm.cdf(0.5)))
    np.testing.assert_allclose(found["strip mass"].value[1], share, rtol=1e-4)
    widest = np.linalg.eigvalsh((inside @ basis).T @ (inside @ basis) / len(inside))[-1]
    np.testing.assert_allclose(found["strip spread"].value[1], widest, rtol=1e-4)
    fourths = (np.column_stack([x64[:, :2], x64 @ w]) ** 4).mean(0)
    np.testing.assert_allclose(found["fourth moments"].value, fourths, rtol=1e-4)


def test_descent_finds_the_normal_from_where_it_starts():
    x, y, w = sample(wrong=0.2)
    kept = descent(jax.random.key(0), x, y, 0.5, num_steps=320, batch_size=64, num_kept=4)
    assert kept.shape == (5, SIZE)
    np.testing.assert_allclose(jnp.linalg.norm(kept, axis=1), 1, rtol=1e-5)
    start = np.asarray(y[:, None] * x).mean(0)
    np.testing.assert_allclose(kept[0], start / np.linalg.norm(start), atol=1e-5)
    assert np.arccos(kept[-1] @ w) < 0.1


def test_a_gaussian_sample_is_accepted_with_its_halfspace():
    x, y, w = sample()
    found = LEARN(jax.random.key(0), x, y, SIGMAS)
    assert found.accepted and all(passed.any() for passed in found.passed.values())
    assert np.arccos(found.weights @ w) < 0.1
    wrong = float((y * (x @ found.weights) <= 0).mean())
    assert found.error == pytest.approx(wrong, abs=0.02) and wrong < 0.1 + 0.02


@pytest.mark.parametrize(
    ("shape", "test"),
    [
        (lambda rng: rng.choice([-1.0, 1.0], size=(ROWS, SIZE)), "fourth moments"),
        (lambda rng: rng.laplace(scale=0.5**0.5, size=(ROWS, SIZE)), "fourth moments"),
        (lambda rng: rng.normal(size=(ROWS, SIZE)) * [0.3, 1.7, 1, 1], "band covariance"),
        (lambda rng: 3 * rng.normal(size=(ROWS, SIZE)), "band mass"),
        (lambda rng: np.sqrt(0.2) * rng.normal(size=(ROWS, SIZE)), "strip mass"),
    ],
    ids=["cube", "laplace", "scaled", "wide", "narrow"],
)
def test_other_marginals_are_rejected_by_the_test_they_fail(shape, test):
    x, y, _ = sample(shape)
    found = LEARN(jax.random.key(0), x, y, SIGMAS)
    assert not found.accepted and not found.passed[test].all()


def test_the_vector_with_the_smallest_gradient_is_chosen():
    """Where inputs are scaled, the descent starts 33 degrees away."""
    x, y, w = sample(lambda rng: rng.normal(size=(ROWS, SIZE)) * [0.3, 1.7, 1, 1])
    found = LEARN(jax.random.key(0), x, y, SIGMAS)
    assert np.arccos(found.weights @ w) < 0.3


def test_the_sign_that_errs_less_and_the_sigma_that_passes_are_chosen():
    x, y, w = sample()
    found = STRICT(jax.random.key(0), x, y, SIGMAS)  # nothing passes
    assert not found.accepted and found.error < 0.15 and found.weights @ w > 0.9
    turned = LEARN(jax.random.key(0), x, jnp.ones(ROWS).at[::2].set(-1), SIGMAS)
    assert turned.error <= 0.5


def test_impossible_arguments_are_named():
    x, y, _ = sample()
    with pytest.raises(ValueError, match="N and d at least 2"):
        halfspaces.tester_learner(jax.random.key(0), x, y[:-1], SIGMAS)
    with pytest.raises(ValueError, match="num_steps is 250"):
        halfspaces.tester_learner(jax.random.key(0), x, y, SIGMAS, num_steps=250)
    with pytest.raises(ValueError, match="slack is -1"):
        halfspaces.tester_learner(jax.random.key(0), x, y, SIGMAS, limits=Limits(slack=-1))
    assert halfspaces.unit(jnp.zeros(3)).tolist() == [0, 0, 0]


def test_the_better_sign_is_returned(monkeypatch):
    x, y, w = sample()
    turned = -jnp.asarray(w, jnp.float32)[None]
    monkeypatch.setattr(halfspaces, "descent", lambda *given, **options: turned)
    found = halfspaces.tester_learner(jax.random.key(0), x, y, SIGMAS, **SHORT)
    assert found.weights @ w > 0.99 and found.error < 0.15


@pytest.mark.parametrize(("low", "high", "at"), [(0.7, 9.0, 0), (0.0, 0.5, 1)])
def test_a_sigma_that_passes_is_chosen(monkeypatch, low, high, at):
    """One of the two is not the one with the smallest error."""
    only = lambda w, x, y, sigma, *rest: {
        "sigma": halfspaces.Check(sigma, jnp.float32(low), jnp.float32(high))
    }
    monkeypatch.setattr(halfspaces, "checks_of", only)
    x, y, _ = sample()
    found = halfspaces.tester_learner(jax.random.key(0), x, y, SIGMAS, **SHORT)
    assert found.accepted and found.chosen == at
