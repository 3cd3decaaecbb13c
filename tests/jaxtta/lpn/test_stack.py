"""Rotary positions of rows and columns, with learned frequencies."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtta.lpn import LPN, Block, Config
from jaxtta.lpn.stack import AxialAttention


def test_rotary_attention_depends_on_differences_only():
    attention = AxialAttention(width=8, num_heads=2, head_dim=4)
    rng = np.random.default_rng(4)
    x, places = rng.normal(size=(6, 8)).astype(np.float32), rng.uniform(-1, 1, (6, 2))
    params = attention.init(jax.random.key(0), x, places=places)

    @jax.jit
    def scores(places):
        queries, keys, values = attention.apply(params, x, places, method="project")
        return jnp.einsum("hqd,hkd->hqk", queries, keys), values

    plain, values = scores(places)
    moved, same_values = scores(places + np.array([[0.3, -0.7]]))
    np.testing.assert_allclose(moved, plain, atol=1e-4)
    np.testing.assert_array_equal(values, same_values)
    for stretch in ([[1.5, 1.0]], [[1.0, 1.5]]):
        assert abs(scores(places * np.array(stretch))[0] - plain).max() > 0.05


def test_rotary_model_has_frequencies_instead_of_tables():
    block = Block(1, 2, 12)
    lpn = LPN(Config(4, 5, 3, block, block, positions="rope", rope_max_frequency=10.0))
    tree = jax.eval_shape(lpn.init, jax.random.key(0))
    attention = lambda tree, part: tree[part]["TransformerLayer_0"]["MultiHeadAttention_0"]
    for part in ("encoder", "decoder"):
        assert not any("pos_" in name for name in tree[part])
        init = jax.jit(
            lambda key, part=part: {  # the rest is never computed
                name: leaf
                for name, leaf in attention(lpn.init(key), part).items()
                if name.endswith("frequencies")
            }
        )
        frequencies = init(jax.random.key(0))
        assert sorted(frequencies) == ["col_log_frequencies", "row_log_frequencies"]
        for leaf in frequencies.values():
            np.testing.assert_allclose(leaf, np.log(np.pi * np.array([[1.0, 3.0, 5.0]] * 2)))
