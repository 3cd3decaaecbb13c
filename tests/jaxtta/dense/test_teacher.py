"""Self-training and looking ahead on a quadratic loss, step by step against NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import optimizers
from jaxtrain.core import Core
from jaxtta.dense.teacher import Lesson, look_ahead, self_training
from tests.jaxtta.images.test_entropy import float64  # noqa: F401

RATE, MOMENTUM, DECAY, SIZE, ROWS = 0.1, 0.9, 0.6, 3, 4
X = np.random.default_rng(0).normal(size=(5, ROWS, 3, SIZE))  # batches, rows, one now and two ahead
START = np.array([1.0, -2.0, 0.5])


def loss(student, teacher, model_state, batch, key):
    """1/2 mean |w - t / 2 - x|^2, whose gradient is w - t / 2 - mean x."""
    off = student["w"] - 0.5 * jax.lax.stop_gradient(teacher["w"]) - batch["x"].mean(0)
    logits = jnp.broadcast_to(teacher["w"][None], batch["x"].shape)
    state = {"seen": model_state["seen"] + batch["x"].sum()}
    return 0.5 * (off**2).sum(), Lesson(state, logits, {"first": off[0]})


SGD = optax.sgd(RATE, momentum=MOMENTUM)
CORE = self_training(loss, SGD, decay=DECAY)
ARGS = {"w": START}, {"seen": np.zeros(())}


class Reference:
    def __init__(self, num_steps=0, leaky=False):
        self.w = self.t = START
        self.m, self.n, self.k, self.leaky = np.zeros(SIZE), 0, num_steps, leaky

    def step(self, w, m, t, x):
        m = MOMENTUM * m + (w - 0.5 * t - x.mean(0))
        return w - RATE * m, m

    def follow(self, t, w):
        share = min(1 - 1 / (self.n + 1), DECAY)
        return share * t + (1 - share) * w

    def deep(self, x):
        w, m, t = self.w, self.m, self.t
        for _ in range(self.k):
            w, m = self.step(w, m, t, x)
            t = self.follow(t, w)
        return m, t

    def wide(self, ahead):
        m, soup = self.m, []
        for x in np.moveaxis(ahead, 1, 0):
            w, after = self.step(self.w, m, self.t, x)
            m = after if self.leaky else m
            soup.append(w)
        return m, self.follow(self.t, np.mean(soup, 0))

    def update(self, x, looked):
        if self.n and looked is not None:
            m, self.t = looked
            self.m = m if self.leaky else self.m
        self.w, self.m = self.step(self.w, self.m, self.t, x)
        self.t, self.n = self.follow(self.t, self.w), self.n + 1


def run(core, batches, args=ARGS):
    """The states after every update."""
    update, state, states = jax.jit(core.update), core.init(*args), []
    for i, batch in enumerate(batches):
        state, _ = update(state, jax.tree.map(jnp.asarray, batch), jax.random.key(i))
        states.append(state)
    return states


def compare(states, reference, looks):
    for i, state in enumerate(states):
        reference.update(X[i, :, 0], looks(i))
        np.testing.assert_allclose(state.params["w"], reference.w, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(state.memory.teacher["w"], reference.t, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(state.opt_state[0].trace["w"], reference.m, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            state.model_state["seen"], X[: i + 1, :, 0].sum(), rtol=1e-5, atol=1e-7
        )
        assert state.memory.num_updates == i + 1


NOW = [{"x": x[:, 0]} for x in X]
BOTH = [{"now": {"x": x[:, 0]}, "ahead": {"x": x[:, 1:]}} for x in X]


def test_a_student_and_its_average():
    compare(run(CORE, NOW), Reference(), lambda i: None)


@pytest.mark.parametrize("leaky", [False, True])
def test_deep(leaky):
    reference = Reference(3, leaky)
    states = run(look_ahead(CORE, 3, leaky_moments=leaky), NOW)
    compare(states, reference, lambda i: reference.deep(X[i, :, 0]))


@pytest.mark.parametrize("leaky", [False, True])
def test_wide(leaky):
    reference = Reference(2, leaky)
    states = run(look_ahead(CORE, 2, "wide", leaky_moments=leaky), BOTH)
    compare(states, reference, lambda i: reference.wide(X[i, :, 1:]))


@pytest.mark.parametrize("kind", ["deep", "wide"])
def test_moments_leak_only_where_they_should(kind):
    batches = NOW if kind == "deep" else BOTH
    tight, leaky = (
        run(look_ahead(CORE, 2, kind, leaky_moments=value), batches)[-1] for value in (False, True)
    )
    assert np.abs(tight.params["w"] - leaky.params["w"]).max() > 1e-2


def test_no_step_ahead_is_the_core_bit_for_bit():
    plain, none = run(CORE, NOW), run(look_ahead(CORE, 0), NOW)
    jax.tree.map(np.testing.assert_array_equal, plain, none)


@pytest.mark.parametrize("leaky", [False, True])
def test_counts_are_of_the_steps_that_count(leaky):
    optimizer = optimizers.adam(optax.linear_schedule(0.1, 0.0, 10))
    core = look_ahead(self_training(loss, optimizer), 3, leaky_moments=leaky)
    after = run(core, NOW)[-1]
    counts = [x for x in jax.tree.leaves(after.opt_state) if x.dtype.kind == "i"]
    assert counts and all(count == len(NOW) for count in counts)


def test_the_keys_of_virtual_steps_are_their_own():
    seen = []

    def update(state, batch, key):
        jax.debug.callback(lambda k: seen.append(tuple(np.asarray(k))), jax.random.key_data(key))
        return CORE.update(state, batch, key)

    run(look_ahead(Core(CORE.init, update), 2), NOW[:1])
    jax.effects_barrier()
    key = jax.random.key(0)
    expected = [jax.random.fold_in(key, i) for i in (1, 2)] + [key]
    assert set(seen) == {tuple(np.asarray(jax.random.key_data(k))) for k in expected}


def test_another_core_may_take_the_virtual_steps():
    still = self_training(loss, optax.sgd(0.0, momentum=MOMENTUM), decay=DECAY)
    state = run(look_ahead(CORE, 3, virtual=still), NOW[:2])[-1]
    reference = Reference()
    reference.update(X[0, :, 0], None)
    for _ in range(3):
        reference.t = reference.follow(reference.t, reference.w)
    reference.update(X[1, :, 0], None)
    np.testing.assert_allclose(state.params["w"], reference.w, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", ["loss", "model_state"])
def test_nothing_moves_where_something_is_not_finite(bad):
    def broken(student, teacher, model_state, batch, key):
        value, lesson = loss(student, teacher, model_state, batch, key)
        if bad == "loss":
            return value * jnp.nan, lesson
        return value, lesson._replace(model_state={"seen": jnp.inf * model_state["seen"]})

    core = self_training(broken, SGD)
    state, out = core.update(core.init(*ARGS), jax.tree.map(jnp.asarray, NOW[0]), jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, state, core.init(*ARGS))
    assert not out.metrics["did_update"] and not out.outputs.selected.any()


def test_other_parameters_stay():
    args = {"w": ARGS[0]["w"], "v": jnp.ones(2)}, ARGS[1]
    core = self_training(loss, SGD, select=lambda path: path == ("w",))
    state = run(core, NOW, args)[-1]
    np.testing.assert_array_equal(state.frozen["v"], 1)
    assert state.params["v"] is None and state.memory.teacher["v"] is None


@pytest.mark.parametrize(
    ("make", "batch", "sentence"),
    [
        (functools.partial(look_ahead, CORE, -1), None, "num_steps=-1"),
        (functools.partial(look_ahead, CORE, 0, "wide"), None, "wide for 1 or more"),
        (functools.partial(look_ahead, CORE, 2, "broad"), None, "kind='broad'"),
        (functools.partial(look_ahead, CORE, 2, "wide"), NOW[0], "'now' and 'ahead'"),
        (functools.partial(look_ahead, CORE, 3, "wide"), BOTH[0], r"lengths \[2\].*num_steps=3"),
    ],
)
def test_impossible_looks_are_named(make, batch, sentence):
    with pytest.raises(ValueError, match=sentence):
        core = make()
        jax.eval_shape(lambda: core.update(core.init(*ARGS), batch, jax.random.key(0)))
