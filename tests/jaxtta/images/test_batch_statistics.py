"""Adaptation by statistics against NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta.images import batch_statistics
from tests.jaxtta.images import reference, tiny
from tests.jaxtta.images.test_entropy import CLOSE, float64, masks, run, thetas  # noqa: F401

APPLY = tiny.network()


def expected(x, mask, weight, unbiased):
    params, stats = tiny.variables()
    method = reference.Core(params, None)
    method.weight, method.unbiased, method.stats = weight, unbiased, stats["batch_stats"]
    return method.logits(method.theta, x, mask)


@pytest.mark.parametrize(
    "core, weight, unbiased",
    [
        (batch_statistics.source(APPLY), 0.0, False),
        (batch_statistics.batch_norm(APPLY), 1.0, False),
        (batch_statistics.alpha_norm(APPLY), 0.1, True),
        (batch_statistics.alpha_norm(APPLY, 0.7, unbiased=False), 0.7, False),
        (batch_statistics.alpha_norm(APPLY, prior_strength=16.0), None, True),
    ],
)
def test_statistics(core, weight, unbiased):
    x, valid = tiny.batches(2), masks(2)
    found = run(core, tiny.variables(), x, valid).outputs
    for i in range(2):
        number = valid[i].sum()
        a = number / (number + 16) if weight is None else weight
        logits = expected(x[i], valid[i], a, unbiased)
        np.testing.assert_allclose(found.logits[i][valid[i]], logits[valid[i]], **CLOSE)
        assert not found.selected[i].any()


def test_running_statistics_move_and_are_used():
    params, stats = tiny.variables()
    x = tiny.batches(3)
    found = run(
        batch_statistics.ema_norm(APPLY, 0.1), (params, stats), x, np.ones((3, 12), bool)
    ).outputs
    running = {n: dict(v) for n, v in stats["batch_stats"].items()}
    for i in range(3):
        h = x[i]  # the discarded pass normalises with the batch and its biased variance
        for n, layer in ((1, "norm1"), (2, "norm2")):
            a = h @ params[f"dense{n}"]["kernel"]
            mean, var = a.mean((0, 1, 2)), a.var((0, 1, 2))
            size = a[..., 0].size
            running[layer]["mean"] = 0.9 * running[layer]["mean"] + 0.1 * mean
            running[layer]["var"] = 0.9 * running[layer]["var"] + 0.1 * var * size / (size - 1)
            y = (a - mean) / np.sqrt(var + 1e-5) * params[layer]["scale"] + params[layer]["bias"]
            h = np.maximum(y, 0)
        logits, _ = tiny.forward(params, x[i], stats=running)
        np.testing.assert_allclose(found.logits[i], logits, **CLOSE)


def test_core_follows_the_class_correlation():
    params, stats = tiny.variables()
    method = reference.Core(params, tiny.Sgd(0.5))
    method.stats = stats["batch_stats"]
    x, valid = tiny.batches(3), masks(3)
    replayed = run(
        batch_statistics.core(APPLY, optax.sgd(0.5, momentum=0.9), 0.3), (params, stats), x, valid
    )
    found = thetas(replayed)
    for i in range(2):  # the third batch is padding alone
        loss = method.loss(method.theta, x[i], valid[i])
        np.testing.assert_allclose(replayed.metrics["loss"][i], loss, rtol=1e-6)
        logits, _ = method.step(x[i], valid[i])
        np.testing.assert_allclose(
            replayed.outputs.logits[i][valid[i]], logits[valid[i]], rtol=1e-6
        )
        np.testing.assert_allclose(found[i], method.theta, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(found[2], found[1])
    assert np.abs(found[1] - method.theta0).max() > 1e-3


def test_class_correlation_of_known_predictions():
    sure = 50.0 * jnp.eye(4)
    every = jnp.ones(4, bool)
    assert batch_statistics.class_correlation(sure, every) < 1e-12
    np.testing.assert_allclose(batch_statistics.class_correlation(jnp.zeros((4, 4)), every), 1 / 4)
    np.testing.assert_allclose(
        batch_statistics.class_correlation(jnp.zeros((4, 4)), jnp.zeros(4, bool)), 0
    )


def test_weight_may_be_traced():
    x = jnp.asarray(tiny.batches(1)[0])
    args = tiny.as_jax(tiny.variables())

    def logits(weight):
        core = batch_statistics.alpha_norm(APPLY, weight)
        return core.update(core.init(*args), {"inputs": x}, jax.random.key(0))[1].outputs.logits

    both = jax.jit(jax.vmap(logits))(jnp.array([0.0, 0.4]))
    np.testing.assert_allclose(
        both[1], expected(np.asarray(x), np.ones(12, bool), 0.4, True), **CLOSE
    )
