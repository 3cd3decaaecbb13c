"""VSML against loops over cells, and its symmetries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta import in_context as icl
from tests.jaxtta.in_context.learners import B, C, N, T, dense, logits_of, made, sequences, sigmoid


def test_vsml_against_loops_over_cells():
    learner, params = made("vsml")
    x, y = sequences(num=1)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)["grid"]
    got = logits_of("vsml")(params, x, y)
    size, message = 4, 2
    h, c = np.zeros((N, C, size)), np.zeros((N, C, size))
    forward, backward, label = np.zeros((C, message)), np.zeros((N, message)), np.zeros(C)
    for t in range(T):
        for a in range(N):
            for k in range(C):
                row = np.concatenate([backward[a], [float(x[0, t, a])]])
                column = np.concatenate([forward[k], [label[k]]])
                for _ in range(2):
                    gates = dense(row, p["row"]) + column @ p["column"]["kernel"]
                    i, g, f, o = np.split(gates + h[a, k] @ p["hidden"]["kernel"], 4)
                    c[a, k] = sigmoid(f + 1) * c[a, k] + sigmoid(i) * np.tanh(g)
                    h[a, k] = sigmoid(o) * np.tanh(c[a, k])
        forward = np.stack(
            [np.mean([dense(h[a, k], p["forward"]) for a in range(N)], 0) for k in range(C)]
        )
        backward = np.stack(
            [np.mean([dense(h[a, k], p["backward"]) for k in range(C)], 0) for a in range(N)]
        )
        np.testing.assert_allclose(got[0, t], forward[:, 0], atol=1e-5)
        label = np.eye(C)[int(y[0, t])]


@pytest.mark.slow
def test_vsml_permutes_with_inputs_and_classes_and_takes_any_size():
    learner, params = made("vsml")
    x, y = sequences()
    got = logits_of("vsml")(params, x, y)
    inputs, classes = np.array([3, 1, 5, 0, 2, 4]), np.array([2, 0, 1])
    np.testing.assert_allclose(logits_of("vsml")(params, x[..., inputs], y), got, atol=1e-5)
    renamed = logits_of("vsml")(params, x, jnp.asarray(classes)[y])
    np.testing.assert_allclose(renamed[..., classes], got, atol=1e-5)
    wider = icl.vsml(9, 5, hidden_size=4, message_size=2)
    more = wider.logits(params, *sequences(inputs=9, classes=5))
    assert more.shape == (B, T, 5)
    # Control: the form without symmetries has none.
    other, weights = made("unsymmetric_vsml")
    before = logits_of("unsymmetric_vsml")(weights, x, y)
    moved = logits_of("unsymmetric_vsml")(weights, x[..., inputs], y)
    assert jnp.abs(moved - before).max() > 1e-3
