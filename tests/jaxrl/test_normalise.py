"""Running moments and scaled rewards against everything seen, in lists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import normalise


def test_moments_are_those_of_everything_seen():
    rng = np.random.default_rng(0)
    parts = [rng.normal(3, 2, (n, 2)).astype(np.float32) for n in (4, 1, 20)]
    moments = normalise.no_moments(jnp.zeros(2))
    np.testing.assert_array_equal(normalise.standardise(moments, jnp.ones(2)), [1, 1])
    for part in parts:
        moments = normalise.update_moments(moments, jnp.asarray(part))
    everything = np.concatenate(parts)
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, everything.var(0), rtol=1e-5)
    expected = (everything[0] - everything.mean(0)) / everything.std(0)
    found = normalise.standardise(moments, jnp.asarray(everything[0]))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_far_values_are_clipped():
    moments = normalise.Moments(jnp.float32(9), jnp.zeros(2), jnp.full(2, 4.0))
    found = normalise.standardise(moments, jnp.array([100.0, -100.0]))
    np.testing.assert_array_equal(found, [10, -10])
    found = normalise.standardise(moments, jnp.array([100.0, -6.0]), clip=3.5)
    np.testing.assert_allclose(found, [3.5, -3], rtol=1e-6)


def test_without_moments_a_value_stays():
    assert normalise.standardise((), 3.0) == 3.0


def test_returns_restart_with_each_episode():
    reward, done = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([False, True, False, False])
    left, running = normalise.returns_so_far(jnp.float32(10.0), reward, done, 0.5)
    np.testing.assert_allclose(running, [6.0, 5.0, 3.0, 5.5])
    assert left == 5.5
    left, _ = normalise.returns_so_far(jnp.float32(10.0), reward[:2], done[:2], 0.5)
    assert left == 0.0


@pytest.mark.parametrize("axis_name", [None, "data"])
def test_rewards_are_in_units_of_the_deviation_of_returns(axis_name):
    """Two rollouts of four workers, all at once and in two shards."""
    rng, gamma = np.random.default_rng(2), 0.8
    rewards = rng.normal(1, 3, (2, 4, 5)).astype(np.float32)
    done = rng.uniform(size=(2, 4, 5)) < 0.3
    assert done.any()
    fun = lambda moments, before, reward, done: normalise.scaled_rewards(
        moments, before, reward, done, gamma=gamma, axis_name=axis_name
    )
    if axis_name:
        fun = jax.vmap(fun, (None, 0, 0, 0), axis_name=axis_name, out_axes=(0, 0, None))
    shape = (lambda x: x.reshape(2, 2, *x.shape[1:])) if axis_name else (lambda x: x)
    moments, before = normalise.no_moments(jnp.float32(0)), jnp.zeros(4)
    sums, seen = np.zeros(4), []
    for r, d in zip(rewards, done, strict=True):
        found, before, moments = fun(moments, shape(before), shape(r), shape(d))
        before = before.reshape(4)
        for t in range(5):
            sums = gamma * sums + r[:, t]
            seen += list(sums)
            sums = np.where(d[:, t], 0.0, sums)
        np.testing.assert_allclose(found.reshape(4, 5), r / np.std(seen), rtol=1e-3)
        np.testing.assert_allclose(before, sums, rtol=1e-4, atol=1e-5)
