"""Cores made by the combinators against closed forms and NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxtrain
from jaxtrain import Core, Model, StepOutput
from jaxtrain.nets import from_linen

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(5, 3)).astype(np.float32)
TARGETS = RNG.normal(size=5).astype(np.float32)
START = np.array([0.5, -1.0, 2.0], np.float32)
BATCH = {"inputs": INPUTS, "targets": TARGETS}
KEY = jax.random.key(0)

LINEAR = Model(
    init=lambda key, inputs: (jnp.asarray(START), ()),
    apply=lambda params, model_state, inputs, *, key, train: (inputs @ params, model_state),
)


def squared_error(outputs, batch):
    return ((outputs - batch["targets"]) ** 2).mean(), {"largest": outputs.max()}


def numpy_descent(num_steps, learning_rate=0.1, momentum=0.0):
    """Iterates of gradient descent with heavy-ball momentum on the mean squared error."""
    w, trace, iterates, losses = START.astype(np.float64), 0.0, [], []
    for _ in range(num_steps):
        error = INPUTS @ w - TARGETS
        losses.append((error**2).mean())
        trace = momentum * trace + 2 * error @ INPUTS / len(INPUTS)
        w = w - learning_rate * trace
        iterates.append(w)
    return iterates, losses


def test_supervised_is_gradient_descent():
    core = jaxtrain.supervised(LINEAR, squared_error, optax.sgd(0.1, momentum=0.9))
    state = core.init(KEY, BATCH)
    iterates, losses = numpy_descent(4, momentum=0.9)
    for w, loss in zip(iterates, losses, strict=True):
        largest = (INPUTS @ np.asarray(state.params)).max()
        state, out = core.update(state, BATCH, KEY)
        np.testing.assert_allclose(state.params, w, rtol=1e-5)
        np.testing.assert_allclose(out.metrics["loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(out.metrics["largest"], largest, rtol=1e-5)


def test_learning_rate_can_be_swept():
    def final(learning_rate):
        core = jaxtrain.supervised(LINEAR, squared_error, optax.sgd(learning_rate))
        return core.update(core.init(KEY, BATCH), BATCH, KEY)[0].params

    rates = np.array([0.01, 0.3])
    expected = [numpy_descent(1, rate)[0][0] for rate in rates]
    np.testing.assert_allclose(jax.vmap(final)(jnp.asarray(rates)), expected, rtol=1e-5)


def test_supervised_owns_its_arrays():
    """A model may hand out arrays it keeps, and an optimiser may keep those it is given."""
    kept = jnp.asarray(START)
    model = LINEAR._replace(init=lambda key, inputs: (kept, ()))
    optimizer = optax.GradientTransformation(
        lambda params: params, lambda grads, state, params: (-0.1 * grads, state)
    )
    core = jaxtrain.supervised(model, squared_error, optimizer)
    state, _ = jax.jit(core.update, donate_argnums=0)(core.init(KEY, BATCH), BATCH, KEY)
    np.testing.assert_allclose(state.params, numpy_descent(1)[0][0], rtol=1e-5)
    np.testing.assert_array_equal(state.opt_state, START)
    np.testing.assert_array_equal(kept, START)


def test_supervised_errors():
    core = jaxtrain.supervised(LINEAR, squared_error, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"'inputs' but got the keys \['x'\]"):
        core.init(KEY, {"x": INPUTS})
    per_example = jaxtrain.supervised(
        LINEAR, lambda outputs, batch: (outputs - batch["targets"], {}), optax.sgd(0.1)
    )
    with pytest.raises(ValueError, match=r"one number but has shape \(5,\); average it"):
        per_example.update(per_example.init(KEY, BATCH), BATCH, KEY)


def test_repeat_is_that_many_updates():
    core = jaxtrain.repeat(
        jaxtrain.supervised(LINEAR, squared_error, optax.sgd(0.1, momentum=0.9)), 3
    )
    state, out = core.update(core.init(KEY, BATCH), BATCH, KEY)
    iterates, losses = numpy_descent(3, momentum=0.9)
    np.testing.assert_allclose(state.params, iterates[-1], rtol=1e-5)
    np.testing.assert_allclose(out.metrics["loss"], losses[-1], rtol=1e-5)
    with pytest.raises(ValueError, match="at least one update per batch but got 0"):
        jaxtrain.repeat(core, 0)


def noise_sum():
    """Adds noise to a number and returns the noise."""

    def update(state, batch, key):
        noise = jax.random.normal(key)
        return state + noise, StepOutput({"noise": noise})

    return Core(lambda: jnp.zeros(()), update)


def test_repeat_gives_every_update_its_own_key():
    core = jaxtrain.repeat(noise_sum(), 3)
    state, out = core.update(core.init(), (), KEY)
    noises = [jax.random.normal(jax.random.fold_in(KEY, i)) for i in range(3)]
    np.testing.assert_allclose(state, sum(noises), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["noise"], noises[-1])


def test_episodic_forgets():
    inner = jaxtrain.supervised(LINEAR, squared_error, optax.sgd(0.1, momentum=0.9))
    core = jaxtrain.episodic(jaxtrain.repeat(inner, 2))
    start = core.init(KEY, BATCH)
    state, first = core.update(start, BATCH, KEY)
    _, second = core.update(state, BATCH, KEY)
    _, losses = numpy_descent(2, momentum=0.9)
    for out in (first, second):
        np.testing.assert_allclose(out.metrics["loss"], losses[1], rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, state, start)


def test_ema_is_the_weighted_sum_of_the_iterates():
    decay = 0.8
    core = jaxtrain.with_ema(jaxtrain.supervised(LINEAR, squared_error, optax.sgd(0.1)), decay)
    state = core.init(KEY, BATCH)
    for _ in range(4):
        state, _ = core.update(state, BATCH, KEY)
    iterates, _ = numpy_descent(4)
    powers = decay ** np.arange(3, -1, -1)
    expected = decay**4 * START + (1 - decay) * powers @ np.array(iterates)
    np.testing.assert_allclose(state.ema, expected, rtol=1e-5)
    np.testing.assert_allclose(state.state.params, iterates[-1], rtol=1e-5)


def test_ema_of_a_chosen_part():
    core = jaxtrain.with_ema(noise_sum(), 0.5, params=lambda state: state)
    state, out = core.update(core.init(), (), KEY)
    np.testing.assert_allclose(state.ema, 0.5 * out.metrics["noise"])


# --- Training on arrays ---------------------------------------------------------------------------

PIXELS = np.random.default_rng(1).integers(0, 256, (7, 3), np.uint8)


def scaled(rows):
    return {"inputs": rows["pixels"] / jnp.float32(255), "targets": rows["targets"]}


def descent_on_rows(batches, learning_rate=0.1):
    """NumPy gradient descent on the given rows of `PIXELS`."""
    w, losses, inputs, targets = START.astype(np.float64), [], PIXELS / 255, np.arange(7) / 7
    for rows in batches:
        error = inputs[rows] @ w - targets[rows]
        losses.append((error**2).mean())
        w = w - learning_rate * 2 * error @ inputs[rows] / len(rows)
    return w, losses


@pytest.mark.parametrize("custom", [False, True], ids=["random_rows", "own_draw"])
def test_training_on_arrays_is_one_update_per_drawn_batch(custom):
    core = jaxtrain.supervised(LINEAR, squared_error, optax.sgd(0.1))

    def backwards(key, num_examples, batch_size):
        first = jax.random.randint(key, (), 0, num_examples)
        return (first - jnp.arange(batch_size)) % num_examples, key

    @jax.jit
    def run(pixels, targets):
        arrays = {"pixels": pixels, "targets": targets}
        options = {"batch_size": 4, "num_steps": 6, "prepare": scaled}
        options |= {"draw": backwards} if custom else {}
        return jaxtrain.on_arrays(core, core.init(KEY, BATCH), arrays, KEY, **options)

    keys = [jax.random.fold_in(KEY, i) for i in range(6)]
    if custom:
        batches = [(int(jax.random.randint(k, (), 0, 7)) - np.arange(4)) % 7 for k in keys]
    else:
        drawn = [jax.random.randint(jax.random.split(k)[0], (4,), 0, 7) for k in keys]
        batches = [np.asarray(rows) for rows in drawn]
    assert len({tuple(rows) for rows in batches}) >= 4
    w, losses = descent_on_rows(batches)
    state, metrics = run(PIXELS, np.float32(np.arange(7) / 7))
    np.testing.assert_allclose(state.params, w, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    assert metrics["largest"].shape == (6,)


def test_every_update_on_arrays_has_the_key_that_its_draw_left():
    core = noise_sum()
    options = {"batch_size": 2, "num_steps": 3}
    state, metrics = jaxtrain.on_arrays(core, core.init(), np.arange(5), KEY, **options)
    keys = [jax.random.split(jax.random.fold_in(KEY, i))[1] for i in range(3)]
    expected = [jax.random.normal(k) for k in keys]
    np.testing.assert_allclose(metrics["noise"], expected, rtol=1e-6)
    np.testing.assert_allclose(state, sum(expected), rtol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "batch_size", "message"),
    [
        ({}, 2, r"the arrays have shapes \[\]; give at least one array"),
        ({"x": np.zeros((0, 3))}, 2, r"shapes \[\(0, 3\)\]; give at least one"),
        ({"x": np.zeros((4, 3)), "y": np.zeros(5)}, 2, "the same number of examples"),
        ({"x": np.zeros(())}, 2, "along the first axis"),
        ({"x": np.zeros(4)}, 0, "batch_size is 0; give 1 or more"),
    ],
)
def test_arrays_that_nothing_can_be_drawn_from(arrays, batch_size, message):
    core = noise_sum()
    with pytest.raises(ValueError, match=message):
        jaxtrain.on_arrays(core, core.init(), arrays, KEY, batch_size=batch_size, num_steps=1)


# --- Linen ----------------------------------------------------------------------------------------


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, inputs, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=0.0)(inputs)
        return nn.Dropout(0.5, deterministic=not train)(x)


def test_linen_statistics_move_in_training_only():
    model = from_linen(Normalised())
    params, model_state = model.init(KEY, INPUTS)
    assert set(params) == {"BatchNorm_0"} and set(model_state) == {"batch_stats"}

    outputs, same = model.apply(params, model_state, INPUTS, key=None, train=False)
    np.testing.assert_allclose(outputs, INPUTS, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, same, model_state)

    outputs, moved = model.apply(params, model_state, INPUTS, key=KEY, train=True)
    normal = 2 * (INPUTS - INPUTS.mean(0)) / INPUTS.std(0)
    kept = np.asarray(outputs) != 0
    assert 0 < kept.sum() < kept.size
    np.testing.assert_allclose(outputs, np.where(kept, normal, 0), rtol=1e-4, atol=1e-5)
    statistics = moved["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * INPUTS.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * INPUTS.var(0), rtol=1e-5)


def test_linen_module_without_modes_or_state():
    model = from_linen(nn.Dense(2))
    params, model_state = model.init(KEY, INPUTS)
    assert model_state == {}
    expected = INPUTS @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    for train in (True, False):
        outputs, model_state = model.apply(params, model_state, INPUTS, key=None, train=train)
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
        assert model_state == {}


def test_statistics_travel_in_the_train_state():
    core = jaxtrain.supervised(
        from_linen(Normalised()),
        lambda outputs, batch: (((outputs - batch["inputs"]) ** 2).mean(), {}),
        optax.sgd(0.1),
    )
    state = core.init(KEY, BATCH)
    for _ in range(2):
        state, _ = core.update(state, BATCH, KEY)
    mean = state.model_state["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, (1 - 0.9**2) * INPUTS.mean(0), rtol=1e-5)


def weighted(table):
    """A core that closes over its table: one step of the mean of the rows that a batch names."""

    def update(state, batch, key):
        mean = table[batch].mean(0)
        return state + mean, StepOutput({"loss": mean.sum()})

    return Core(lambda scale: scale * jnp.ones(table.shape[1]), update)


def test_holding_is_the_core_of_the_arrays_with_them_in_the_state():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(40_000, 3)), jnp.float32)
    core, closed = jaxtrain.holding(weighted), weighted(table)
    rows, key = jnp.arange(5), jax.random.key(0)
    state, expected = core.init(table, 2.0), closed.init(2.0)
    assert state.held.arrays is not table, "a donated state must own its buffers"
    for _ in range(2):
        state, out = jax.jit(core.update)(state, rows, key)
        expected, expected_out = jax.jit(closed.update)(expected, rows, key)
    np.testing.assert_array_equal(state.state, expected)
    np.testing.assert_array_equal(state.held.arrays, table)
    assert out.metrics == expected_out.metrics
    text = lambda core, state: jax.jit(core.update).lower(state, rows, key).as_text()
    assert len(text(core, state)) < 10_000 < table.nbytes < len(text(closed, expected))
