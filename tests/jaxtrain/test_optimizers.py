"""Adam, AdamW and SGD with a clip, a schedule and accumulation against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import optimizers
from jaxtrain.schedules import applied_rate

GRADIENTS = np.random.default_rng(0).normal(0, 3, (6, 2, 2)).astype(np.float32)
START = np.float32([[1.0, -2.0], [0.5, 3.0]])
RATES = 0.1 * 0.5 ** np.arange(6)
SCHEDULE = optax.exponential_decay(0.1, 1, 0.5)


def clipped(gradient, max_norm):
    """A gradient of at most that Euclidean length, in the same direction."""
    return gradient * min(1.0, max_norm / np.sqrt((gradient**2).sum()))


def by_loop(rule, gradients, rates, max_norm, eps=1e-8, eps_root=0.0, decay=0.0, momentum=0.0):
    """Parameters after each gradient, `rule` being adam or sgd."""
    w, first, second, found = np.float64(START), 0.0, 0.0, []
    for t, (g, rate) in enumerate(zip(np.float64(gradients), rates, strict=True), 1):
        g = clipped(g, max_norm)
        if rule == "adam":
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
            size = np.sqrt(second / (1 - 0.999**t) + eps_root) + eps
            w = w - rate * (first / (1 - 0.9**t) / size + decay * w)
        else:
            first = momentum * first + g
            w = w - rate * first
        found.append(w)
    return np.array(found)


def run(optimizer, gradients=GRADIENTS):
    @jax.jit
    def one(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    params = jnp.asarray(START)
    (_, state), found = jax.lax.scan(one, (params, optimizer.init(params)), jnp.asarray(gradients))
    return found, state


ADAM, DECAY = {"eps": 1e-2, "eps_root": 1e-3}, {"eps": 1e-2, "eps_root": 1e-3, "weight_decay": 0.1}
CASES = [
    ("adam", ADAM, ("adam", 1e-2, 1e-3)),
    ("adamw", DECAY, ("adam", 1e-2, 1e-3, 0.1)),
    ("sgd", {"momentum": 0.7}, ("sgd", 0.0, 0.0, 0.0, 0.7)),
]


@pytest.mark.parametrize(("name", "options", "reference"), CASES, ids=lambda x: str(x)[:5])
def test_steps_are_those_of_a_loop(name, options, reference):
    rule, *numbers = reference
    make = getattr(optimizers, name)
    for rate, rates in ((0.1, np.full(6, 0.1)), (SCHEDULE, RATES)):
        for max_norm in (None, 2.0):
            found, state = run(make(rate, max_norm=max_norm, **options))
            expected = by_loop(rule, GRADIENTS, rates, max_norm or np.inf, *numbers)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
            kept = applied_rate(state)
            if callable(rate):
                np.testing.assert_allclose(kept["learning_rate"], rates[-1], rtol=1e-6)
            else:
                assert not kept


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_accumulated_gradients_are_averaged_and_then_clipped(name):
    """Three batches for one step; the schedule counts steps."""
    found, state = run(getattr(optimizers, name)(SCHEDULE, max_norm=2.0, accumulate=3))
    means = GRADIENTS.reshape(2, 3, 2, 2).mean(1)
    decay = 1e-4 if name == "adamw" else 0.0
    rule = "sgd" if name == "sgd" else "adam"
    expected = by_loop(rule, means, RATES[:2], 2.0, decay=decay)
    np.testing.assert_array_equal(found[:2], [START, START])
    np.testing.assert_allclose(found[2::3], expected, rtol=1e-4)
    np.testing.assert_allclose(applied_rate(state)["learning_rate"], RATES[1], rtol=1e-6)


def test_numbers_may_be_swept():
    """One program for several rates, clips and decays; equals one by one."""

    def end(rate, max_norm, decay):
        return run(optimizers.adamw(rate, max_norm=max_norm, weight_decay=decay))[0][-1]

    settings = [jnp.float32(x) for x in ([0.1, 0.2], [1.0, 5.0], [0.0, 0.3])]
    together = jax.vmap(end)(*settings)
    for i in range(2):
        np.testing.assert_allclose(together[i], end(*(float(x[i]) for x in settings)), rtol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.01


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_steps_of_an_update_share_a_rate(name):
    make = getattr(optimizers, name)
    _, state = run(make(SCHEDULE, steps_per_update=3))
    np.testing.assert_allclose(applied_rate(state)["learning_rate"], RATES[1], rtol=1e-6)
    found, _ = run(make(SCHEDULE, steps_per_update=3))
    plain, _ = run(make(0.1))
    np.testing.assert_allclose(found[:3], plain[:3], rtol=1e-5)
    assert np.abs(found[3] - plain[3]).max() > 1e-3


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize(
    ("rate", "options", "sentence"),
    [
        (-0.1, {}, "learning_rate is -0.1"),
        (float("nan"), {}, "learning_rate is nan"),
        (0.1, {"max_norm": 0.0}, "max_norm is 0.0"),
        (0.1, {"accumulate": 0}, "accumulate is 0"),
        (SCHEDULE, {"steps_per_update": 0}, "steps_per_update is 0"),
    ],
)
def test_impossible_numbers_are_refused(name, rate, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        getattr(optimizers, name)(rate, **options)
