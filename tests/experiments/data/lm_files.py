"""A language model of a few thousand parameters in the files that published ones come in."""

import json

import numpy as np
import pytest

from jaxtrain.lm import weights
from jaxtrain.lm.decoder import Config, decoder
from tests.jaxtrain.lm.numpy_decoder import random_params

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["a b", "ab c", "Ċ Ċ", "Ġ a", "1 2"]
TEMPLATE = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'}}"


def vocabulary():
    alphabet = sorted(pytest.importorskip("tokenizers").pre_tokenizers.ByteLevel.alphabet())
    return [*SPECIALS, *alphabet, *(merge.replace(" ", "") for merge in MERGES)]


def model():
    config = Config(len(vocabulary()), 8, 2, 4, 2, 4, 10, rotary_base=100.0)
    params = random_params(decoder(config))
    params["embedding"]["embedding"][2] *= 3  # so that answers end now and then
    return config, params


def metadata():
    types = [3 if token in SPECIALS else 1 for token in vocabulary()]
    said = {"model": "gpt2", "pre": "smollm", "tokens": vocabulary(), "merges": MERGES}
    return {f"tokenizer.ggml.{key}": x for key, x in (said | {"token_type": types}).items()}


def write_gguf(path, template=TEMPLATE):
    gguf = pytest.importorskip("gguf")
    config, params = model()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_feed_forward_length(config.hidden)
    writer.add_rope_freq_base(config.rotary_base)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_context_length(96)
    said = metadata()
    writer.add_tokenizer_model(said["tokenizer.ggml.model"])
    writer.add_tokenizer_pre(said["tokenizer.ggml.pre"])
    writer.add_token_list(said["tokenizer.ggml.tokens"])
    writer.add_token_merges(said["tokenizer.ggml.merges"])
    writer.add_token_types(said["tokenizer.ggml.token_type"])
    writer.add_chat_template(template)
    for name, x in _gguf_arrays(config, params).items():
        writer.add_tensor(name, np.ascontiguousarray(x))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_arrays(config, params):
    """Row-major (out, in) matrices; rotary pairs are neighbours, as here."""
    made = {
        "token_embd.weight": params["embedding"]["embedding"],
        "output_norm.weight": params["norm"]["scale"],
    }
    for i in range(config.num_layers):
        block = params[f"block{i}"]
        a, f = block["attention"], block["feed_forward"]
        made[f"blk.{i}.attn_norm.weight"] = block["attention_norm"]["scale"]
        made[f"blk.{i}.ffn_norm.weight"] = block["feed_forward_norm"]["scale"]
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
            kernel = a[ours]["kernel"].reshape(config.width, -1)
            made[f"blk.{i}.attn_{theirs}.weight"] = kernel.T
        made[f"blk.{i}.attn_output.weight"] = a["out"]["kernel"].reshape(-1, config.width).T
        for name in ("gate", "up", "down"):
            made[f"blk.{i}.ffn_{name}.weight"] = f[name]["kernel"].T
    return made


def write_folder(path):
    """`config.json`, `tokenizer.json` and two `.safetensors` files."""
    from jaxtrain.host import arrays

    config, params = model()
    given = list(weights.to_hugging_face(params, config).items())
    arrays.write(path / "model-1.safetensors", dict(given[:5]))
    arrays.write(path / "model-2.safetensors", dict(given[5:]))
    said = {
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 10, "head_dim": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
        "rms_norm_eps": 1e-5, "rope_theta": 100.0, "vocab_size": config.vocabulary,
        "tie_word_embeddings": True, "max_position_embeddings": 96,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(said))
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path
