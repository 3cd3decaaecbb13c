"""PETAL, its posterior and its quantile against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta.images.petal import (
    SwagDraws,
    fisher_restored,
    petal,
    quantile,
    swag_diagonal,
    swag_draws,
)
from tests.jaxtta.images import tiny
from tests.jaxtta.images.test_entropy import CLOSE, float64, masks, run  # noqa: F401
from tests.jaxtta.images.test_mean_teacher import APPLY, NAMES, Cotta, jitter


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantile(dtype):
    rng = np.random.default_rng(0)
    values = (rng.exponential(size=1001) ** 8).astype(dtype)
    values[:40] = 0  # ties at the lower end, and in the middle
    values[300:500] = np.median(values)
    tree = {"a": values[:7].reshape(7, 1), "b": [values[7:500], values[500:]]}
    find = jax.jit(quantile)
    for q in (0.0, 0.003, 0.03, 0.0391, 0.5, 0.77, 0.9999, 1.0):
        expected = np.quantile(values.astype(np.float64), q)
        np.testing.assert_allclose(find(tree, q), expected, rtol=2e-4 if dtype == np.float32 else 0)


def test_swag_diagonal():
    params, stats = tiny.variables()
    images = tiny.batches(2, 5, seed=3)
    rng = np.random.default_rng(4)
    labels, orders = (
        rng.integers(0, tiny.CLASSES, (2, 5)),
        rng.permuted([np.arange(10)] * 4, axis=1),
    )
    given = SwagDraws(jnp.asarray(orders))
    options = {"num_epochs": 4, "learning_rate": 0.01, "last_rate": 0.04, "anneal_epochs": 2}
    build = jax.jit(lambda p, s: swag_diagonal(APPLY, p, s, images, labels, given, **options))
    found = build(*tiny.as_jax((params, stats)))

    theta, buffer, snapshots = tiny.flat(params, NAMES), 0.0, []
    for order, rate in zip(orders, [0.01, 0.01, 0.025, 0.04], strict=True):
        x_all, y_all = images.reshape(10, 2, 4, 3)[order], labels.reshape(10)[order]
        for x, y in zip(np.split(x_all, 2), np.split(y_all, 2), strict=True):
            here = tiny.with_flat(params, theta, NAMES)
            logits, cache = tiny.forward(here, x)
            d = (tiny.softmax(logits) - np.eye(tiny.CLASSES)[y]) / 5
            gradient = tiny.flat(tiny.backward(here, cache, d), NAMES) + 5e-4 * theta
            buffer = 0.9 * buffer + gradient
            theta = theta - rate * buffer
        snapshots.append(theta)
    mean = np.mean(snapshots[1:], axis=0)
    np.testing.assert_allclose(tiny.flat(found.mean, NAMES), mean, **CLOSE)
    variance = tiny.flat(found.variance, NAMES)
    np.testing.assert_allclose(variance, np.var(snapshots[1:], axis=0), rtol=1e-6, atol=1e-12)
    here = tiny.with_flat(params, mean, NAMES)
    inside = [tiny.forward(here, x)[1]["in2"] @ here["dense2"]["kernel"] for x in images]
    kept = found.model_state["batch_stats"]["norm2"]
    np.testing.assert_allclose(kept["mean"], np.mean([a.mean((0, 1, 2)) for a in inside], 0))
    unbiased = np.mean([a.var((0, 1, 2), ddof=1) for a in inside], 0)
    np.testing.assert_allclose(kept["var"], unbiased)


class Petal(Cotta):
    weight, share, variance = 3e-3, 0.3, None

    def prior_gradient(self):
        return self.weight * (self.theta - self.theta0) / (np.maximum(self.variance, 0) + 1e-6)

    def returning(self, gradient, drawn):
        below = gradient**2 < np.quantile(gradient**2, self.share)
        assert below.any()
        return below


def spread():
    """A variance with entries below 0, and the same as a vector."""
    params = tiny.variables()[0]
    rng = np.random.default_rng(2)
    tree = jax.tree.map(lambda x: rng.uniform(-1e-8, 1e-2, x.shape), params)
    tree["head"]["bias"][:] = -1e-8
    return tree, tiny.flat(tree, NAMES)


@pytest.mark.parametrize("loss", ["cross_entropy", "symmetric"])
def test_petal(loss):
    variance, vector = spread()
    core = petal(
        APPLY,
        optax.sgd(0.003, momentum=0.9),
        prior_weight=3e-3,
        restore_share=0.3,
        num_augmentations=3,
        min_confidence=1.1,
        teacher_decay=0.9,
        loss=loss,
        augmentation=jitter,
    )
    x, valid = tiny.batches(4), masks(4)
    method, without = (Petal(tiny.variables()[0], tiny.Sgd(0.003)) for _ in range(2))
    for one in (method, without):
        one.threshold, one.variance, one.symmetric = 1.1, vector, loss == "symmetric"
    without.weight = 0.0
    found = run(core, (*tiny.variables(), variance), x, valid)
    for i in range(4):
        key = jax.random.fold_in(jax.random.key(0), i)
        target, _ = method.step(x[i], valid[i], key)
        without.step(x[i], valid[i], key)
        np.testing.assert_allclose(found.outputs.logits[i][valid[i]], target[valid[i]], **CLOSE)
        theta = tiny.flat(jax.tree.map(lambda v, i=i: v[i], found.params), NAMES)
        np.testing.assert_allclose(theta, method.theta, **CLOSE)
        assert (theta == method.theta0).any() or not valid[i].any()
    assert np.abs(method.teacher - method.theta0).max() > 1e-4
    assert np.abs(without.theta - method.theta).max() > 1e-4, "the prior must be at work"


def test_restoration_takes_the_lowest_share():
    grads = {"a": jnp.array([0.1, -3.0, 0.5]), "b": jnp.array([[0.0], [-0.2]])}
    ones, zeros = (jax.tree.map(lambda g, v=v: jnp.full_like(g, v), grads) for v in (1.0, 0.0))
    number = lambda q: int(optax.tree.sum(fisher_restored(ones, zeros, grads, q)))
    assert [number(q) for q in (0.0, 0.3, 0.5, 1.0)] == [5, 3, 3, 1]
    kept = fisher_restored(ones, zeros, grads, 0.3)
    np.testing.assert_array_equal(kept["a"], [0, 1, 1])
    np.testing.assert_array_equal(kept["b"], [[0], [1]])


def test_every_epoch_has_an_order_of_its_own():
    orders = np.asarray(swag_draws(jax.random.key(6), 10, 4).orders)
    for i, order in enumerate(orders):
        expected = jax.random.permutation(jax.random.fold_in(jax.random.key(6), i), 10)
        np.testing.assert_array_equal(order, expected)


def test_errors_and_start():
    variance, _ = spread()
    with pytest.raises(ValueError, match="restore is 'all'"):
        petal(APPLY, optax.sgd(0.1), restore="all")
    args = tiny.as_jax(tiny.variables())
    with pytest.raises(ValueError, match="num_epochs=2"):
        swag_diagonal(APPLY, *args, None, None, None, num_epochs=2)
    core = petal(APPLY, optax.sgd(0.1))
    state = core.init(*args, variance)
    for tree in (state.params, state.memory, state.source):
        jax.tree.map(np.testing.assert_array_equal, tree, args[0])
    jax.tree.map(np.testing.assert_array_equal, state.known.arrays, variance)
    with pytest.raises(ValueError, match="one number per parameter"):
        core.init(*args, {"head": jnp.ones(3)})
