"""Batch statistics: which ones are used, which rows count, what is stored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.nets.norm import BATCH, SOURCE, TRAIN, BatchNorm, GroupNorm, Norm, batch_moments

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, (6, 4, 4, 5)).astype(np.float32)
SCALE, BIAS = RNG.normal(size=(2, 5)).astype(np.float32)
MEAN, VAR = RNG.normal(size=5).astype(np.float32), RNG.uniform(1, 2, 5).astype(np.float32)
VARIABLES = {
    "params": {"scale": SCALE, "bias": BIAS},
    "batch_stats": {"mean": MEAN, "var": VAR},
}
ROWS = np.array([1, 0, 1, 1, 0, 0], bool)


def normalised(x, mean, var):
    return (x - mean) / np.sqrt(var + 1e-5) * SCALE + BIAS


@pytest.mark.parametrize("mask", [None, ROWS])
@pytest.mark.parametrize(
    "norm, weight, unbiased",
    [
        (SOURCE, 0, False),
        (BATCH, 1, False),
        (Norm(0.3), 0.3, False),
        (Norm(0.3, None, True), 0.3, True),
    ],
)
def test_statistics_used(norm, weight, unbiased, mask):
    rows = X if mask is None else X[mask]
    mean = (1 - weight) * MEAN + weight * rows.mean((0, 1, 2))
    var = (1 - weight) * VAR + weight * rows.var((0, 1, 2), ddof=int(unbiased))
    with jax.numpy_rank_promotion("allow"):
        expected = normalised(X, mean, var)
    found = BatchNorm().apply(VARIABLES, X, norm, mask)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unbiased", [False, True])
def test_statistics_stored(unbiased):
    norm = Norm(1.0, 0.2, unbiased_stored=unbiased)
    found, updated = BatchNorm().apply(VARIABLES, X, norm, mutable=["batch_stats"])
    mean, var = X.mean((0, 1, 2)), X.var((0, 1, 2), ddof=int(unbiased))
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.8 * MEAN + 0.2 * mean, rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.8 * VAR + 0.2 * var, rtol=1e-5)
    np.testing.assert_allclose(found, BatchNorm().apply(VARIABLES, X, BATCH), rtol=1e-6)


def test_left_out_rows_may_hold_anything():
    spoiled = np.where(ROWS[:, None, None, None], X, np.nan)
    found = BatchNorm().apply(VARIABLES, spoiled, BATCH, ROWS)[ROWS]
    np.testing.assert_array_equal(found, BatchNorm().apply(VARIABLES, X, BATCH, ROWS)[ROWS])


def test_no_rows_and_one_value_are_finite():
    nothing = batch_moments(jnp.asarray(X), jnp.zeros(6, bool))
    assert nothing.size == 0 and not nothing.mean.any() and not nothing.variance.any()
    one = np.ones((1, 5), np.float32)
    for norm in (BATCH, Norm(0.5, None, True)):
        assert np.isfinite(BatchNorm().apply(VARIABLES, one, norm)).all()


def test_variance_keeps_its_digits_far_from_zero_and_in_half_precision():
    far = (1000 + X[..., :1] / 3).astype(np.float32)
    np.testing.assert_allclose(batch_moments(far).variance, far.astype(float).var(), rtol=1e-3)
    moments = batch_moments(jnp.asarray(X, jnp.bfloat16))
    assert moments.mean.dtype == jnp.float32
    layer = BatchNorm(dtype=jnp.bfloat16)
    assert (
        layer.apply(VARIABLES, jnp.asarray(X, jnp.bfloat16), TRAIN, mutable=True)[0].dtype
        == jnp.bfloat16
    )


def test_mapped_axis_equals_the_whole_batch():
    layer = BatchNorm(axis_name="i")
    mapped = jax.vmap(lambda x, m: layer.apply(VARIABLES, x, BATCH, m), axis_name="i")
    found = mapped(X.reshape(2, 3, 4, 4, 5), ROWS.reshape(2, 3)).reshape(X.shape)
    np.testing.assert_allclose(
        found, BatchNorm().apply(VARIABLES, X, BATCH, ROWS), rtol=1e-5, atol=1e-5
    )


def test_group_norm():
    x = X[..., :4]
    params = {"params": {"scale": SCALE[:4], "bias": BIAS[:4]}}
    found = GroupNorm(2).apply(params, x, BATCH)
    groups = x.reshape(6, 16, 2, 2)
    mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) * SCALE[:4] + BIAS[:4]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
