"""VSML against loops over cells, and its symmetries."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtta import in_context as icl
from tests.jaxtta.in_context.learners import B, C, N, T, dense, logits_of, made, sequences, sigmoid


def ticked(p, state, rows, columns):
    """A grid after an example, by loops over cells."""
    h, c, forward, backward = state
    for a, of_row in enumerate(rows):
        for k, of_column in enumerate(columns):
            row = np.concatenate([backward[a], of_row])
            column = np.concatenate([forward[k], of_column])
            for _ in range(2):
                gates = dense(row, p["row"]) + column @ p["column"]["kernel"]
                i, g, f, o = np.split(gates + h[a, k] @ p["hidden"]["kernel"], 4)
                c[a, k] = sigmoid(f + 1) * c[a, k] + sigmoid(i) * np.tanh(g)
                h[a, k] = sigmoid(o) * np.tanh(c[a, k])
    forward = [np.mean([dense(x, p["forward"]) for x in h[:, k]], 0) for k in range(len(columns))]
    backward = [np.mean([dense(x, p["backward"]) for x in h[a]], 0) for a in range(len(rows))]
    return h, c, np.stack(forward), np.stack(backward)


def followed(name, a, b):
    """Weights, the first state of an a x b grid, and `(logits, x, label before)` of examples."""
    _, params = made(name)
    x, y = sequences()
    got = logits_of(name)(params, x, y)[0]
    p = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
    state = np.zeros((a, b, 4)), np.zeros((a, b, 4)), np.zeros((b, 2)), np.zeros((a, 2))
    labels = np.concatenate([np.zeros((1, C)), np.eye(C)[np.asarray(y[0])]])
    return p, state, zip(got, np.float64(x[0]), labels, strict=False)


def test_vsml_against_loops_over_cells():
    p, state, examples = followed("vsml", N, C)
    for logits, x, label in examples:
        state = ticked(p["grid"], state, x[:, None], label[:, None])
        np.testing.assert_allclose(logits, state[2][:, 0], atol=1e-5)


def test_the_form_without_symmetries_against_loops_over_cells():
    p, state, examples = followed("unsymmetric_vsml", 2, 2)
    for logits, x, label in examples:
        rows, columns = dense(x, p["inputs"]), dense(label, p["label"])
        state = ticked(p["grid"], state, rows.reshape(2, 16), columns.reshape(2, 4))
        np.testing.assert_allclose(logits, dense(state[2].reshape(-1), p["head"]), atol=1e-5)


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
