"""Recurrent learners against loops in NumPy."""

import jax
import numpy as np

from jaxtta import in_context as icl
from tests.jaxtta.in_context.learners import B, C, N, T, dense, logits_of, made, sequences, sigmoid


def test_outer_product_lstm_with_one_head_of_size_one_is_scalar_arithmetic():
    learner = icl.outer_product_lstm(N, C, num_heads=1, head_size=1, width=2)
    params = jax.tree.map(
        lambda w: w + 0.3 * jax.random.normal(jax.random.key(w.size), w.shape),
        learner.init(jax.random.key(0)),
    )
    x, y = sequences(num=1)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    h = c = 0.0
    label, expected = np.zeros(C), []
    alpha = np.log1p(np.exp(p["key_scale"]))
    for t in range(T):
        u = np.concatenate([np.asarray(x[0, t], np.float64), label])
        for name in ("first", "second"):
            u = np.maximum(dense(u, p["embed"][name]), 0)
        numbers = dense(np.concatenate([u, [h]]), p["gates"])
        ki, kg, kf, ji, jg, jf, q, o = (float(n) for n in numbers)
        i, g, f = (alpha * np.tanh(a) * np.tanh(b) for a, b in ((ki, ji), (kg, jg), (kf, jf)))
        c = sigmoid(f + 1) * c + sigmoid(i) * g
        h = sigmoid(o) * np.tanh(c * q)
        expected.append(dense(np.array([h]), p["head"]))
        label = np.eye(C)[int(y[0, t])]
    np.testing.assert_allclose(learner.logits(params, x, y)[0], expected, atol=1e-5)


def test_outer_product_lstm_against_loops():
    learner, params = made("outer_product_lstm")
    x, y = sequences()
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    n, s = 2, 3
    got = logits_of("outer_product_lstm")(params, x, y)
    alpha = np.log1p(np.exp(p["key_scale"]))
    for b in range(B):
        h, cell, label = np.zeros(n * s), np.zeros((n, s, s)), np.zeros(C)
        for t in range(T):
            u = np.concatenate([np.asarray(x[b, t], np.float64), label])
            for name in ("first", "second"):
                u = np.maximum(dense(u, p["embed"][name]), 0)
            numbers = dense(np.concatenate([u, h]), p["gates"]).reshape(n, 8 * s)
            new = np.zeros(n * s)
            for head in range(n):
                row = numbers[head]
                k1, k2 = row[: 3 * s].reshape(3, s), row[3 * s : 6 * s].reshape(3, s)
                q, o = row[6 * s : 7 * s], row[7 * s :]
                for i in range(s):
                    for j in range(s):
                        gate = [alpha * np.tanh(k1[g, i]) * np.tanh(k2[g, j]) for g in range(3)]
                        cell[head, i, j] = sigmoid(gate[2] + 1) * cell[head, i, j]
                        cell[head, i, j] += sigmoid(gate[0]) * gate[1]
                for j in range(s):
                    r = sum(cell[head, i, j] * q[i] for i in range(s))
                    new[head * s + j] = sigmoid(o[j]) * np.tanh(r)
            h = new
            np.testing.assert_allclose(got[b, t], dense(h, p["head"]), atol=1e-5)
            label = np.eye(C)[int(y[b, t])]


def test_lstm_against_loops():
    learner, params = made("lstm")
    x, y = sequences()
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    got = logits_of("lstm")(params, x, y)
    for b in range(B):
        h, c, label = np.zeros(7), np.zeros(7), np.zeros(C)
        for t in range(T):
            u = np.concatenate([np.asarray(x[b, t], np.float64), label])
            for name in ("first", "second"):
                u = np.maximum(dense(u, p["embed"][name]), 0)
            i, g, f, o = np.split(dense(np.concatenate([u, h]), p["gates"]), 4)
            c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            np.testing.assert_allclose(got[b, t], dense(h, p["head"]), atol=1e-5)
            label = np.eye(C)[int(y[b, t])]


def test_fast_weights_against_loops():
    """The delta rule by its definition: after writing with beta = 1, the key reads the value."""
    learner, params = made("fast_weights")
    # Keys and values large enough for what a key reads before it is written to matter.
    params = params | {"write": jax.tree.map(lambda a: 20 * a, params["write"])}
    x, y = sequences()
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    got = logits_of("fast_weights")(params, x, y)
    m = 3
    for b in range(B):
        h, c, memory, label = np.zeros(5), np.zeros(5), np.zeros((m, m, m)), np.zeros(C)
        for t in range(T):
            u = np.concatenate([np.asarray(x[b, t], np.float64), label, h])
            i, g, f, o = np.split(dense(u, p["gates"]), 4)
            c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            write = dense(h, p["write"])
            k1, k2, v = np.split(np.tanh(write[:-1]), 3)
            key = np.outer(k1, k2)
            for row in range(m):
                error = v[row] - (memory[row] * key).sum()
                memory[row] += sigmoid(write[-1]) * error * key
            r1, r2 = np.split(np.tanh(dense(h, p["read"])), 2)
            read = np.array([(memory[row] * np.outer(r1, r2)).sum() for row in range(m)])
            read = (read - read.mean()) / np.sqrt(read.var() + 1e-5) * p["norm"]["scale"]
            np.testing.assert_allclose(
                got[b, t], dense(h + dense(read, p["project"]), p["head"]), atol=1e-4
            )
            label = np.eye(C)[int(y[b, t])]
