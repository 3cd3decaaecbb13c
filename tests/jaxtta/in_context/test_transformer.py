"""The transformer against loops over tokens, and what it keeps."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from tests.jaxtta.in_context.learners import B, C, N, T, dense, logits_of, made, sequences


def test_cache_holds_the_context_and_nothing_else():
    learner, params = made("shifted")
    x, y = sequences()
    read = jax.jit(learner.read)(params, x, y)
    memory, step = learner.start(params, B), jax.jit(learner.step)
    for t in range(T):  # one program for all positions
        memory, _ = step(params, memory, x[:, t], y[:, t])
    for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(memory), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert all((leaf[:, :, T:] == 0).all() for leaf in jax.tree.leaves(memory.state))


def test_first_token_carries_no_label_and_token_t_the_label_before():
    """What the embedding of the shifted layout is given."""
    learner, params = made("shifted")
    x, y = sequences()
    captured = {}

    def interceptor(call, args, kwargs, context):
        if context.module.name == "embed":
            captured["tokens"] = args[0]
        return call(*args, **kwargs)

    def tokens_of(params, x, y):
        with nn.intercept_methods(interceptor):
            learner.logits(params, x, y)
        return captured["tokens"]

    tokens = np.asarray(jax.jit(tokens_of)(params, x, y))
    np.testing.assert_array_equal(tokens[..., :N], x)
    np.testing.assert_array_equal(tokens[:, 0, N:], 0)
    for t in range(1, T):
        np.testing.assert_array_equal(tokens[:, t, N:], np.eye(C)[np.asarray(y)[:, t - 1]])


def norm(x, p):
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return x * p["scale"] + p["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def turned(x, place):
    """Rotates pair i of the first half of each head by place * 10000^(-2 i / half)."""
    x, half = x.copy(), x.shape[-1] // 2
    for i in range(half // 2):
        angle = place * 10_000.0 ** (-2 * i / half)
        pair = (x[:, 2 * i] + 1j * x[:, 2 * i + 1]) * np.exp(1j * angle)
        x[:, 2 * i], x[:, 2 * i + 1] = pair.real, pair.imag
    return x


def block(p, tokens, readable, rotary):
    """One block on a list of tokens; `readable[i]` lists what token i reads."""
    normed = [norm(t, p["attention_norm"]) for t in tokens]
    q, k, v = ([dense(t, p[name]) for t in normed] for name in ("query", "key", "value"))
    if rotary:
        q, k = ([turned(x, place) for place, x in enumerate(part)] for part in (q, k))
    out = []
    for i, token in enumerate(tokens):
        heads = []
        for h in range(q[0].shape[0]):
            scores = np.array([q[i][h] @ k[j][h] for j in readable[i]]) / np.sqrt(q[0].shape[1])
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            heads.append(sum(w * v[j][h] for w, j in zip(weights, readable[i], strict=True)))
        mixed = np.stack(heads)
        token = token + np.tensordot(mixed, p["out"]["kernel"], axes=2) + p["out"]["bias"]
        hidden = gelu(dense(norm(token, p["mlp_norm"]), p["up"]))
        out.append(token + dense(hidden, p["down"]))
    return out


@pytest.mark.parametrize("layout", ["shifted", "paired", "rotary"])
def test_transformer_against_token_loops(layout):
    learner, params = made(layout)
    x, y = sequences()
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    got = logits_of(layout)(params, x, y)
    hot = lambda label: np.eye(C)[label] if label >= 0 else np.zeros(C)
    for b in range(B):
        xs, ys = np.asarray(x[b], np.float64), [int(label) for label in y[b]]
        if layout != "paired":
            tokens = [
                dense(np.concatenate([xs[t], hot(ys[t - 1] if t else -1)]), p["embed"])
                + (p["positions"][t] if layout == "shifted" else 0)
                for t in range(T)
            ]
            readable = [list(range(t + 1)) for t in range(T)]
            outputs = list(range(T))
        else:
            tokens = [dense(np.concatenate([xs[t], hot(ys[t])]), p["embed"]) for t in range(T)]
            tokens += [
                dense(np.concatenate([xs[t], hot(-1)]), p["embed"]) + p["query"] for t in range(T)
            ]
            readable = [list(range(t + 1)) for t in range(T)]
            readable += [[*range(t), T + t] for t in range(T)]
            outputs = list(range(T, 2 * T))
        for layer in range(2):
            tokens = block(p[f"layers_{layer}"], tokens, readable, layout == "rotary")
        expected = [dense(norm(tokens[i], p["norm"]), p["head"]) for i in outputs]
        np.testing.assert_allclose(got[b], expected, atol=1e-4)
