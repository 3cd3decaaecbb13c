"""What a vision transformer does with prefixes; the rest is beside NumPy in test_networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.nets import ViT
from jaxtrain.nets.vit import in_front, quick_gelu

RNG = np.random.default_rng(0)


def test_a_prefix_stands_in_front_of_the_tokens_head_by_head():
    x = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    shared, own = RNG.normal(size=(6, 15)), RNG.normal(size=(2, 6, 15))
    for prefix, of_row in ((shared, lambda b: shared), (own, lambda b: own[b])):
        found = in_front(jnp.asarray(prefix), jnp.asarray(x))
        assert found.shape == (2, 3, 10, 5)
        np.testing.assert_array_equal(found[:, :, 6:], x)
        for b in range(2):
            for h in range(3):
                wanted = of_row(b)[:, 5 * h : 5 * h + 5]
                np.testing.assert_allclose(found[b, h, :6], wanted, rtol=1e-6)


def test_keys_choose_and_values_are_mixed():
    """A key that every query looks at puts its value in the place of the others."""
    module = ViT(num_classes=2, patch=2, width=4, depth=1, num_heads=1)
    images = jnp.asarray(RNG.random((2, 4, 4, 3)), jnp.float32)
    params = module.init(jax.random.key(0), images)["params"]
    bias = params["block0"]["attention"]["qkv"]["bias"]
    params["block0"]["attention"]["qkv"]["bias"] = bias.at[:4].set(50.0)  # of queries
    run = lambda prefixes: module.apply({"params": params}, images, prefixes=prefixes)
    found = [
        run([tuple(jnp.full((1, 4), x) for x in pair)])
        for pair in ((-20.0, 0.0), (-20.0, 9.0), (20.0, 0.0), (20.0, 9.0))
    ]
    plain = run(())
    for one in found[:2]:
        np.testing.assert_allclose(one.features, plain.features, atol=1e-5)
    assert (jnp.abs(found[2].features - found[3].features) > 1e-3).any()
    assert (jnp.abs(found[2].features - plain.features) > 1e-4).any()


def test_more_prefixes_than_blocks_are_refused():
    module = ViT(num_classes=2, patch=2, width=4, depth=1, num_heads=1)
    images = jnp.zeros((1, 4, 4, 3))
    with pytest.raises(ValueError, match="2 prefixes are more than the 1 blocks"):
        module.init(jax.random.key(0), images, prefixes=[(jnp.zeros((1, 4)),) * 2] * 2)


def test_the_tower_of_clip_without_blocks_is_two_norms_and_a_matrix():
    module = ViT(num_classes=5, patch=2, width=4, depth=0, clip=True)
    images = jnp.asarray(RNG.random((2, 4, 4, 3)), jnp.float32)
    params = module.init(jax.random.key(0), images)["params"]
    assert "bias" not in params["patches"] and "bias" not in params["head"]
    assert {"norm_first", "norm_last"} < set(params)
    token = np.asarray(params["token"] + params["positions"][:, :1])[0, 0]
    for _ in range(2):
        token = (token - token.mean()) / np.sqrt(token.var() + 1e-5)
    found = module.apply({"params": params}, images)
    expected = np.repeat((token @ np.asarray(params["head"]["kernel"]))[None], 2, 0)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-5)
    x = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(quick_gelu(jnp.asarray(x)), x / (1 + np.exp(-1.702 * x)), rtol=1e-5)
