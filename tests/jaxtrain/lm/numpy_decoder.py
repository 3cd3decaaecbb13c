"""The language model in NumPy: one text at a time, no slots, no cache, no masks, float64."""

import jax
import numpy as np

from jaxtrain.lm.decoder import Config

TINY = Config(11, 8, 2, 4, 2, 4, 10, rotary_base=100.0, qkv_bias=True)


def random_params(model, seed=0):
    """Every parameter normal, so that no bias, norm or head is what it would begin as."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda s: (0.5 * rng.normal(size=s.shape)).astype(np.float32), shapes)


def rms(x, scale, epsilon):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def turned(x, base):
    """`x` `[T, heads, d]`: neighbouring channels as complex numbers, turned by their place."""
    size = x.shape[-1]
    pairs = x[..., ::2] + 1j * x[..., 1::2]
    angles = np.arange(len(x))[:, None] * base ** (-np.arange(0, size, 2) / size)
    pairs = pairs * np.exp(1j * angles)[:, None]
    return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)


def states(config, params, text, head_scale=None):
    """Hidden states `[layers + 1, T, D]` of a text, ids or vectors, each after the norm."""
    p = jax.tree.map(np.float64, params)
    vectors = [p["embedding"]["embedding"][t] if np.ndim(t) == 0 else t for t in text]
    x = np.array(vectors, np.float64)
    group = config.num_heads // config.num_kv_heads
    made = [x]
    for i in range(config.num_layers):
        layer = p[f"block{i}"]
        attention, feed_forward = layer["attention"], layer["feed_forward"]
        normed = rms(x, layer["attention_norm"]["scale"], config.norm_epsilon)
        q, k, v = (
            np.tensordot(normed, attention[name]["kernel"], 1) + attention[name].get("bias", 0)
            for name in ("query", "key", "value")
        )
        q, k = turned(q, config.rotary_base), turned(k, config.rotary_base)
        mixed = np.zeros_like(q)
        for h in range(config.num_heads):
            for t in range(len(x)):
                reads = q[t, h] @ k[: t + 1, h // group].T / np.sqrt(config.head_dim)
                weights = np.exp(reads - reads.max())
                mixed[t, h] = weights / weights.sum() @ v[: t + 1, h // group]
            if head_scale is not None:
                mixed[:, h] *= head_scale[i][h]
        x = x + np.tensordot(mixed, attention["out"]["kernel"], 2)
        normed = rms(x, layer["feed_forward_norm"]["scale"], config.norm_epsilon)
        gate = normed @ feed_forward["gate"]["kernel"]
        gated = gate / (1 + np.exp(-gate)) * (normed @ feed_forward["up"]["kernel"])
        x = x + gated @ feed_forward["down"]["kernel"]
        made.append(x)
    return rms(np.array(made), p["norm"]["scale"], config.norm_epsilon)


def logits(config, params, text, head_scale=None):
    """`[T, V]`."""
    hidden = states(config, params, text, head_scale)[-1]
    if config.tied:
        return hidden @ np.float64(params["embedding"]["embedding"]).T
    return hidden @ np.float64(params["head"]["kernel"])


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
