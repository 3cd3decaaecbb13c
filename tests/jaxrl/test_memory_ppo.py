"""PPO of agents with memory: one update against a loop over segments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl import drift, memory, minibatches
from jaxrl.distributions import Categorical
from jaxrl.memory import MemoryNetwork
from jaxrl.memory_ppo import Window, in_segments, memory_ppo, segment_loss
from jaxrl.minibatches import Samples
from jaxrl.rollout import rollout
from tests.jaxrl.test_memory import fading
from tests.jaxrl.test_returns import GAMMA, LAMBDA, advantages_by_loop
from tests.jaxrl.tiny import FEATURES, linear, walk

WORKERS, STEPS, LENGTH = 2, 8, 4
NETWORK, INDEX = fading(), np.arange(WORKERS)
ENV = memory.remembering(walk(), NETWORK.start)


def make(network=NETWORK, **options):
    options = {"num_epochs": 1, "num_minibatches": 1, "segment": LENGTH} | options
    return memory_ppo(
        walk(),
        network,
        optax.sgd(0.1),
        num_workers=WORKERS,
        num_steps=STEPS,
        gamma=GAMMA,
        lambda_=LAMBDA,
        **options,
    )


@functools.cache
def start():
    return jax.jit(make().init)(jax.random.key(3))


@jax.jit
def played(params, key, worker):
    return rollout(ENV, (), memory.acting(NETWORK, params), key, worker, LENGTH)


def segments(state, key):
    """The segments of all workers: starting memory and steps, one after the other."""
    found, workers = [], []
    for i in range(WORKERS):
        worker = jax.tree.map(lambda x, i=i: x[i], state.workers)
        for k in jax.random.split(key, STEPS // LENGTH):
            before = np.asarray(worker.observation.memory)
            worker, steps = played(state.params, jax.random.fold_in(k, i), worker)
            found.append((before, jax.tree.map(np.asarray, steps)))
        workers.append(worker)
    return found, jax.tree.map(lambda *x: np.stack(x), *workers)


def clipped_loss(params, data):
    """PPO's loss as it is usually written, the sums unrolled from the memory of their segment."""
    total = 0.0
    for before, steps, advantage, target, old_value in data:
        sums = before
        for t in range(LENGTH):
            if t and steps.done[t - 1]:
                sums = np.zeros(FEATURES, np.float32)
            sums = params["decay"] * sums + steps.observation.observation[t]
            p = jax.nn.softmax(params["actor"] @ sums)
            ratio = p[steps.action.action[t]] / np.exp(steps.extras.log_prob[t])
            a = advantage[t]
            surrogate = jnp.minimum(ratio * a, jnp.clip(ratio, 0.8, 1.2) * a)
            v = params["critic"] @ sums
            clipped = old_value[t] + jnp.clip(v - old_value[t], -0.2, 0.2)
            error = jnp.maximum((v - target[t]) ** 2, (clipped - target[t]) ** 2)
            entropy = -(p * jnp.log(p)).sum()
            total += -surrogate + 0.25 * error - 0.01 * entropy
    return total / (WORKERS * STEPS)


