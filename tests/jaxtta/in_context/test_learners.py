"""Every learner: parallel equals online, causality, queries, state sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import trees
from jaxtta import in_context as icl
from tests.jaxtta.in_context.learners import LEARNERS, B, C, N, T, logits_of, made, sequences


@functools.cache
def asked(name):
    """`(params, x, y, queries) -> answers` after reading x and y."""
    learner = made(name)[0]

    def answers(params, x, y, queries):
        return icl.answer(learner, params, learner.read(params, x, y), queries)

    return jax.jit(answers)


@pytest.mark.parametrize("name", LEARNERS)
def test_online_equals_parallel(name):
    learner, params = made(name)
    x, y = sequences()
    whole = logits_of(name)(params, x, y)
    assert whole.shape == (B, T, C)
    online = jax.jit(functools.partial(icl.online, learner))(params, x, y)
    np.testing.assert_allclose(online, whole, atol=1e-5)


@pytest.mark.parametrize("name", LEARNERS)
def test_each_label_counts_from_the_next_position_on(name):
    learner, params = made(name)
    x, y = sequences()
    logits = logits_of(name)
    before = logits(params, x, y)
    for t in range(T):
        other = logits(params, x, y.at[:, t].set((y[:, t] + 1) % C))
        np.testing.assert_array_equal(other[:, : t + 1], before[:, : t + 1])
        if t + 1 < T and name != "mlp":
            assert (jnp.abs(other[:, t + 1] - before[:, t + 1]).max(-1) > 1e-6).all(), t


@pytest.mark.parametrize("name", LEARNERS)
def test_later_examples_leave_earlier_predictions_alone(name):
    _, params = made(name)
    x, y = sequences()
    order = np.array([0, 1, 2, 4, 3])
    moved = logits_of(name)(params, x[:, order], y[:, order])
    before = logits_of(name)(params, x, y)
    np.testing.assert_allclose(moved[:, :3], before[:, :3], atol=1e-6)


@pytest.mark.parametrize("name", LEARNERS)
def test_many_queries_on_one_context(name):
    """Each query alone, at the end of its own sequence, gives the same answer, and the last label
    of the context is not dropped."""
    _, params = made(name)
    x, y = sequences()
    queries = sequences(1, B, 4)[0]
    answers = asked(name)(params, x[:, :-1], y[:, :-1], queries)
    assert answers.shape == (B, 4, C)
    for q in range(4):
        alone = logits_of(name)(params, x.at[:, -1].set(queries[:, q]), y)[:, -1]
        np.testing.assert_allclose(answers[:, q], alone, atol=1e-5)
    if name != "mlp":
        last = y[:, :-1].at[:, -1].set((y[:, -2] + 1) % C)
        changed = asked(name)(params, x[:, :-1], last, queries)
        assert jnp.abs(changed - answers).max() > 1e-6


@pytest.mark.parametrize("name", LEARNERS)
def test_state_size_is_the_size_of_what_is_carried(name):
    learner, params = made(name)
    memory = jax.eval_shape(lambda p: learner.start(p, 1), params)
    assert trees.size(memory.state) == learner.state_size


@pytest.mark.parametrize("name, expected", [
    ("shifted", 2 * 2 * 2 * 4 * (T + 1)),
    ("lstm", 2 * 7),
    ("outer_product_lstm", 2 * 9 + 2 * 3),
    ("fast_weights", 2 * 5 + 27),
    ("vsml", 2 * N * C * 4 + (N + C) * 2),
    ("unsymmetric_vsml", 2 * 4 * 4 + 4 * 2),
    ("mlp", 0),
])  # fmt: skip
def test_state_size_follows_the_published_table(name, expected):
    assert made(name)[0].state_size == expected
