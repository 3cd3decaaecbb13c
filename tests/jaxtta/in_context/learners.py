"""Tiny learners, sequences for them, and layers in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtta import in_context as icl

N, C, T, B = 6, 3, 5, 2
LEARNERS = {
    "shifted": lambda: icl.transformer(N, C, T + 1, num_layers=2, width=8, num_heads=2, key_size=4),
    "paired": lambda: icl.transformer(
        N, C, T, num_layers=2, width=8, num_heads=2, key_size=4, layout="paired"
    ),
    "rotary": lambda: icl.transformer(
        N, C, T, num_layers=2, width=8, num_heads=2, key_size=4, positions="rotary"
    ),
    "lstm": lambda: icl.lstm(N, C, width=7),
    "outer_product_lstm": lambda: icl.outer_product_lstm(N, C, num_heads=2, head_size=3, width=8),
    "fast_weights": lambda: icl.fast_weights(N, C, width=5, memory_size=3),
    "vsml": lambda: icl.vsml(N, C, hidden_size=4, message_size=2),
    "unsymmetric_vsml": lambda: icl.unsymmetric_vsml(N, C, side=2, hidden_size=4, message_size=2),
    "mlp": lambda: icl.mlp(N, C, width=4),
    "online": lambda: icl.gradient_learner(N, C, optax.adam(0.1), width=4),
    "maml": lambda: icl.gradient_learner(N, C, optax.sgd(0.5), width=4, learned_init=True),
}


@functools.cache
def made(name):
    """A learner with weights whose biases are not zero, so that every path counts."""
    learner = LEARNERS[name]()
    params = jax.jit(learner.init)(jax.random.key(1))
    noise = lambda i, w: w + 0.1 * jax.random.normal(jax.random.key(i), w.shape)
    leaves, structure = jax.tree.flatten(params)
    return learner, jax.tree.unflatten(structure, [noise(i, w) for i, w in enumerate(leaves)])


def sequences(seed=0, num=B, length=T, inputs=N, classes=C):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, length, inputs)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(rng.integers(0, classes, (num, length)), jnp.int32)


@functools.cache
def logits_of(name):
    return jax.jit(made(name)[0].logits)


def dense(x, p):
    return np.tensordot(x, p["kernel"], axes=p["kernel"].ndim - p["bias"].ndim) + p["bias"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))
