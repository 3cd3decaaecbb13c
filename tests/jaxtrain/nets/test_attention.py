"""Attention with keys of one's own against loops."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.nets import attend, attend_with_own


def test_own_keys_are_read_by_their_query_alone():
    rng = np.random.default_rng(0)
    q, own_k, own_v = (rng.normal(size=(2, 3, 4)).astype(np.float32) for _ in range(3))
    k, v = (rng.normal(size=(2, 5, 4)).astype(np.float32) for _ in range(2))
    mask = rng.random((1, 3, 5)) < 0.5
    mask[0, 1] = False  # a query with nothing but its own key
    got = attend_with_own(q, k, v, mask, own_k, own_v)
    for h in range(2):
        for i in range(3):
            keys = [k[h, j] for j in range(5) if mask[0, i, j]] + [own_k[h, i]]
            values = [v[h, j] for j in range(5) if mask[0, i, j]] + [own_v[h, i]]
            weights = np.exp([q[h, i] @ key / 2 for key in keys])
            expected = sum(w * x for w, x in zip(weights / weights.sum(), values, strict=True))
            np.testing.assert_allclose(got[h, i], expected, atol=1e-6)
    np.testing.assert_allclose(got[:, 1], own_v[:, 1], atol=1e-6)


def test_own_keys_equal_plain_attention_over_all_keys():
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (30 * jax.random.normal(key, (1, 4, 4)) for key in keys)
    together = attend(q, k, v, jnp.tri(4, dtype=bool)[None])
    apart = attend_with_own(q, k, v, jnp.tri(4, k=-1, dtype=bool)[None], k, v)
    np.testing.assert_allclose(apart, together, atol=1e-4)


def test_gradients_are_finite_where_no_shared_key_is_readable():
    x = jax.random.normal(jax.random.key(0), (1, 3, 4))
    mask = jnp.zeros((1, 3, 3), bool)
    grads = jax.grad(lambda x: attend_with_own(x, x, x, mask, x, x).sum())(x)
    np.testing.assert_allclose(grads, jnp.ones_like(x), atol=1e-6)
