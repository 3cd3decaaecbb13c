"""Weights of published language models as our parameter trees, and back.

Names to names and layouts to layouts, from dicts of arrays; `jaxtrain.host.arrays` reads the files.
Hugging Face's safetensors hold queries and keys for rotation of the two halves of a head; here
neighbouring channels turn together, so rows change places on the way in and out. llama.cpp's GGUF
files of Llama shapes are made for neighbours already, those of Qwen2 for halves.
"""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxtrain import trees
from jaxtrain.lm.decoder import Config, decoder

# Our name in a block -> that of Hugging Face, that of GGUF.
_BLOCK = {
    "attention_norm": ("input_layernorm", "attn_norm"),
    "attention/query": ("self_attn.q_proj", "attn_q"),
    "attention/key": ("self_attn.k_proj", "attn_k"),
    "attention/value": ("self_attn.v_proj", "attn_v"),
    "attention/out": ("self_attn.o_proj", "attn_output"),
    "feed_forward_norm": ("post_attention_layernorm", "ffn_norm"),
    "feed_forward/gate": ("mlp.gate_proj", "ffn_gate"),
    "feed_forward/up": ("mlp.up_proj", "ffn_up"),
    "feed_forward/down": ("mlp.down_proj", "ffn_down"),
}
_OUTSIDE = {
    "embedding": ("model.embed_tokens", "token_embd"),
    "norm": ("model.norm", "output_norm"),
    "head": ("lm_head", "output"),
}
_HUGGING_FACE, _GGUF = 0, 1
_BLOCKS = ("model.layers", "blk")
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


def from_hugging_face(arrays: Mapping[str, ArrayLike], config: Config) -> Any:
    """Parameters from the arrays of `model.safetensors` files, those of all parts in one dict.

    Raises:
      ValueError: arrays are missing, left over, or of the wrong shape; all are listed.
    """
    copies = {"lm_head.weight"} if config.tied else set()
    given = {
        name: x
        for name, x in arrays.items()
        if name not in copies and not name.endswith("rotary_emb.inv_freq")
    }
    return _imported(given, config, _HUGGING_FACE, halves=True)


def to_hugging_face(params: Any, config: Config) -> dict[str, np.ndarray]:
    """The arrays of a `model.safetensors` file, float32, for a config like `hugging_face_config`
    takes.
    """
    names = trees.path_names(params)
    made = {}
    for name, x in zip(names, map(np.asarray, jax.tree.leaves(params)), strict=True):
        x = x.astype(np.float32)
        if _turns(name):
            pairs = x.reshape(*x.shape[:-1], -1, 2)
            x = pairs.swapaxes(-1, -2).reshape(x.shape)
        if name.endswith("kernel"):
            inputs = 2 if "attention/out" in name else 1
            x = x.reshape(int(np.prod(x.shape[:inputs])), -1).T
        theirs = _theirs(name, _HUGGING_FACE)
        made[theirs] = x.reshape(-1) if theirs.endswith("bias") else x
    return made


def from_gguf(arrays: Mapping[str, ArrayLike], config: Config, architecture: str) -> Any:
    """Parameters from the arrays of a GGUF file.

    Args:
      arrays: by name, without quantisation.
      config: structure, see `gguf_config`.
      architecture: what the file calls it, `llama` or `qwen2`.

    Raises:
      ValueError: another architecture; arrays are missing, left over, or of the wrong shape.
    """
    _known(architecture)
    return _imported(arrays, config, _GGUF, halves=architecture != "llama")


