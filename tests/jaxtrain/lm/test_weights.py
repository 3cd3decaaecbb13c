"""Published names and layouts: the equations of their authors, with the arrays of their files."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxtrain.lm import weights
from jaxtrain.lm.decoder import PUBLISHED, Config, decoder
from tests.jaxtrain.lm import numpy_decoder as reference

LLAMA = Config(11, 8, 2, 4, 2, 4, 10, rotary_base=100.0, tied=False)
QWEN2 = dataclasses.replace(LLAMA, tied=True, qkv_bias=True)
TEXT = [3, 1, 4, 1, 5]


def hugging_face(config, seed=0):
    """Random arrays of the names and shapes of `transformers`."""
    rng, c = np.random.default_rng(seed), config
    kv, q = c.num_kv_heads * c.head_dim, c.num_heads * c.head_dim
    shapes = {"model.embed_tokens.weight": (c.vocabulary, c.width), "model.norm.weight": (c.width,)}
    if not c.tied:
        shapes["lm_head.weight"] = (c.vocabulary, c.width)
    for i in range(c.num_layers):
        layer = {
            "input_layernorm.weight": (c.width,),
            "post_attention_layernorm.weight": (c.width,),
            "self_attn.q_proj.weight": (q, c.width),
            "self_attn.k_proj.weight": (kv, c.width),
            "self_attn.v_proj.weight": (kv, c.width),
            "self_attn.o_proj.weight": (c.width, q),
            "mlp.gate_proj.weight": (c.hidden, c.width),
            "mlp.up_proj.weight": (c.hidden, c.width),
            "mlp.down_proj.weight": (c.width, c.hidden),
        }
        if c.qkv_bias:
            sizes = {"q": (q,), "k": (kv,), "v": (kv,)}
            layer |= {f"self_attn.{name}_proj.bias": size for name, size in sizes.items()}
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return {name: rng.normal(size=s).astype(np.float32) * 0.5 for name, s in shapes.items()}


def their_logits(config, arrays, text):
    """`[T, V]` by the equations of `transformers`: heads turn as two halves."""
    w = {name: np.float64(x) for name, x in arrays.items()}
    size, heads = config.head_dim, config.num_heads
    angles = np.arange(len(text))[:, None] * config.rotary_base ** (-np.arange(0, size, 2) / size)
    cos, sin = (np.tile(f(angles), 2)[:, None] for f in (np.cos, np.sin))
    turn = lambda x: x * cos + np.concatenate([-x[..., size // 2 :], x[..., : size // 2]], -1) * sin
    norm = lambda x, name: reference.rms(x, w[name], config.norm_epsilon)
    x = w["model.embed_tokens.weight"][text]
    for i in range(config.num_layers):
        layer = lambda name, x, i=i: (
            x @ w[f"model.layers.{i}.{name}.weight"].T + w.get(f"model.layers.{i}.{name}.bias", 0)
        )
        read = norm(x, f"model.layers.{i}.input_layernorm.weight")
        q, k, v = (
            layer(f"self_attn.{n}_proj", read).reshape(len(text), -1, size) for n in ("q", "k", "v")
        )
        repeats = heads // config.num_kv_heads
        q, k, v = turn(q), np.repeat(turn(k), repeats, 1), np.repeat(v, repeats, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(size)
        scores = np.where(np.tri(len(text), dtype=bool), scores, -np.inf)
        mixed = np.einsum("hqk,khd->qhd", np.exp(reference.log_softmax(scores)), v)
        x = x + layer("self_attn.o_proj", mixed.reshape(len(text), -1))
        read = norm(x, f"model.layers.{i}.post_attention_layernorm.weight")
        gate = layer("mlp.gate_proj", read)
        x = x + layer("mlp.down_proj", gate / (1 + np.exp(-gate)) * layer("mlp.up_proj", read))
    output = "model.embed_tokens.weight" if config.tied else "lm_head.weight"
    return norm(x, "model.norm.weight") @ w[output].T


@functools.partial(jax.jit, static_argnums=0)
def our_logits(config, params):
    model, tokens = decoder(config), np.array([TEXT])
    return model.logits(params, model.forward(params, tokens, np.ones((1, 5), bool))[0])[0]


@pytest.mark.parametrize("config", [LLAMA, QWEN2], ids=["llama", "qwen2"])
def test_arrays_of_hugging_face_give_their_logits_and_come_back(config):
    arrays = hugging_face(config)
    unused = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2)}
    if config.tied:
        unused["lm_head.weight"] = arrays["model.embed_tokens.weight"]
    params = weights.from_hugging_face(arrays | unused, config)
    np.testing.assert_allclose(
        our_logits(config, params), their_logits(config, arrays, TEXT), atol=1e-4
    )
    back = weights.to_hugging_face(params, config)
    assert set(back) == set(arrays)
    for name, x in arrays.items():
        np.testing.assert_array_equal(back[name], x, err_msg=name)


GGUF = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "model.layers": "blk", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_arrays(config):
    """What llama.cpp's converter makes of the arrays of Hugging Face: in Llama it moves rows."""
    made = {}
    for name, x in hugging_face(config).items():
        heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
        here = next((number for part, number in heads.items() if part in name), None)
        if here and not config.qkv_bias:
            x = x.reshape(here, 2, x.shape[0] // here // 2, *x.shape[1:])
            x = x.swapaxes(1, 2).reshape(-1, *x.shape[3:])
        for theirs, new in GGUF.items():
            name = name.replace(theirs, new)
        made[name] = x
    return made


@pytest.mark.parametrize("config", [LLAMA, QWEN2], ids=["llama", "qwen2"])
def test_arrays_of_gguf_are_the_same_parameters(config):
    kind = "qwen2" if config.qkv_bias else "llama"
    params = weights.from_gguf(gguf_arrays(config), config, kind)
    expected = weights.from_hugging_face(hugging_face(config), config)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_arrays_that_do_not_fit_are_all_named():
    arrays = hugging_face(LLAMA)
    del arrays["model.norm.weight"]
    arrays["model.layers.1.mlp.up_proj.weight"] = np.ones((8, 10))
    arrays["model.layers.2.mlp.up_proj.weight"] = np.ones((10, 8))
    with pytest.raises(ValueError) as error:
        weights.from_hugging_face(arrays, LLAMA)
    for sentence in (
        "model.norm.weight is missing",
        "model.layers.1.mlp.up_proj.weight has shape (8, 10), expected (10, 8)",
        "model.layers.2.mlp.up_proj.weight has no place in this network",
    ):
        assert sentence in str(error.value)
    with pytest.raises(ValueError, match="the architecture is 'gpt2'; known are llama and qwen2"):
        weights.from_gguf({}, LLAMA, "gpt2")


SMOLLM2 = {
    "model_type": "llama", "hidden_act": "silu", "hidden_size": 576, "intermediate_size": 1536,
    "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 100000, "vocab_size": 49152,
    "tie_word_embeddings": True, "attention_bias": False,
}  # fmt: skip
QWEN = {
    "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
    "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "vocab_size": 151936, "tie_word_embeddings": True,
    "use_sliding_window": False, "sliding_window": 32768,
}  # fmt: skip


def test_descriptions_of_hugging_face():
    assert weights.hugging_face_config(SMOLLM2) == PUBLISHED["smollm2_135m"]
    assert weights.hugging_face_config(QWEN) == PUBLISHED["qwen2.5_0.5b"]
    moved = {**SMOLLM2, "rope_theta": None}
    moved["rope_parameters"] = {"rope_type": "default", "rope_theta": 100000}
    assert weights.hugging_face_config(moved) == PUBLISHED["smollm2_135m"]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"model_type": "gemma"}, "the architecture is 'gemma'"),
        ({"hidden_act": "gelu"}, "its activation is gelu"),
        ({"rope_scaling": {"rope_type": "llama3"}}, r"its positions are scaled \(llama3\)"),
        ({"attention_bias": True}, "its outputs have biases"),
        ({"use_sliding_window": True}, "it attends to a window"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide'; it must be a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; it must be a whole number"),
        ({"rms_norm_eps": float("nan")}, "norm_epsilon is nan; it must be positive"),
        ({"vocab_size": -1}, "vocabulary is -1; it must be a whole number"),
    ],
)
def test_other_networks_are_refused(changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        weights.hugging_face_config(SMOLLM2 | changed)


METADATA = {
    "general.architecture": "llama", "llama.embedding_length": 576, "llama.block_count": 30,
    "llama.attention.head_count": 9, "llama.attention.head_count_kv": 3,
    "llama.feed_forward_length": 1536, "llama.rope.freq_base": 100000.0, "llama.vocab_size": 49152,
    "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
}  # fmt: skip


def test_descriptions_of_gguf():
    names = ["token_embd.weight", "blk.0.attn_q.weight"]
    assert weights.gguf_config(METADATA, names) == PUBLISHED["smollm2_135m"]
    untied = weights.gguf_config(METADATA, [*names, "output.weight", "blk.0.attn_q.bias"])
    assert not untied.tied and untied.qkv_bias
    with pytest.raises(ValueError, match="positions are scaled"):
        weights.gguf_config(METADATA, [*names, "rope_freqs.weight"])
    with pytest.raises(ValueError, match=r"head_count is \[9, 9\]; it must be a whole number"):
        weights.gguf_config(METADATA | {"llama.attention.head_count": [9, 9]}, names)


@pytest.mark.parametrize("key", ["vocab_size", "rms_norm_eps", "num_hidden_layers"])
def test_what_a_description_lacks_is_named(key):
    rest = {name: value for name, value in SMOLLM2.items() if name != key}
    with pytest.raises(ValueError, match=f"the description of the network lacks {key}"):
        weights.hugging_face_config(rest)
    theirs = {"num_hidden_layers": "llama.block_count"}.get(key)
    if theirs:
        rest = {name: value for name, value in METADATA.items() if name != theirs}
        with pytest.raises(ValueError, match=f"the description of the network lacks {theirs}"):
            weights.gguf_config(rest, [])


def test_a_description_of_more_layers_than_arrays_is_not_traced():
    deep = dataclasses.replace(LLAMA, num_layers=10**6)
    for read in (
        lambda arrays: weights.from_hugging_face(arrays, deep),
        lambda arrays: weights.from_gguf(arrays, deep, "llama"),
    ):
        with pytest.raises(ValueError, match="says 1000000 layers, but there are 2 arrays"):
            read({"a": np.zeros(1), "b": np.zeros(1)})
