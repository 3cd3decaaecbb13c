"""Barlow Twins: the loss beside NumPy, the optimiser beside its rule, and the core."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxtrain.nets.linen import from_linen
from jaxtta.barlow_twins import Projector, Twins, barlow_loss, barlow_twins, lars

RNG = np.random.default_rng(0)
A = RNG.normal(size=(12, 5)).astype(np.float32)
B = (A + 0.5 * RNG.normal(size=(12, 5))).astype(np.float32)


def by_numpy(a, b, redundancy, invariance=1.0):
    a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (a, b))
    c = a.T @ b / len(a)
    off = c - np.diag(np.diag(c))
    loss = invariance * ((1 - np.diag(c)) ** 2).sum() + redundancy * (off**2).sum()
    return loss, np.diag(c).mean(), np.sqrt((off**2).sum() / (c.size - len(c)))


@pytest.mark.parametrize("mode", ["feature", "gram"])
def test_the_loss_is_that_of_numpy(mode):
    of = jax.jit(functools.partial(barlow_loss, redundancy=0.1, invariance=0.7, mode=mode))
    loss, parts = of(A, B)
    found = (loss, parts["diagonal"], parts["off_diagonal"])
    np.testing.assert_allclose(found, by_numpy(A, B, 0.1, 0.7), rtol=1e-4)
    moved, _ = of(3 * A + 2, 0.1 * B - 5)
    np.testing.assert_allclose(moved, loss, rtol=1e-2)  # the guard of the deviation is not scaled
    collapsed, _ = of(np.ones((12, 5), np.float32), np.ones((12, 5), np.float32))
    assert collapsed == pytest.approx(0.7 * 5)


def test_both_modes_have_one_gradient_and_independent_components_no_loss():
    loss = lambda a, mode: barlow_loss(a, B, redundancy=0.1, mode=mode)[0]
    gradient = lambda mode: jax.jit(jax.grad(functools.partial(loss, mode=mode)))(A)
    np.testing.assert_allclose(gradient("feature"), gradient("gram"), atol=1e-5)
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    assert barlow_loss(signs, signs)[0] < 1e-8


@pytest.mark.parametrize("mode", ["feature", "gram"])
def test_of_one_shard_it_is_that_of_the_batch(mode):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    loss = functools.partial(barlow_loss, redundancy=0.1, mode=mode, axis_name="data")
    specs = dict(in_specs=(P("data"), P("data")), out_specs=P())
    inside = jax.shard_map(lambda a, b: loss(a, b)[0], mesh=mesh, **specs)
    np.testing.assert_allclose(jax.jit(inside)(A, B), by_numpy(A, B, 0.1)[0], rtol=1e-4)


def test_lars_is_its_rule_for_matrices_and_plain_momentum_for_vectors():
    params = {"w": jnp.asarray(A), "b": jnp.ones(5)}
    grads = [{"w": jnp.asarray(B) * s, "b": jnp.full(5, s)} for s in (1.0, 0.5)]
    optimizer = lars(0.2, vector_rate=0.1, weight_decay=0.01, momentum=0.9, trust_coefficient=0.1)
    state, found = optimizer.init(params), params
    w, b = np.asarray(A, np.float64), np.ones(5)
    speed = [np.zeros_like(w), np.zeros(5)]
    for given in grads:
        updates, state = optimizer.update(given, state, found)
        found = optax.apply_updates(found, updates)
        g = np.asarray(given["w"]) + 0.01 * w
        g = 0.1 * np.linalg.norm(w) / np.linalg.norm(g) * g
        speed[0] = 0.9 * speed[0] - 0.2 * g
        speed[1] = 0.9 * speed[1] - 0.02 * np.asarray(given["b"])
        w, b = w + speed[0], b + speed[1]
    np.testing.assert_allclose(found["w"], w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["b"], b, rtol=1e-5)


class Encoder(Projector):
    """The same layers, as an encoder."""


def twins(**options):
    model = from_linen(Twins(Encoder((6,)), Projector((4, 4))))
    noisy = lambda x, keys: tuple(
        x + 0.1 * jax.vmap(lambda k, i=i: jax.random.normal(jax.random.fold_in(k, i), (5,)))(keys)
        for i in (0, 1)
    )
    return model, barlow_twins(model, noisy, optax.adam(1e-2), **options)


def test_training_draws_the_diagonal_up_and_the_rest_down():
    model, core = twins(redundancy=0.05)
    state, batch = core.init(jax.random.key(0), {"inputs": A}), {"inputs": jnp.asarray(A)}
    update, outs = jax.jit(core.update), []
    for i in range(60):
        state, out = update(state, batch, jax.random.key(i))
        outs.append(out.metrics)
    assert outs[0]["diagonal"] < 0.99  # two views, not one
    assert outs[-1]["loss"] < 0.5 * outs[0]["loss"]
    assert outs[-1]["diagonal"] > 0.9 and outs[-1]["diagonal"] > outs[0]["diagonal"]
    twin, _ = model.apply(state.params, state.model_state, A, key=None, train=False)
    assert twin.representation.shape == (12, 6) and twin.embedding.shape == (12, 4)
    kernel = state.params["projector"]
    assert set(kernel["linear0"]) == {"kernel"} and set(kernel) == {"linear0", "linear1", "norm0"}


def test_impossible_embeddings_modes_and_batches_are_named():
    with pytest.raises(ValueError, match="of one shape"):
        barlow_loss(A, B[:6])
    with pytest.raises(ValueError, match="mode is 'sum'"):
        barlow_loss(A, B, mode="sum")
    _, core = twins()
    state = core.init(jax.random.key(0), {"inputs": A})
    with pytest.raises(ValueError, match="a dict with 'inputs'"):
        core.update(state, {"images": A}, jax.random.key(0))
