"""Sharpening of tables: single steps against loops over samples, and where it comes to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl.lm.sharpening import amortise, regress
from jaxrl.lm.tasks import tables

V, L, X, N, P = 2, 2, 3, 4, 5
BASE = tables.random_policy(jax.random.key(0), V, L, 1.5, X)
PLACES, KEY = np.arange(P), jax.random.key(1)


def draw(base, places, key, number=N):
    """A place and the key give a prompt and its samples."""

    def at(place):
        key_prompt, key_draws = jax.random.split(jax.random.fold_in(key, place))
        prompt = jax.random.randint(key_prompt, (), 0, X)
        keys = jax.random.split(key_draws, number)
        return jax.vmap(lambda key: tables.draw(key, base, prompt))(keys)

    numbers = jax.vmap(at)(places)
    return numbers, jax.vmap(functools.partial(log_prob, base))(numbers)


def log_prob(params, numbers):
    return jax.vmap(functools.partial(tables.log_prob_of, params))(numbers)


def counted(params):
    """Of every sequence, by another way."""
    return tables.log_probs(jax.tree.map(jax.nn.log_softmax, params))


def close(found, expected):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), found, expected)


def one_step(core, loss):
    """What an update changes, and what the gradient of `loss(counted log-probabilities)` does."""
    state, out = jax.jit(core.update)(core.init(BASE), PLACES, KEY)
    value, slope = jax.value_and_grad(lambda params: loss(counted(params)))(BASE)
    close(state.params, jax.tree.map(lambda p, g: p - 0.5 * g, BASE, slope))
    close(state.reference, BASE)
    np.testing.assert_allclose(out.metrics["loss"], value, rtol=1e-5)
    return out


def samples():
    return np.asarray(draw(BASE, PLACES, KEY)[0]), np.asarray(counted(BASE))


@pytest.mark.parametrize("compared", [None, 2, 1])
def test_the_most_probable_sample_is_imitated(compared):
    drawn, base = samples()
    best = [max(row[:compared], key=lambda y: base[y]) for row in drawn]
    core = amortise(draw, log_prob, optax.sgd(0.5), num_samples=compared)
    out = one_step(core, lambda log_prob: -log_prob[jnp.array(best)].mean())
    np.testing.assert_allclose(out.outputs, base[best], rtol=1e-5)
    np.testing.assert_allclose(out.metrics["own_log_prob"], base[best].mean(), rtol=1e-5)


def test_regression_is_on_pairs_of_one_prompt():
    drawn, base = samples()
    pairs = [(row[i], row[i + N // 2]) for row in drawn for i in range(N // 2)]

    def loss(log_prob):
        gain = lambda y: log_prob[y] - base[y]
        gaps = [0.7 * (gain(y) - gain(z)) - (base[y] - base[z]) for y, z in pairs]
        return (jnp.stack(gaps) ** 2).mean()

    one_step(regress(draw, log_prob, optax.sgd(0.5), beta=0.7), loss)


def trained(core):
    step = lambda state, i: (core.update(state, PLACES, jax.random.fold_in(KEY, i))[0], None)
    run = jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(600))[0])
    return np.exp(counted(run(core.init(BASE)).params)).reshape(X, -1)


def test_what_sharpening_comes_to():
    """Imitation to the law of best-of-N, regression to the power; with N = 1 to the base."""
    rate = optax.adam(optax.linear_schedule(0.1, 0.0, 600))
    base = counted(BASE).reshape(X, -1)
    distance = lambda found, goal: np.abs(found - np.asarray(goal)).sum(1).max() / 2
    four = trained(amortise(draw, log_prob, rate))
    assert distance(four, jax.vmap(lambda p: tables.best_of(p, N))(base)) < 0.06
    assert distance(four, np.exp(base)) > 0.2
    power = trained(regress(draw, log_prob, rate, beta=0.5))
    assert distance(power, np.exp(jax.vmap(lambda p: tables.power(p, 3.0))(base))) < 1e-3
    one = trained(amortise(draw, log_prob, rate, num_samples=1))
    assert distance(one, np.exp(base)) < 0.1  # control: nothing is sharpened


def test_samples_must_be_pairs():
    core = regress(functools.partial(draw, number=3), log_prob, optax.sgd(0.5), beta=1.0)
    with pytest.raises(ValueError, match="3 samples are no pairs"):
        jax.eval_shape(core.update, core.init(BASE), PLACES, KEY)
