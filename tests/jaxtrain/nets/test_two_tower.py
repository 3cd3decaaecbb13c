"""The contrastive loss beside a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxtrain.nets.two_tower import contrastive_loss

RNG = np.random.default_rng(0)
A, B = (RNG.normal(size=(6, 3)).astype(np.float32) for _ in range(2))
TEXTS = np.array([0, 1, 0, 2, 3, 1])


def by_loop(texts, scale=2.0):
    total = 0.0
    for x, y in ((A, B), (B, A)):
        for i in range(6):
            rivals = [j for j in range(6) if j == i or texts[j] != texts[i]]
            logits = np.array([scale * x[i] @ y[j] for j in rivals])
            total += np.log(np.exp(logits).sum()) - scale * x[i] @ y[i]
    return total / 12


def test_it_is_the_loop_and_equal_texts_are_no_negatives():
    loss = jax.jit(contrastive_loss)
    np.testing.assert_allclose(loss(A, B, 2.0), by_loop(np.arange(6)), rtol=1e-5)
    np.testing.assert_allclose(loss(A, B, 2.0, TEXTS), by_loop(TEXTS), rtol=1e-5)
    assert loss(A, B, 2.0, TEXTS) < loss(A, B, 2.0) - 0.01
    slope = jax.grad(contrastive_loss)(jnp.asarray(A), B, 2.0, TEXTS)
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0


def test_of_one_shard_it_is_that_of_the_batch():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    loss = lambda a, b, t: contrastive_loss(a, b, 2.0, t, axis_name="data")[None]
    inside = jax.shard_map(loss, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    np.testing.assert_allclose(jax.jit(inside)(A, B, TEXTS)[0], by_loop(TEXTS), rtol=1e-5)


def test_pairs_of_other_shapes_are_named():
    with pytest.raises(ValueError, match="pairs are rows"):
        contrastive_loss(A, B[:4], 1.0)
    with pytest.raises(ValueError, match=r"with texts \(4,\)"):
        contrastive_loss(A, B, 1.0, TEXTS[:4])
