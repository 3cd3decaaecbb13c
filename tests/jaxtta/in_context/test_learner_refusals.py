"""What does not fit a learner: refused where it is known, visible in compiled programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta import in_context as icl
from tests.jaxtta.in_context.learners import B, C, N, T, logits_of, made, sequences
from tests.jaxtta.in_context.test_learners import asked

WITH_PLACES = ("shifted", "paired", "rotary")


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: icl.transformer(N, C, T, layout="mixed"), "choose one of shifted, paired"),
        (lambda: icl.transformer(N, C, T, positions="sinus"), "learned, rotary, none"),
        (
            lambda: icl.transformer(N, C, T, layout="paired", positions="learned"),
            "has no positions",
        ),
        (lambda: icl.transformer(N, C, T, positions="rotary", key_size=6), "divisible by 4"),
        (
            lambda: logits_of("lstm")(made("lstm")[1], *sequences(inputs=N + 1)),
            r"need shape \[B, T, 6\]",
        ),
        (
            lambda: logits_of("paired")(made("paired")[1], *sequences(length=T + 1)),
            "hold 6 examples but the learner has places for 5",
        ),
        (
            lambda: logits_of("vsml")(made("vsml")[1], sequences()[0], sequences(length=2)[1]),
            "one per input",
        ),
    ],
)
def test_impossible_calls_are_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@functools.cache
def stepped(name):
    return jax.jit(made(name)[0].step)


@functools.cache
def full(name):
    """The learner, its parameters, a memory of as many examples as it has places, and those."""
    learner, params = made(name)
    x, y = sequences(length=learner.max_length)
    return learner, params, jax.jit(learner.read)(params, x, y), x, y


@pytest.mark.parametrize("name", WITH_PLACES)
def test_online_over_more_examples_than_places_is_refused(name):
    learner, params = made(name)
    x, y = sequences(length=learner.max_length + 1)
    with pytest.raises(ValueError, match="places for"):
        icl.online(learner, params, x, y)


@pytest.mark.parametrize("name", WITH_PLACES)
def test_a_full_memory_answers_right_or_not_at_all(name):
    """Without learned positions a query needs no place: it is answered as by a larger learner."""
    learner, params, memory, x, y = full(name)
    queries = sequences(1, B, 3)[0]
    if name == "shifted":
        with pytest.raises(ValueError, match="read 6 examples .* at most 5"):
            icl.answer(learner, params, memory, queries)
        assert np.isnan(asked(name)(params, x, y, queries)).all()
        return
    found = asked(name)(params, x, y, queries)
    options = {"layout": "paired"} if name == "paired" else {"positions": "rotary"}
    larger = icl.transformer(N, C, T + 1, num_layers=2, width=8, num_heads=2, key_size=4, **options)
    logits = jax.jit(larger.logits)
    for q in range(3):
        x_all = jnp.concatenate([x, queries[:, q, None]], axis=1)
        y_all = jnp.concatenate([y, y[:, :1]], axis=1)
        expected = logits(params, x_all, y_all)[:, -1]
        np.testing.assert_allclose(found[:, q], expected, atol=1e-5)


@pytest.mark.parametrize("name", WITH_PLACES)
def test_a_step_beyond_the_last_place_is_seen_and_overwrites_nothing(name):
    learner, params, memory, x, y = full(name)
    step = stepped(name)
    after, logits = step(params, memory, x[:, 0], y[:, 0])
    assert np.isnan(logits).all() == (name == "shifted")
    further, logits = step(params, after, x[:, 0], y[:, 0])
    assert np.isnan(logits).all()
    assert after.position == learner.max_length + 1 and further.position == after.position + 1
    jax.tree.map(np.testing.assert_array_equal, further.state, memory.state)
    with pytest.raises(ValueError, match="build it with a larger length"):
        learner.step(params, after, x[:, 0], y[:, 0])
    with pytest.raises(ValueError, match="build it with a larger length"):
        icl.answer(learner, params, after, x)


@pytest.mark.parametrize("name", ["shifted", "lstm", "online"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(x=jnp.ones((B, N + 1))), r"inputs of a step need shape \[2, 6\]"),
        (dict(x=jnp.ones((B + 1, N))), r"inputs of a step need shape \[2, 6\]"),
        (dict(y=jnp.zeros((B, 1), int)), r"labels of a step need shape \[2\]"),
        (dict(y=jnp.zeros(B)), "integers from 0 to 2 but are float32"),
        (dict(y=jnp.array([0, 3])), "from 0 to 2 but go from 0 to 3"),
        (dict(y=jnp.array([-1, 1])), "from 0 to 2 but go from -1 to 1"),
    ],
)
def test_impossible_steps_are_named(name, change, sentence):
    learner, params = made(name)
    given = dict(x=jnp.ones((B, N)), y=jnp.zeros(B, int)) | change
    with pytest.raises(ValueError, match=sentence):
        learner.step(params, learner.start(params, B), **given)


X, Y = np.ones((3, N), np.float32), np.array([0, 1, 2])


@pytest.mark.parametrize("name", ["shifted", "lstm"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(y=Y + 1), "from 0 to 2 but go from 1 to 3"),
        (dict(y=Y - 1), "from 0 to 2 but go from -1 to 1"),
        (dict(y=Y + 3), "from 0 to 2 but go from 3 to 5"),
        (dict(y=Y.astype(np.float32)), "integers from 0 to 2 but are float32"),
        (dict(y=np.array([0, np.nan, 1])), "integers from 0 to 2 but are float"),
        (dict(y=[0.5, 1, 2]), "integers from 0 to 2 but are float"),
        (dict(y=Y[:2]), "one per input"),
        (dict(x=X[:0], y=Y[:0]), "hold no example"),
        (dict(queries=np.ones((2, N + 1))), r"queries need shape \[1, Q, 6\]"),
        (dict(x=np.ones((3, N - 1))), r"need shape \[B, T, 6\]"),
    ],
)
def test_impossible_sets_are_named(name, change, sentence):
    learner, params = made(name)
    given = dict(x=X, y=Y, queries=np.ones((2, N))) | change
    with pytest.raises(ValueError, match=sentence):
        icl.predict(learner, params, **given)


def test_a_set_after_which_no_query_fits_is_refused():
    learner, params = made("shifted")
    x, y = sequences(num=1, length=T + 1)
    with pytest.raises(ValueError, match="holds 6 examples but .* after at most 5"):
        icl.predict(learner, params, x[0], y[0], x[0])
    learner, params = made("paired")
    fits = jax.eval_shape(lambda: icl.predict(learner, params, x[0, :T], y[0, :T], x[0]))
    assert fits.shape == (T + 1, C)


def test_wrong_labels_give_nan_in_a_compiled_program():
    learner, params = made("lstm")
    x, y = sequences()
    predict = jax.jit(lambda y: icl.predict(learner, params, x[0], y, x[1]))
    assert np.isfinite(predict(y[0])).all()
    for wrong in (y[0].at[1].set(C), y[0].at[1].set(-1)):
        assert np.isnan(predict(wrong)).all()
    online = jax.jit(functools.partial(icl.online, learner))(params, x, y.at[1, 0].set(C))
    assert np.isfinite(online[0]).all() and np.isnan(online[1]).all()


def test_scores_need_a_label_of_every_prediction():
    with pytest.raises(ValueError, match="need labels"):
        icl.score(jnp.zeros((B, T, C)), jnp.zeros((B, T - 1), int))
    with pytest.raises(ValueError, match="go from 3 to 3"):
        icl.score(jnp.zeros((B, T, C)), jnp.full((B, T), C))


def test_one_sequence_has_no_standard_error():
    learner, params = made("lstm")
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="needs two sequences"):
        icl.meta_test(
            learner, params, key, key, {}, icl.Projection(N, N), length=T, num_tasks=1,
            num_sequences=1, batch_size=1,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.arange(1, 7), "from 0 to 5 but go from 1 to 6"),
        (np.linspace(0, 1, 6), "integers from 0 to 5"),
        (np.arange(5), r"inputs \[n, N\] and labels \[n\]"),
    ],
)
def test_data_sets_with_other_labels_are_refused(labels, sentence):
    data = icl.Data(np.ones((6, N), np.float32), labels)
    with pytest.raises(ValueError, match=sentence):
        icl.sampler(
            data, jax.random.key(0), icl.Projection(N, N), 6, length=2, batch_size=2, num_tasks=1
        )


@pytest.mark.parametrize("index", [np.arange(3), np.array([0, 2]), np.array([-1, 0])])
def test_places_outside_the_batch_are_refused(index):
    data = icl.Data(np.ones((6, N), np.float32), np.arange(6) % C)
    sample = icl.sampler(
        data, jax.random.key(0), icl.Projection(N, N), C, length=2, batch_size=2, num_tasks=1
    )
    with pytest.raises(ValueError, match="go from 0 to 1, each at most once"):
        sample(jax.random.key(0), index)
