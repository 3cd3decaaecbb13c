"""The transformer block against loops over tokens, with every part that networks choose."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxtrain import trees
from jaxtrain.nets import Attention, FeedForward, TransformerBlock, keep, rotary_angles, with_room

WIDTH, HEADS, SIZE, HIDDEN, TOKENS = 6, 4, 4, 10, 5

LANGUAGE = TransformerBlock(  # the shapes of Llama, and Qwen2's biases
    functools.partial(
        Attention,
        WIDTH,
        HEADS,
        SIZE,
        num_kv_heads=2,
        use_bias=False,
        qkv_bias=True,
        rotary=functools.partial(rotary_angles, size=SIZE, base=100.0),
    ),
    functools.partial(FeedForward, HIDDEN, nn.silu, gated=True, use_bias=False),
    functools.partial(nn.RMSNorm, epsilon=1e-5),
)
PLAIN = TransformerBlock(
    functools.partial(Attention, WIDTH, HEADS, SIZE),
    functools.partial(FeedForward, HIDDEN, nn.relu),
    functools.partial(nn.LayerNorm, epsilon=1e-5),
)
BLOCKS = {"language": LANGUAGE, "plain": PLAIN}


def random_params(block, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(
        block.init, jax.random.key(0), jnp.zeros((TOKENS, WIDTH)), None, jnp.arange(TOKENS)
    )
    return jax.tree.map(lambda s: (0.5 * rng.normal(size=s.shape)).astype(np.float32), shapes)


@functools.partial(jax.jit, static_argnums=0)
def apply(block, params, x, mask, places):
    return block.apply(params, x, mask, places)


def random_tokens(seed=1, num=TOKENS):
    return np.random.default_rng(seed).normal(size=(num, WIDTH)).astype(np.float32)


def causal(num=TOKENS):
    return np.tri(num, dtype=bool)[None]


# --- In NumPy -------------------------------------------------------------------------------------


def normed(x, p):
    if "bias" in p:
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * p["scale"] + p["bias"]
    return x / np.sqrt((x**2).mean() + 1e-5) * p["scale"]


def dense(x, p):
    return np.tensordot(x, p["kernel"], 1) + p.get("bias", 0)


def turned(x, place):
    pairs = x[:, ::2] + 1j * x[:, 1::2]
    pairs = pairs * np.exp(1j * place * 100.0 ** (-np.arange(0, SIZE, 2) / SIZE))
    return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)


def in_numpy(params, x, readable, rotary, source=None):
    """Every token by itself; `readable[i, j]`: token i reads token j (of `source`)."""
    p = jax.tree.map(np.float64, params)["params"]
    attention, out = p["attention"], []
    first = [normed(token, p["attention_norm"]) for token in np.float64(x)]
    read = first if source is None else source
    for i, token in enumerate(x):
        q = dense(first[i], attention["query"])
        q = turned(q, i) if rotary else q
        mixed = np.zeros((HEADS, SIZE))
        for h in range(HEADS):
            scores, values = [], []
            for j, other in enumerate(read):
                if not readable[i, j]:
                    continue
                k, v = (dense(other, attention[name]) for name in ("key", "value"))
                k = turned(k, j) if rotary else k
                group = HEADS // len(k)
                scores.append(q[h] @ k[h // group] / np.sqrt(SIZE))
                values.append(v[h // group])
            weights = np.exp(scores) / np.exp(scores).sum()
            mixed[h] = sum(w * v for w, v in zip(weights, values, strict=True))
        token = token + np.tensordot(mixed, attention["out"]["kernel"], 2)
        token = token + attention["out"].get("bias", 0)
        second, layers = normed(token, p["feed_forward_norm"]), p["feed_forward"]
        if "gate" in layers:
            gate = dense(second, layers["gate"])
            hidden = gate / (1 + np.exp(-gate)) * dense(second, layers["up"])
        else:
            hidden = np.maximum(dense(second, layers["up"]), 0)
        out.append(token + dense(hidden, layers["down"]))
    return np.array(out)


# --- The block ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BLOCKS)
def test_block_equals_loops_over_tokens(name):
    block, params, x = BLOCKS[name], random_params(BLOCKS[name]), random_tokens()
    got = apply(block, params, x, causal(), np.arange(TOKENS))
    expected = in_numpy(params, x, causal()[0], rotary=name == "language")
    np.testing.assert_allclose(got, expected, atol=1e-5)
    everything = np.ones((TOKENS, TOKENS), bool)
    expected = in_numpy(params, x, everything, rotary=name == "language")
    np.testing.assert_allclose(
        apply(block, params, x, None, np.arange(TOKENS)), expected, atol=1e-5
    )


def test_biases_are_where_the_settings_put_them():
    biases = {name for name in trees.path_names(random_params(LANGUAGE)) if "bias" in name}
    assert biases == {f"params/attention/{part}/bias" for part in ("query", "key", "value")}
    assert random_params(LANGUAGE)["params"]["attention"]["key"]["kernel"].shape == (WIDTH, 2, SIZE)


def test_keys_and_values_from_another_sequence():
    """Cross-attention; the other sequence may be longer and wider."""
    rng = np.random.default_rng(3)
    source = rng.normal(size=(7, WIDTH + 2)).astype(np.float32)
    mask = rng.random((TOKENS, 7)) < 0.6
    mask[:, 0] = True
    x, block = random_tokens(), PLAIN

    def run(block, x, source):
        return block.finish(x, block.attend(*block.project(x, source=source), mask[None]))

    shapes = jax.eval_shape(nn.init(run, block), jax.random.key(0), x, source)
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    got = jax.jit(nn.apply(run, block))(params, x, source)
    np.testing.assert_allclose(got, in_numpy(params, x, mask, False, source), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BLOCKS)
def test_kept_keys_and_values_equal_the_whole_sequence(name):
    """Blocks of 2, 1 and 2 tokens of two sequences, the first padded on the left by one place."""
    block, params = BLOCKS[name], random_params(BLOCKS[name])
    x = np.stack([random_tokens(4), random_tokens(5)])
    places = np.stack([np.arange(TOKENS) - 1, np.arange(TOKENS)])
    valid = np.ones((2, TOKENS), bool)
    valid[0, 0] = False
    whole = apply(block, params, x, causal() & valid[:, None, None], places)

    cut = lambda x, start, size: jax.lax.dynamic_slice_in_dim(x, start, size, 1)

    @functools.partial(jax.jit, static_argnums=3)
    def read(kept, valid, start, size):
        def step(block, tokens):
            q, k, v = block.project(tokens, cut(places, start, size))
            wider = keep(kept, (k, v), start)
            before = jnp.arange(TOKENS)[None] <= start + jnp.arange(size)[:, None]
            mask = before[None, None] & valid[:, None, None]
            return wider, block.finish(tokens, block.attend(q, *wider, mask))

        return nn.apply(step, block)(params, cut(x, start, size))

    project = functools.partial(block.apply, method="project")
    _, k, v = jax.jit(project)(params, x[:, :0], places[:, :0])
    kept, got = with_room((k, v), TOKENS), []
    for start, size in ((0, 2), (2, 1), (3, 2)):
        kept, tokens = read(kept, valid, start, size)
        got.append(tokens)
    got = np.concatenate(got, axis=1)
    np.testing.assert_allclose(got[valid], np.asarray(whole)[valid], atol=1e-5)


def test_fused_attention_is_a_choice_of_the_attention(monkeypatch):
    calls, original = [], jax.nn.dot_product_attention
    counted = lambda *args, **options: (calls.append(options), original(*args, **options))[1]
    monkeypatch.setattr(jax.nn, "dot_product_attention", counted)
    params, x, places = random_params(LANGUAGE), random_tokens(), jnp.arange(TOKENS)
    plain = apply(LANGUAGE, params, x, causal(), places)
    assert not calls
    attention = functools.partial(LANGUAGE.attention, fused="xla")
    fused = apply(LANGUAGE.clone(attention=attention), params, x, causal(), places)
    assert [options["implementation"] for options in calls] == ["xla"]
    np.testing.assert_allclose(fused, plain, atol=1e-5)


def test_names_and_flat_parameters():
    names = ("norm1", "", "norm2", "")
    flat = PLAIN.clone(
        feed_forward=functools.partial(PLAIN.feed_forward, names=("fc1", "fc2")), names=names
    )
    params = random_params(PLAIN)["params"]
    attention, layers = params["attention"], params["feed_forward"]
    moved = {
        "norm1": params["attention_norm"],
        "norm2": params["feed_forward_norm"],
        **attention,
        "fc1": layers["up"],
        "fc2": layers["down"],
    }
    x = random_tokens()
    expected = jax.tree.structure({"params": moved})
    assert jax.tree.structure(random_params(flat)) == expected
    np.testing.assert_array_equal(
        apply(flat, {"params": moved}, x, causal(), None),
        apply(PLAIN, {"params": params}, x, causal(), None),
    )


def test_dropout_needs_a_key_and_falls_on_both_branches():
    params, x = random_params(PLAIN), random_tokens()
    dropped = PLAIN.clone(dropout=0.5)
    plain = apply(PLAIN, params, x, None, None)
    np.testing.assert_array_equal(apply(dropped, params, x, None, None), plain)
    run = jax.jit(lambda params, key: dropped.apply(params, x, rngs={"dropout": key}))
    one, again, two = (run(params, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert abs(one - two).max() > 0.1
    # Without a feed-forward network that counts, the change is the attention's, doubled or gone.
    silent = jax.tree.map(jnp.zeros_like, params["params"]["feed_forward"])
    params = {"params": {**params["params"], "feed_forward": silent}}
    change = apply(PLAIN, params, x, None, None) - x
    kept = (run(params, jax.random.key(0)) - x) / change
    assert set(np.unique(np.round(kept, 3))) == {0.0, 2.0}


def test_types_of_activations_and_parameters():
    types = {"dtype": jnp.bfloat16, "param_dtype": jnp.float16}
    narrow = LANGUAGE.clone(
        attention=functools.partial(LANGUAGE.attention, **types),
        feed_forward=functools.partial(LANGUAGE.feed_forward, **types),
        norm=functools.partial(LANGUAGE.norm, **types),
    )
    x, places = jnp.asarray(random_tokens(), jnp.bfloat16), jnp.arange(TOKENS)
    params = jax.jit(narrow.init)(jax.random.key(0), x, None, places)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float16)}
    got = apply(narrow, params, x, causal(), places)
    assert got.dtype == jnp.bfloat16
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    expected = apply(LANGUAGE, wide, x.astype(jnp.float32), causal(), places)
    np.testing.assert_allclose(got.astype(np.float32), expected, atol=0.1)


def test_heads_that_do_not_divide_are_named():
    attention = Attention(WIDTH, 4, SIZE, num_kv_heads=3)
    with pytest.raises(ValueError, match="num_kv_heads is 3; it must divide num_heads"):
        attention.init(jax.random.key(0), random_tokens())
