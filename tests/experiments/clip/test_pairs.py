"""Pairs of towers: what is learned of them, and what stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.clip.pairs import captions, hardened, started, towers_of, training
from experiments.data.images.labelled import Images
from jaxtrain.host.config import load


def group(**changes):
    config, _ = load("configs/tta_clip.py:debug")
    for name, value in changes.items():
        config.policy[name] = value
    return config.policy


def test_images_lose_contrast_and_gain_noise_each_by_itself():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((8, 4, 4, 3)), jnp.float32)
    plain = np.asarray(hardened(images, jax.random.key(0), 0.0))
    mirrored = np.abs(plain - np.asarray(images)).max((1, 2, 3)) > 1e-5
    assert 0 < mirrored.sum() < 8
    np.testing.assert_allclose(plain[mirrored], images[mirrored][:, :, ::-1], atol=1e-6)
    hard = np.asarray(hardened(images, jax.random.key(0), 1.0))
    np.testing.assert_allclose(hard.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=0.1)
    residual = np.abs(hard - plain).max((1, 2, 3))
    assert residual.min() > 0.01 and len(np.unique(residual)) == 8


@pytest.mark.ci
def test_a_given_image_tower_stays_but_for_its_head(tmp_path):
    given = group(network="cifar_resnet", depth=8, side=8, num_steps=1)
    words = captions(3)
    towers = towers_of(given, 9, 7)
    start = jax.jit(lambda key: started(towers, words, key))(jax.random.key(0))
    held = {name: x for name, x in start.image.items() if name != "head"}
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    data = Images(pixels, np.arange(12) % 3, "made up")
    pair = training(given, towers, words, (held, start.image_state))(
        data, jax.random.key(1), tmp_path / "policy"
    )
    for name in held:
        jax.tree.map(np.testing.assert_array_equal, pair.image[name], held[name])
    jax.tree.map(np.testing.assert_array_equal, pair.image_state, start.image_state)
    fresh = training(given, towers, words, None)(data, jax.random.key(1), tmp_path / "other")
    assert (fresh.image["conv"]["kernel"] != start.image["conv"]["kernel"]).any()
