"""The parts of a learner, each against a loop in NumPy from its equation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl import drift, minibatches
from jaxrl.minibatches import Samples
from jaxrl.rollout import Transition
from tests.jaxrl.test_returns import GAMMA, LAMBDA, advantages_by_loop
from tests.jaxrl.tiny import FEATURES, linear

RNG = np.random.default_rng(1)
W, T, M = 2, 6, 12
NETWORK = linear()
PARAMS = {
    "actor": RNG.normal(size=(2, FEATURES)).astype(np.float32),
    "critic": RNG.normal(size=FEATURES).astype(np.float32),
}


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


STEPS = Transition(
    observation=draw(W, T, FEATURES),
    action=RNG.integers(0, 2, (W, T)),
    extras=draw(W, T),
    reward=draw(W, T),
    terminated=np.array([[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]], bool),
    truncated=np.array([[0, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0]], bool),
    next_observation=draw(W, T, FEATURES),
    episode_return=draw(W, T),
    episode_length=np.ones((W, T), int),
)


@pytest.mark.parametrize("bootstrap", [True, False])
def test_samples_have_the_advantages_of_a_loop(bootstrap):
    found = minibatches.with_advantages(
        NETWORK,
        PARAMS,
        STEPS,
        gamma=GAMMA,
        lambda_=LAMBDA,
        bootstrap_on_truncation=bootstrap,
    )
    for w in range(W):
        value, following = (
            np.array([PARAMS["critic"] @ o for o in x[w]])
            for x in (STEPS.observation, STEPS.next_observation)
        )
        ended = STEPS.terminated[w] if bootstrap else STEPS.terminated[w] | STEPS.truncated[w]
        expected = advantages_by_loop(STEPS.reward[w], value, following, ended, STEPS.truncated[w])
        np.testing.assert_allclose(found.advantage[w], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.target[w], expected + value, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.value[w], value, rtol=1e-5)
    for name, given in (
        ("observation", STEPS.observation),
        ("action", STEPS.action),
        ("log_prob", STEPS.extras),
    ):
        np.testing.assert_array_equal(getattr(found, name), given)


def test_flat_lists_the_steps_of_one_worker_after_the_other():
    flat = minibatches.flat(STEPS)
    np.testing.assert_array_equal(flat.observation[T + 2], STEPS.observation[1, 2])
    np.testing.assert_array_equal(flat.reward, np.concatenate(STEPS.reward))


@pytest.mark.parametrize("axis_name", [None, "data"])
def test_normalised_advantages_have_mean_0_and_deviation_1_over_all_shards(axis_name):
    advantage = draw(4, 3) * 5 + 2
    expected = (advantage - advantage.mean()) / advantage.std()
    if axis_name:
        shard = lambda a: minibatches.normalised_advantages(a, axis_name)
        found = jax.vmap(shard, axis_name=axis_name)(advantage)
    else:
        found = minibatches.normalised_advantages(advantage.reshape(-1)).reshape(4, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_advantage_of_one_sample_is_not_normalised():
    with pytest.raises(ValueError, match="a single sample is 0"):
        minibatches.normalised_advantages(jnp.ones(1))
    shard = lambda a: minibatches.normalised_advantages(a, "data")
    found = jax.vmap(shard, axis_name="data")(jnp.array([[1.0], [3.0]]))
    np.testing.assert_allclose(found, [[-1], [1]], rtol=1e-6)


def samples():
    return Samples(
        observation=draw(M, FEATURES),
        action=RNG.integers(0, 2, M),
        log_prob=RNG.uniform(-1.5, -0.2, M).astype(np.float32),
        value=draw(M),
        advantage=draw(M),
        target=draw(M),
    )


def parts_by_loop(params, data, value_clip):
    """PPO's loss as it is usually written, the minimum of two products, sample by sample."""
    policy_loss, value_loss, entropy, kl, clipped = [], [], [], [], 0
    for i in range(M):
        logits = np.float64(params["actor"]) @ data.observation[i]
        p = np.exp(logits) / np.exp(logits).sum()
        ratio, a = p[data.action[i]] / np.exp(data.log_prob[i]), data.advantage[i]
        policy_loss.append(-min(ratio * a, np.clip(ratio, 0.8, 1.2) * a))
        clipped += policy_loss[-1] != -ratio * a
        v, old, target = (
            np.float64(params["critic"]) @ data.observation[i],
            *map(float, (data.value[i], data.target[i])),
        )
        near = v if value_clip is None else old + np.clip(v - old, -value_clip, value_clip)
        value_loss.append(0.5 * max((v - target) ** 2, (near - target) ** 2))
        entropy.append(-(p * np.log(p)).sum())
        kl.append(ratio - 1 - np.log(ratio))
    assert 0 < clipped < M
    named = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "approx_kl": kl,
    }
    return {name: np.mean(x) for name, x in named.items()}