def hugging_face_config(description: Mapping[str, Any]) -> Config:
    """The structure that a `config.json` describes.

    Raises:
      ValueError: a network that this decoder is not, or an incomplete description.
    """
    get: Any = description.get
    _known(get("model_type"))
    needed: Any = lambda key: _needed(description, key)
    qwen = get("model_type") == "qwen2"
    scaling = get("rope_scaling") or get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    wrong = {
        f"its activation is {get('hidden_act')}": get("hidden_act", "silu") != "silu",
        f"its positions are scaled ({kind})": kind != "default",
        "its outputs have biases": bool(get("attention_bias") or get("mlp_bias")),
        "it attends to a window": bool(get("use_sliding_window")),
    }
    if any(wrong.values()):
        reasons = ", ".join(reason for reason, there in wrong.items() if there)
        raise ValueError(f"this decoder cannot be that network: {reasons}.")
    width, heads = (_size(description, key) for key in ("hidden_size", "num_attention_heads"))
    return Config(
        vocabulary=needed("vocab_size"),
        width=width,
        num_layers=needed("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=get("num_key_value_heads") or heads,
        head_dim=get("head_dim") or width // heads,
        hidden=needed("intermediate_size"),
        rotary_base=float(get("rope_theta") or scaling.get("rope_theta") or 10_000.0),
        norm_epsilon=needed("rms_norm_eps"),
        tied=bool(get("tie_word_embeddings")),
        qkv_bias=qwen,
    )


def gguf_config(metadata: Mapping[str, Any], names: Collection[str]) -> Config:
    """The structure that the metadata of a GGUF file describe.

    Args:
      metadata: by key, such as `llama.block_count`.
      names: of its arrays.

    Raises:
      ValueError: a network that this decoder is not, or incomplete metadata.
    """
    kind = metadata.get("general.architecture")
    _known(kind)
    get: Any = lambda key, *default: metadata.get(f"{kind}.{key}", *default)
    needed: Any = lambda key: _needed(metadata, f"{kind}.{key}")
    if (scaling := get("rope.scaling.type", "none")) != "none" or "rope_freqs.weight" in names:
        raise ValueError(
            f"this decoder cannot be that network: its positions are scaled ({scaling})."
        )
    sizes = ("embedding_length", "attention.head_count")
    width, heads = (_size(metadata, f"{kind}.{key}") for key in sizes)
    return Config(
        vocabulary=get("vocab_size") or len(_needed(metadata, "tokenizer.ggml.tokens")),
        width=width,
        num_layers=needed("block_count"),
        num_heads=heads,
        num_kv_heads=get("attention.head_count_kv") or heads,
        head_dim=get("attention.key_length") or width // heads,
        hidden=needed("feed_forward_length"),
        rotary_base=float(get("rope.freq_base", 10_000.0)),
        # Stored in float32.
        norm_epsilon=float(f"{needed('attention.layer_norm_rms_epsilon'):.6g}"),
        tied="output.weight" not in names,
        qkv_bias="blk.0.attn_q.bias" in names,
    )


def _needed(description: Mapping[str, Any], key: str) -> Any:
    if key not in description:
        raise ValueError(f"the description of the network lacks {key}.")
    return description[key]


def _size(description: Mapping[str, Any], key: str) -> int:
    """A whole number of at least 1; others are checked by `Config`."""
    size = _needed(description, key)
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"{key} is {size!r}; it must be a whole number of at least 1.")
    return size


def _known(architecture: Any) -> None:
    if architecture not in ("llama", "qwen2"):
        raise ValueError(f"the architecture is {architecture!r}; known are llama and qwen2.")


def _theirs(name: str, kind: int) -> str:
    module, _, leaf = name.rpartition("/")
    first, _, rest = module.partition("/")
    if first.startswith("block"):
        number = first.removeprefix("block")
        return f"{_BLOCKS[kind]}.{number}.{_BLOCK[rest][kind]}.{_LEAVES[leaf]}"
    return f"{_OUTSIDE[first][kind]}.{_LEAVES[leaf]}"


def _turns(name: str) -> bool:
    """Whether rotation moves the last axis of a parameter."""
    return "attention/query" in name or "attention/key" in name


def _imported(arrays: Mapping[str, ArrayLike], config: Config, kind: int, halves: bool) -> Any:
    if config.num_layers > len(arrays):  # tracing so many would take for ever
        raise ValueError(
            f"the description says {config.num_layers} layers, but there are {len(arrays)} arrays."
        )
    expected = jax.eval_shape(decoder(config).init, jax.random.key(0))
    left, found, faults = dict(arrays), [], []
    for name, x in zip(trees.path_names(expected), jax.tree.leaves(expected), strict=True):
        theirs = _theirs(name, kind)
        if theirs not in left:
            faults.append(f"{theirs} is missing")
            continue
        array = np.asarray(left.pop(theirs))
        is_kernel = name.endswith("kernel")
        inputs = 2 if "attention/out" in name else 1
        shape: Any = (int(np.prod(x.shape[inputs:])), int(np.prod(x.shape[:inputs])))
        shape = shape if is_kernel else (x.size,) if name.endswith("bias") else x.shape
        if array.shape != shape:
            faults.append(f"{theirs} has shape {array.shape}, expected {shape}")
            continue
        array = (array.T if is_kernel else array).reshape(x.shape)
        if halves and _turns(name):
            two = array.reshape(*x.shape[:-1], 2, -1)
            array = two.swapaxes(-1, -2).reshape(x.shape)
        found.append(jnp.asarray(array, x.dtype))
    faults += [f"{name} has no place in this network" for name in sorted(left)]
    if faults:
        shown = "\n  ".join(faults[:20] + ["..."] * (len(faults) > 20))
        raise ValueError(f"the weights do not fit the structure {config}:\n  {shown}")
    return jax.tree.unflatten(jax.tree.structure(expected), found)