def test_an_update_is_a_loop_over_segments():
    core, key = make(), jax.random.key(0)
    found, out = jax.jit(core.update)(start(), INDEX, key)
    params = jax.tree.map(np.asarray, start().params)
    parts, workers = segments(start(), jax.random.split(key)[0])
    value = lambda seen: (params["decay"] * seen.memory + seen.observation) @ params["critic"]
    data = []
    for i in range(WORKERS):
        mine = parts[i * 2 : i * 2 + 2]
        joined = lambda name, mine=mine: np.concatenate([getattr(s, name) for _, s in mine])
        old = np.concatenate([value(s.observation) for _, s in mine])
        following = np.concatenate([value(s.next_observation) for _, s in mine])
        flags = joined("terminated"), joined("truncated")
        a = advantages_by_loop(joined("reward"), old, following, *flags)
        data += [
            (before, s, a[j : j + LENGTH], (a + old)[j : j + LENGTH], old[j : j + LENGTH])
            for j, (before, s) in zip((0, LENGTH), mine, strict=True)
        ]
    every = np.concatenate([row[2] for row in data])
    data = [(b, s, (a - every.mean()) / (every.std() + 1e-8), *rest) for b, s, a, *rest in data]
    done = np.stack([s.done for _, s in parts])
    assert done[:, :-1].any() and not done[1::2, -1].all()  # resets in the middle of windows
    gradient = jax.grad(clipped_loss)(params, data)
    assert abs(gradient["decay"]) > 1e-3  # it reaches through time
    expected = jax.tree.map(lambda w, g: w - 0.1 * g, params, gradient)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, found.params, expected)
    jax.tree.map(close, found.workers, workers)
    ended = np.concatenate([s.episode_return[s.done] for _, s in parts])
    np.testing.assert_allclose(out.metrics["episode_return"], ended.mean(), rtol=1e-5)
    assert found.num_updates == 1 and out.metrics["num_episodes"] == len(ended)


def test_segments_begin_with_their_memory_and_mark_new_episodes():
    done = np.array([[0, 1, 0, 1], [0, 0, 1, 0]], bool)
    steps = np.arange(8.0).reshape(2, 4)
    samples = Samples(steps[..., None], steps, steps, steps, steps, steps)
    found = in_segments(samples, np.arange(4.0).reshape(2, 2), done, 2)
    np.testing.assert_array_equal(found.action, [[0, 1], [2, 3], [4, 5], [6, 7]])
    window = found.observation
    np.testing.assert_array_equal(window.memory, [0, 1, 2, 3])
    np.testing.assert_array_equal(window.observation[..., 0], found.action)
    np.testing.assert_array_equal(window.first, [[0, 0], [0, 0], [0, 0], [0, 1]])


def test_without_a_memory_the_loss_is_that_of_ppo():
    plain, rng = linear(), np.random.default_rng(0)
    params = plain.init(jax.random.key(0), None)
    unroll = lambda params, before, observation, first: (
        before,
        Categorical(observation @ params["actor"].T),
        observation @ params["critic"],
    )
    draw = lambda *shape: rng.normal(size=(2, 3, *shape)).astype(np.float32)
    action = rng.integers(0, 2, (2, 3))
    samples = Samples(draw(FEATURES), action, -0.5 - draw() ** 2, draw(), draw(), draw())
    window = Window((), samples.observation, np.zeros((2, 3), bool))
    options = dict(drift=drift.ppo(), progress=0.0, value_clip=0.2)
    loss, parts = segment_loss(
        params,
        samples._replace(observation=window),
        network=MemoryNetwork(plain.init, (), unroll),
        **options,
    )
    expected, of_ppo = minibatches.actor_critic_loss(
        params, minibatches.flat(samples), network=plain, **options
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert parts.keys() == of_ppo.keys()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"segment": 3}, "segment is 3; it must divide num_steps, which is 8"),
        ({"segment": 0}, "segment is 0"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"horizon": 0}, "horizon is"),
    ],
)
def test_impossible_sizes_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**options)


def test_segments_must_fill_the_mini_batches():
    core = make(num_minibatches=3)
    state = jax.eval_shape(core.init, jax.random.key(0))
    with pytest.raises(ValueError, match="4 segments .* cannot be cut into 3"):
        jax.eval_shape(core.update, state, jnp.arange(WORKERS), jax.random.key(0))


def test_the_whole_rollout_is_a_segment_unless_told_otherwise():
    state = jax.eval_shape(make(segment=None).init, jax.random.key(0))
    core = make(segment=None, num_minibatches=WORKERS, scale_rewards=True, horizon=5)
    state = jax.eval_shape(core.init, jax.random.key(0))
    new, _ = jax.eval_shape(core.update, state, jnp.arange(WORKERS), jax.random.key(0))
    assert jax.tree.structure(new) == jax.tree.structure(state)
