"""ROID step by step against NumPy, gradients by central differences, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta.adaptation import row_keys
from jaxtta.images.roid import diversity_weights, prior_correction, roid
from tests.jaxtta.images import reference, tiny
from tests.jaxtta.images.test_entropy import CLOSE, float64, masks, run  # noqa: F401
from tests.jaxtta.images.test_mean_teacher import jitter

APPLY = tiny.network()


class Roid(reference.Method):
    correction = "logits"

    def __init__(self, params, optimizer):
        super().__init__(params, optimizer)
        self.mean = np.full(tiny.CLASSES, 1 / tiny.CLASSES)

    def loss(self, theta, x, changed, mask, kept, weights):
        z = tiny.forward(self.params(theta), x, mask)[0]
        again = tiny.forward(self.params(theta), changed, kept)[0]
        total = 0.0
        for i in np.flatnonzero(kept):
            p, q = tiny.softmax(z[i : i + 1])[0], tiny.softmax(again[i : i + 1])[0]
            c = np.minimum(p, 0.99)
            total += weights[i] * -(c * np.log(c / (1 - c) + 1e-5)).sum()
            total += weights[i] * (-0.5 * (p * np.log(q)).sum() - 0.5 * (q * np.log(p)).sum())
        return total / mask.sum()

    def step(self, x, mask, changed):
        logits, _ = self.forward(x, mask)
        kept = mask.copy()
        if not mask.any():
            return logits, kept
        p, e = tiny.softmax(logits), tiny.entropy(logits)
        cosine = p @ self.mean / np.linalg.norm(p, axis=1) / np.linalg.norm(self.mean)
        scaled = lambda v: (v - v[mask].min()) / (v[mask].max() - v[mask].min())
        d, c = scaled(1 - cosine), scaled(-e)
        kept &= d >= d[mask].mean()
        weights = np.where(kept, np.exp(3 * d * c), 0)
        self.mean = 0.9 * self.mean + 0.1 * p[mask].mean(0)
        gradient = np.zeros_like(self.theta)
        for j in range(len(gradient)):
            h = np.zeros_like(self.theta)
            h[j] = 1e-5
            given = (x, changed, mask, kept, weights)
            gradient[j] = (
                self.loss(self.theta + h, *given) - self.loss(self.theta - h, *given)
            ) / 2e-5
        self.theta = 0.99 * self.optimizer.step(self.theta, gradient) + 0.01 * self.theta0
        prior = p[mask].mean(0)
        s = max(1 / mask.sum(), 1 / tiny.CLASSES) / prior.max()
        return logits * (prior + s) / (1 + s * tiny.CLASSES), kept


def test_roid():
    core = roid(APPLY, optax.sgd(0.01, momentum=0.9), tiny.CLASSES, augmentation=jitter)
    x, valid = tiny.batches(4), masks(4)
    replayed = run(core, tiny.variables(), x, valid)
    method = Roid(tiny.variables()[0], tiny.Sgd())
    for i in range(4):
        key_draw, key_rows = jax.random.split(jax.random.fold_in(jax.random.key(0), i))
        changed = np.asarray(jitter(jnp.asarray(x[i]), key_draw, row_keys(key_rows, 12, None)))
        scored, kept = method.step(x[i], valid[i], changed)
        np.testing.assert_allclose(
            replayed.outputs.logits[i][valid[i]], scored[valid[i]], rtol=1e-6, atol=1e-7
        )
        np.testing.assert_array_equal(replayed.outputs.selected[i], kept)
        theta = tiny.flat(jax.tree.map(lambda v, i=i: v[i], replayed.params))
        np.testing.assert_allclose(theta, method.theta, rtol=1e-6, atol=1e-7)
    assert np.abs(method.theta - method.theta0).max() > 1e-3


def test_without_memory_it_returns_to_the_source():
    core = roid(APPLY, optax.adam(0.1), tiny.CLASSES, source_share=1.0, consistency=False)
    args = tiny.as_jax(tiny.variables())
    batch = {"inputs": jnp.asarray(tiny.batches()[0])}
    state, _ = jax.jit(core.update)(core.init(*args), batch, jax.random.key(0))
    np.testing.assert_allclose(tiny.flat(state.params), tiny.flat(tiny.variables()[0]), **CLOSE)


def test_equal_rows_are_all_kept_and_finite():
    for rows in (1, 3):
        found = diversity_weights(jnp.ones((rows, 4)), jnp.full(4, 0.25), jnp.ones(rows, bool))
        assert found.kept.all()
        np.testing.assert_allclose(found.weights, np.exp(3.0))


def test_correction_of_probabilities():
    logits = np.random.default_rng(0).normal(size=(5, 4))
    every = jnp.ones(5, bool)
    p = tiny.softmax(logits)
    s = max(1 / 5, 1 / 4) / p.mean(0).max()
    expected = p * (p.mean(0) + s) / (1 + 4 * s)
    found = np.exp(prior_correction(jnp.asarray(logits), every, "probabilities"))
    np.testing.assert_allclose(found, expected, **CLOSE)
    with pytest.raises(ValueError, match="correction is 'odds'"):
        roid(APPLY, optax.sgd(0.1), 4, correction="odds")
