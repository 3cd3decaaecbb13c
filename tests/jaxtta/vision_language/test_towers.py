"""Pairs of towers as policies and rewards, beside products by hand; views of an image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.nets.classifier import Classified
from jaxtrain.nets.two_tower import TextTower
from jaxtta.vision_language import towers
from jaxtta.vision_language.towers import Known, Pair

RNG = np.random.default_rng(0)
WORDS = jnp.array([[0, 1, 2, 3, 9], [0, 1, 2, 4, 9], [0, 1, 2, 5, 9]])
TEXT = TextTower(num_words=10, length=5, width=8, depth=1, num_heads=2, size=4)
IMAGES = jnp.asarray(RNG.random((2, 4, 4, 3)), jnp.float32)


def apply(params, state, inputs, *, norm, mask):
    """The mean colour through a matrix."""
    return Classified(inputs.mean((1, 2)) @ params + state), state


@functools.cache
def known():
    draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)
    text = jax.jit(TEXT.init)(jax.random.key(0), WORDS)["params"]
    pairs = [Pair(draw(3, 4), draw(4)[None], text, jnp.log(7.0)) for _ in range(2)]
    return Known(*pairs, WORDS, towers.texts_of(TEXT, text, WORDS), draw(3, 4))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def seen(pair):
    return unit(np.asarray(IMAGES.mean((1, 2)) @ pair.image + pair.image_state))


def test_policies_are_scaled_cosines():
    given = known()
    expected = 7 * seen(given.policy) @ np.asarray(given.texts).T
    np.testing.assert_allclose(np.linalg.norm(given.texts, axis=1), 1, rtol=1e-5)
    image = towers.image_policy(apply)(given.policy.image, given, IMAGES)
    np.testing.assert_allclose(image, expected, rtol=1e-4)
    context = towers.context_of(given.policy, WORDS, 2)
    np.testing.assert_array_equal(context, given.policy.text["words"]["embedding"][1:3])
    policy = jax.jit(functools.partial(towers.context_policy(apply, TEXT), known=given))
    np.testing.assert_allclose(policy(context, images=IMAGES), expected, rtol=1e-4)
    assert (jnp.abs(policy(context * jnp.arange(8.0)[None], images=IMAGES) - expected) > 1e-3).any()


def test_the_reward_is_the_cosine_of_its_own_towers():
    given = known()
    found = towers.towers_reward(apply)(given, IMAGES)
    np.testing.assert_allclose(found, seen(given.reward) @ given.reward_texts.T, rtol=1e-4)


def test_networks_see_images_of_their_side():
    shapes = []

    def network(params, state, inputs, **options):
        shapes.append(inputs.shape)
        return inputs, state

    small = towers.resized(network, 2)
    found, _ = small((), (), IMAGES)
    means = IMAGES.reshape(2, 2, 2, 2, 2, 3).mean((2, 4))
    assert shapes == [(2, 2, 2, 3)] and found.shape == means.shape
    same, _ = towers.resized(network, 4)((), (), IMAGES)
    np.testing.assert_array_equal(same, IMAGES)


def test_the_first_view_is_the_image_and_the_others_are_parts_of_it():
    image = jnp.broadcast_to(jnp.linspace(0, 1, 8)[None, :, None], (8, 8, 3))
    found = np.asarray(towers.crops(image, jax.random.key(0), number=9, scale=0.3))
    assert found.shape == (9, 8, 8, 3)
    np.testing.assert_array_equal(found[0], image)
    assert len(np.unique(found.reshape(9, -1), axis=0)) == 9
    slopes = np.sign(found[1:, 4, -1, 0] - found[1:, 4, 0, 0])
    assert {*slopes.tolist()} == {-1.0, 1.0}  # some are mirrored
    assert found.min() >= 0 and found.max() <= 1
    same = towers.crops(image, jax.random.key(0), number=9, scale=0.3)
    np.testing.assert_array_equal(found, same)