@pytest.mark.parametrize("value_clip", [None, 0.3])
def test_loss_is_that_of_a_loop(value_clip):
    data = samples()
    total, parts = minibatches.actor_critic_loss(
        PARAMS,
        data,
        network=NETWORK,
        drift=drift.ppo(0.2),
        value_clip=value_clip,
        value_coef=0.7,
        entropy_coef=0.05,
    )
    expected = parts_by_loop(PARAMS, data, value_clip)
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-4, err_msg=name)
    loss = expected["policy_loss"] + 0.7 * expected["value_loss"] - 0.05 * expected["entropy"]
    np.testing.assert_allclose(total, loss, rtol=1e-4)


def test_progress_and_advantage_reach_the_drift():
    """A drift of A (n / N) alone adds its mean over samples to the policy's loss."""
    data = samples()
    fun = drift.from_distance(lambda log_ratio, advantage, progress: progress * advantage)
    loss = lambda x: minibatches.actor_critic_loss(
        PARAMS, data, network=NETWORK, drift=fun, progress=x
    )[1]["policy_loss"]
    np.testing.assert_allclose(loss(0.5) - loss(0.0), 0.5 * data.advantage.mean(), rtol=1e-4)


def test_gradient_step_goes_down_the_mean_of_all_shards():
    """Half the squared distance to the mean of the targets: the gradient is w - mean(target)."""
    target = draw(2, 4, 3)

    def loss(params, chosen):
        return 0.5 * ((params[None] - chosen) ** 2).sum(-1).mean(), {"first": chosen[0, 0]}

    optimizer, start = optax.sgd(0.1), jnp.ones(3)

    def shard(chosen, axis_name=None):
        carry = (start, optimizer.init(start))
        return minibatches.gradient_step(loss, optimizer, carry, chosen, axis_name=axis_name)

    expected = 1 - 0.1 * (1 - target.reshape(-1, 3).mean(0))
    (params, _), metrics = shard(target.reshape(-1, 3))
    np.testing.assert_allclose(params, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 0.5 * ((1 - target) ** 2).sum(-1).mean(), rtol=1e-5)
    assert metrics["first"] == target[0, 0, 0]
    apart = jax.vmap(lambda chosen: shard(chosen, "data"), axis_name="data")(target)
    np.testing.assert_allclose(apart[0][0], [expected, expected], rtol=1e-5)


def passed(key, axis_name=None, num_minibatches=3):
    """Which samples each mini-batch of a pass held; the carry counts the mini-batches."""
    learn = lambda carry, chosen: (carry + 1, {"held": chosen["place"], "number": carry})
    data = {"place": jnp.arange(M), "double": 2 * jnp.arange(M)}
    return minibatches.epoch(
        learn, jnp.int32(0), data, key, num_minibatches=num_minibatches, axis_name=axis_name
    )


def test_an_epoch_holds_every_sample_once_in_random_order():
    carry, metrics = passed(jax.random.key(0))
    assert carry == 3 and metrics["number"].tolist() == [0, 1, 2]
    assert metrics["held"].shape == (3, M // 3)
    assert sorted(metrics["held"].reshape(-1).tolist()) == list(range(M))
    other = passed(jax.random.key(1))[1]["held"]
    assert not np.array_equal(metrics["held"], np.arange(M).reshape(3, -1))
    assert not np.array_equal(metrics["held"], other)


def test_shards_draw_different_orders():
    key = jax.random.key(0)
    held = jax.vmap(lambda _: passed(key, "data")[1]["held"], axis_name="data")(jnp.arange(2))
    assert not np.array_equal(held[0], held[1])


def test_minibatches_must_divide():
    with pytest.raises(ValueError, match="12 samples .* cannot be cut into 5"):
        passed(jax.random.key(0), num_minibatches=5)
