"""Rollouts against a loop of single steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import envs
from jaxrl.envs import bandit, cart_pole
from jaxrl.envs.cart_pole import CartPoleParams
from jaxrl.rollout import (
    check_places,
    episode,
    new_worker,
    put_workers,
    rollout,
    take_workers,
)


def always(action):
    return lambda key, observation: (jnp.int32(action), observation[0])


def test_rollout_is_a_loop_of_steps():
    env = cart_pole(CartPoleParams(max_steps=12))
    worker = new_worker(env, env.params, jax.random.key(0))
    after, steps = rollout(env, env.params, always(1), jax.random.key(1), worker, 40)
    state, observation = worker.state, worker.observation
    total, length, ends = 0.0, 0, 0
    for t in range(40):
        np.testing.assert_array_equal(steps.observation[t], observation)
        np.testing.assert_array_equal(steps.extras[t], observation[0])
        step = env.step(jax.random.key(0), state, 1, env.params)
        np.testing.assert_allclose(steps.next_observation[t], step.observation, rtol=1e-5)
        total, length = total + 1, length + 1
        assert steps.episode_return[t] == total and steps.episode_length[t] == length
        assert steps.terminated[t] == step.terminated and steps.truncated[t] == step.truncated
        state, observation = step.state, steps.next_observation[t]
        if steps.done[t]:
            total, length, ends = 0.0, 0, ends + 1
            observation = steps.observation[t + 1] if t < 39 else after.observation
            assert np.abs(observation).max() <= 0.05  # a new episode
            state = state._replace(physics=observation, time=jnp.int32(0))
    assert ends >= 3 and steps.terminated.any()
    np.testing.assert_allclose(after.observation, observation, rtol=1e-5)


def test_two_halves_are_the_whole():
    env = bandit(2, max_steps=7)
    start = new_worker(env, env.params, jax.random.key(0))
    middle, first = rollout(env, env.params, always(1), jax.random.key(1), start, 5)
    _, second = rollout(env, env.params, always(1), jax.random.key(2), middle, 5)
    lengths = np.concatenate([first.episode_length, second.episode_length])
    assert lengths.tolist() == [1, 2, 3, 4, 5, 6, 7, 1, 2, 3]
    assert second.truncated.tolist() == [False, True, False, False, False]


def test_episode_counts_the_first_episode_only():
    env = cart_pole()
    keys = jax.random.split(jax.random.key(0), 16)
    run = lambda key: episode(env, env.params, always(0), key, 500)
    totals, lengths = jax.jit(jax.vmap(run))(keys)
    np.testing.assert_array_equal(totals, lengths)
    assert 7 < lengths.min() and lengths.max() < 12  # pushing one way, the pole falls
    total, length = episode(env, env.params, always(0), keys[0], 5)
    assert total == length == 5


@pytest.mark.parametrize("axis_name", [None, "data"])
def test_workers_are_taken_and_put_back(axis_name):
    tree = (jnp.arange(6.0), jnp.arange(6) % 2 == 0)
    order = jnp.array([[4, 1, 0], [5, 2, 3]])

    def shard(index):
        mine = take_workers(tree, index)
        new = (mine[0] + 10, ~mine[1])
        return put_workers(tree, index, new, axis_name)

    if axis_name:
        found = jax.vmap(shard, axis_name="data", out_axes=None)(order)
    else:
        found = shard(order.reshape(-1))
    np.testing.assert_array_equal(found[0], np.arange(6) + 10)
    np.testing.assert_array_equal(found[1], np.arange(6) % 2 == 1)


@pytest.mark.parametrize(
    ("places", "sentence"),
    [
        (jnp.arange(2), "names 2"),
        (jnp.arange(8), "names 8"),
        (jnp.array([0, 1, 1, 3]), "each of them once"),
        (jnp.array([1, 2, 3, 4]), "each of them once"),
        (jnp.arange(4.0), "holds float32"),
        (jnp.zeros((2, 2), int), "is a "),
        (None, "is a NoneType"),
    ],
)
def test_batches_that_are_not_all_places_are_refused(places, sentence):
    with pytest.raises(ValueError, match=rf"places of the workers, arange\(4\), but .*{sentence}"):
        check_places(places, "workers", 4)


def test_shards_share_the_places_evenly():
    check_places(np.array([2, 0, 3, 1]), "workers", 4)
    check = lambda places: check_places(places, "workers", 4, "data")
    jax.vmap(check, axis_name="data")(jnp.arange(4).reshape(2, 2))
    with pytest.raises(ValueError, match="names 1 on each of 2 devices"):
        jax.vmap(check, axis_name="data")(jnp.arange(2).reshape(2, 1))


@pytest.mark.parametrize("family", ["grid_world", "cart_pole", "pendulum", "bandit"])
def test_rollouts_and_episodes_run_with_numbers_of_64_bits(family):
    """States keep their types, so that loops over them compile, and episodes are the same."""

    def run():
        if family == "grid_world":
            env = envs.grid_world(envs.FAMILIES["small"].shape)
            params = envs.sample_level(envs.FAMILIES["small"], jax.random.key(0))
        else:
            env = envs.bandit(3) if family == "bandit" else getattr(envs, family)()
            params = env.params
        act = always(1) if family != "pendulum" else lambda key, _: (jnp.ones(1), ())
        start = new_worker(env, params, jax.random.key(0))
        after, steps = rollout(env, params, act, jax.random.key(1), start, 4)
        types = lambda tree: [x.dtype for x in jax.tree.leaves(tree)]
        assert types(after) == types(start)
        assert steps.reward.shape == (4,)
        return episode(env, params, act, jax.random.key(2), 4)[1]

    with jax.enable_x64(True):
        wide = run()
    assert wide == run()
