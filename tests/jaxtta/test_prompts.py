"""Prompts of a frozen transformer: one for all, and one per task that has to be found."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.nets import ViT
from jaxtta.prompts import new_pool, new_prompt, one_prompt, prompt_pool

MODULE = ViT(num_classes=2, patch=2, width=8, depth=2, num_heads=2)
IMAGES = jnp.asarray(np.random.default_rng(0).random((3, 4, 4, 3)), jnp.float32)


@functools.cache
def weights():
    params = jax.jit(MODULE.init)(jax.random.key(0), IMAGES)["params"]
    return jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(1), x.shape), params)


@functools.cache
def features():
    held = weights()
    return jax.jit(lambda p, x: MODULE.apply({"params": held}, x, prefixes=p).features)


def test_one_prompt_is_the_same_for_all_rows_and_tasks():
    prompt = new_prompt(jax.random.key(2), (1, 2), 8)
    assert [x.shape for pair in prompt for x in pair] == [(1, 8), (1, 8), (2, 8), (2, 8)]
    assert len({float(x[0, 0]) for pair in prompt for x in pair}) == 4
    found, pull = jax.jit(one_prompt(MODULE))(weights(), prompt, IMAGES, jnp.int32(1))
    np.testing.assert_allclose(found, features()(prompt, IMAGES), rtol=1e-5)
    assert not pull.any() and pull.shape == (3,)
    assert (jnp.abs(found - features()((), IMAGES)) > 1e-3).any()


def test_a_pool_has_the_prompt_of_the_task_or_of_the_nearest_key():
    pool = new_pool(jax.random.key(3), (1, 2), 8, 3, num_shared=1)
    assert pool.own[0][1].shape == (3, 2, 8) and pool.keys.shape == (3, 8)
    network = jax.jit(prompt_pool(MODULE))
    plain = np.asarray(features()((), IMAGES))
    cosine = plain @ pool.keys.T / np.linalg.norm(plain, axis=1, keepdims=True)
    cosine = np.asarray(cosine) / np.linalg.norm(pool.keys, axis=1)
    with_prompt = lambda task, x: features()((*pool.shared, tuple(p[task] for p in pool.own[0])), x)
    given, pull = network(weights(), pool, IMAGES, jnp.int32(1))
    np.testing.assert_allclose(given, with_prompt(1, IMAGES), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pull, 1 - cosine[:, 1], atol=1e-5)
    # Keys that point to the features of images 2, 0 and 1.
    pool = pool._replace(keys=3 * jnp.asarray(plain)[jnp.array([2, 0, 1])])
    found, pull = network(weights(), pool, IMAGES, jnp.int32(-1))
    for row, task in enumerate((1, 2, 0)):
        one = with_prompt(task, IMAGES[row][None])[0]
        np.testing.assert_allclose(found[row], one, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pull, 0, atol=1e-5)


def test_a_task_teaches_its_own_prompt_and_key_alone():
    pool = new_pool(jax.random.key(3), (1, 2), 8, 3, num_shared=1)

    def loss(pool):
        found, pull = prompt_pool(MODULE)(weights(), pool, IMAGES, jnp.int32(1))
        return (found**2).sum() + pull.sum()

    slope = jax.jit(jax.grad(loss))(pool)
    for x in jax.tree.leaves((slope.keys, slope.own)):
        assert x[1].any() and not x[jnp.array([0, 2])].any()
    assert all(x.any() for x in jax.tree.leaves(slope.shared))
