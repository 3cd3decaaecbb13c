"""What an agent remembers: carried, handed back, and gone when an episode begins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import memory
from jaxrl.distributions import Categorical
from jaxrl.envs.environment import Box, Environment, Step
from jaxrl.memory import MemoryNetwork
from jaxrl.rollout import episode, new_worker, rollout
from tests.jaxrl.tiny import FEATURES, walk

DECAY = 0.5
START = np.zeros(FEATURES, np.float32)


def fading():
    """Logits and value are linear in the decayed sum of the observations of the episode."""

    def init(key, observation):
        key_actor, key_critic = jax.random.split(key)
        return {
            "actor": 0.3 * jax.random.normal(key_actor, (2, FEATURES)),
            "critic": jax.random.normal(key_critic, (FEATURES,)),
            "decay": jnp.float32(DECAY),
        }

    def unroll(params, before, observation, first):
        def one(before, given):
            x, first = given
            after = params["decay"] * jnp.where(first, 0.0, before) + x
            return after, after

        after, sums = jax.lax.scan(one, before, (observation, first))
        return after, Categorical(sums @ params["actor"].T), sums @ params["critic"]

    return MemoryNetwork(init, START, unroll)


NETWORK = fading()
PARAMS = NETWORK.init(jax.random.key(1), START)


@pytest.fixture(scope="module")
def steps():
    env = memory.remembering(walk(), NETWORK.start)
    worker = new_worker(env, (), jax.random.key(2))
    act = memory.acting(NETWORK, PARAMS)
    return rollout(env, (), act, jax.random.key(3), worker, 40)[1]


def test_stored_memories_are_those_computed_again(steps):
    """By a sum in NumPy that begins anew with every episode, whatever ended the one before."""
    assert steps.terminated.any() and steps.truncated.any()
    sums = np.zeros(FEATURES, np.float32)
    for t in range(40):
        np.testing.assert_allclose(steps.observation.memory[t], sums, rtol=1e-5, atol=1e-6)
        sums = DECAY * sums + np.asarray(steps.observation.observation[t])
        np.testing.assert_allclose(steps.action.memory[t], sums, rtol=1e-5, atol=1e-6)
        # The last state of an episode is seen with the memory of that episode.
        np.testing.assert_allclose(steps.next_observation.memory[t], sums, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(steps.extras.value[t], sums @ PARAMS["critic"], rtol=1e-4)
        logits = np.asarray(PARAMS["actor"]) @ sums
        expected = logits[steps.action.action[t]] - np.log(np.exp(logits).sum())
        np.testing.assert_allclose(steps.extras.log_prob[t], expected, rtol=1e-4, atol=1e-5)
        if steps.done[t]:
            sums = np.zeros(FEATURES, np.float32)


def test_greedy_agents_take_the_likeliest_action():
    seen = memory.Remembered(jnp.ones(FEATURES), jnp.array([1.0, 0.5, -0.2]))
    logits = np.asarray(PARAMS["actor"]) @ (DECAY + np.asarray(seen.observation))
    act = memory.acting(NETWORK, PARAMS, greedy=True)
    assert {int(act(jax.random.key(i), seen)[0].action) for i in range(6)} == {logits.argmax()}
    act = memory.acting(NETWORK, jax.tree.map(jnp.zeros_like, PARAMS))
    assert {int(act(jax.random.key(i), seen)[0].action) for i in range(8)} == {0, 1}


def test_actions_are_clipped_and_memories_are_not():
    """The environment shows the action it was given."""
    nothing = jnp.zeros((), bool)
    env = Environment(
        lambda key, params: (jnp.zeros(1), jnp.zeros(1)),
        lambda key, state, action, params: Step(
            action, state, jnp.float32(0.0), nothing, nothing, {}
        ),
        Box((1,), -1.0, 1.0),
        (),
    )
    env = memory.remembering(env, np.zeros(2, np.float32))
    decided = memory.Decided(jnp.array([3.0]), jnp.array([7.0, -7.0]))
    act = lambda key, seen: (decided, ())
    worker = new_worker(env, (), jax.random.key(0))
    after, _ = rollout(env, (), act, jax.random.key(0), worker, 1)
    assert after.observation.observation == 1
    np.testing.assert_array_equal(after.observation.memory, [7, -7])


def test_a_whole_episode_is_played():
    env = memory.remembering(walk(), NETWORK.start)
    _, length = episode(env, (), memory.acting(NETWORK, PARAMS), jax.random.key(0), 10)
    assert 1 <= length <= 3
