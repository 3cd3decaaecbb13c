"""The contrastive loss beside a loop; what a text tower reads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxtrain.nets.two_tower import TextTower, contrastive_loss, unit

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


TEXT = TextTower(num_words=10, length=6, width=8, depth=2, num_heads=2, size=4)
WORDS = jnp.array([[0, 1, 2, 9, 3, 3], [0, 1, 2, 4, 9, 3]])


@functools.cache
def text_tower():
    params = jax.jit(TEXT.init)(jax.random.key(0), WORDS)["params"]
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), params)
    run = jax.jit(lambda words, context: TEXT.apply({"params": params}, words, context))
    return params, lambda words, context=None: run(words, context)


def test_a_text_is_what_stands_before_its_end():
    _, run = text_tower()
    found = run(WORDS)
    assert found.shape == (2, 4)
    # Behind the end, which is the highest word, nothing counts; before it everything does.
    np.testing.assert_allclose(run(WORDS.at[0, 4:].set(5))[0], found[0], rtol=1e-5)
    assert (jnp.abs(run(WORDS.at[0, 2].set(5))[0] - found[0]) > 1e-3).any()
    np.testing.assert_allclose(run(WORDS[:1, :4]), found[:1], rtol=1e-4, atol=1e-6)


def test_context_stands_in_the_place_of_words():
    params, run = text_tower()
    own = params["words"]["embedding"]
    np.testing.assert_allclose(run(WORDS, own[1:3]), run(WORDS), rtol=1e-5)
    np.testing.assert_allclose(
        run(WORDS, own[5:7]), run(WORDS.at[:, 1:3].set(jnp.array([5, 6]))), rtol=1e-5
    )


def test_vectors_have_length_1():
    x = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(unit(jnp.asarray(x)), [[0.6, 0.8], [0, 0]], rtol=1e-6)
