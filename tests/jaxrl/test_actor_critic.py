"""One update of PPO and A2C against plain loops; running moments; distributions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl import actor_critic, distributions, envs, normalise
from jaxrl.envs.cart_pole import CartPoleParams
from jaxrl.networks import mlp
from jaxrl.rollout import rollout
from tests.jaxrl.test_returns import advantages_by_loop

pytestmark = pytest.mark.slow  # mostly compilation

WORKERS, STEPS, EPOCHS, MINIBATCHES = 3, 8, 2, 2
ENV = envs.cart_pole(CartPoleParams(max_steps=6))
NETWORK = mlp(ENV.action, (8,))


def make(core=actor_critic.ppo, **options):
    optimizer = actor_critic.adam(optax.linear_schedule(1e-2, 0.0, 40))
    return core(
        ENV, NETWORK, optimizer, num_workers=WORKERS, num_steps=STEPS, gamma=0.9, lambda_=0.7,
        **options,
    )  # fmt: skip


def collected(state, key):
    """The rollouts of an update with this key, and what a NumPy loop makes of them."""
    act = actor_critic.acting(NETWORK, state)
    keys = [jax.random.fold_in(key, i) for i in range(WORKERS)]
    starts = [jax.tree.map(lambda x, i=i: x[i], state.workers) for i in range(WORKERS)]
    run = jax.jit(functools.partial(rollout, ENV, ENV.params, act, num_steps=STEPS))
    steps = [run(k, w)[1] for k, w in zip(keys, starts, strict=True)]
    value = jax.vmap(functools.partial(NETWORK.value, state.params))
    rows = []
    for s in steps:
        v, following = np.asarray(value(s.observation)), np.asarray(value(s.next_observation))
        a = advantages_by_loop(s.reward, v, following, s.terminated, s.truncated)
        rows.append((s.observation, s.action, s.extras, v, a, a + v))
    return steps, [jnp.concatenate([jnp.asarray(r[i]) for r in rows]) for i in range(6)]


def clipped_loss(params, observation, action, old_log_prob, old_value, advantage, target):
    """PPO's loss as it is usually written: minimum of two products, per sample."""

    def of_sample(observation, action, old_log_prob, old_value, advantage, target):
        logits = NETWORK.policy(params, observation).logits
        p = jax.nn.softmax(logits)
        ratio = p[action] / jnp.exp(old_log_prob)
        surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
        v = NETWORK.value(params, observation)
        clipped = old_value + jnp.clip(v - old_value, -0.2, 0.2)
        error = jnp.maximum((v - target) ** 2, (clipped - target) ** 2)
        return -surrogate + 0.5 * 0.5 * error - 0.01 * -(p * jnp.log(p)).sum()

    args = (observation, action, old_log_prob, old_value, advantage, target)
    return jax.vmap(of_sample)(*args).mean()


def test_ppo_is_a_loop_over_epochs_and_minibatches():
    core = make(num_epochs=EPOCHS, num_minibatches=MINIBATCHES)
    state = jax.jit(core.init)(jax.random.key(0))
    index, key = np.arange(WORKERS), jax.random.key(1)
    found, out = jax.jit(core.update)(state, index, key)

    key_rollout, key_epochs = jax.random.split(key)
    steps, data = collected(state, key_rollout)
    optimizer = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adam(optax.linear_schedule(1e-2, 0.0, 40), eps=1e-5),
    )
    params, opt_state = state.params, optimizer.init(state.params)
    gradient = jax.jit(jax.grad(clipped_loss))
    for key_epoch in jax.random.split(key_epochs, EPOCHS):
        order = np.asarray(jax.random.permutation(key_epoch, WORKERS * STEPS))
        for chosen in np.split(order, MINIBATCHES):
            batch = [x[chosen] for x in data]
            batch[4] = (batch[4] - batch[4].mean()) / (batch[4].std() + 1e-8)
            updates, opt_state = optimizer.update(gradient(params, *batch), opt_state)
            params = optax.apply_updates(params, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found.params, params
    )
    ended = np.concatenate([s.episode_return[s.done] for s in steps])
    assert out.metrics["num_episodes"] == len(ended) > 0
    np.testing.assert_allclose(out.metrics["episode_return"], ended.mean())
    assert found.num_updates == 1


def test_a2c_follows_the_policy_gradient():
    core = make(actor_critic.a2c, entropy_coef=0.0)
    state = jax.jit(core.init)(jax.random.key(0))
    key = jax.random.key(1)
    found, _ = jax.jit(core.update)(state, np.arange(WORKERS), key)
    _, data = collected(state, jax.random.split(key)[0])

    def loss(params):
        def of_sample(o, a, advantage, target):
            log_prob = NETWORK.policy(params, o).log_prob(a)
            return -advantage * log_prob + 0.25 * (NETWORK.value(params, o) - target) ** 2

        return jax.vmap(of_sample)(data[0], data[1], data[4], data[5]).mean()

    optimizer = actor_critic.adam(optax.linear_schedule(1e-2, 0.0, 40))
    updates, _ = optimizer.update(jax.grad(loss)(state.params), optimizer.init(state.params))
    expected = optax.apply_updates(state.params, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found.params, expected
    )


def test_time_limits_as_termination_give_other_parameters():
    states = []
    for flag in (True, False):
        core = make(bootstrap_on_truncation=flag)
        state = jax.jit(core.init)(jax.random.key(0))
        states.append(jax.jit(core.update)(state, np.arange(WORKERS), jax.random.key(1))[0])
    kernels = [s.params["critic"]["Dense_0"]["kernel"] for s in states]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4


def test_progress_reaches_the_drift():
    """A drift that forbids all movement once n / N is 0.5."""
    wall = lambda log_ratio, advantage, progress: jnp.where(
        progress >= 0.5, jnp.exp(log_ratio) * advantage, 0.0
    )
    core = make(drift=wall, horizon=2, entropy_coef=0.0, num_epochs=1, num_minibatches=1)
    state = jax.jit(core.init)(jax.random.key(0))
    first, _ = jax.jit(core.update)(state, np.arange(WORKERS), jax.random.key(1))
    weight = lambda s: s.params["actor"]["Dense_0"]["kernel"]
    assert np.abs(weight(first) - weight(state)).max() > 1e-4
    second, _ = jax.jit(core.update)(
        first._replace(opt_state=state.opt_state), np.arange(WORKERS), jax.random.key(2)
    )
    np.testing.assert_array_equal(weight(second), weight(first))


def test_minibatches_must_divide():
    core = make(num_minibatches=5)
    state = jax.eval_shape(core.init, jax.random.key(0))
    with pytest.raises(ValueError, match="24 samples .* cannot be cut into 5"):
        jax.eval_shape(core.update, state, jnp.arange(WORKERS), jax.random.key(0))


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


def test_discounted_returns_restart_with_each_episode():
    reward, done = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([False, True, False, False])
    left, running = actor_critic._discounted(jnp.float32(10.0), reward, done, 0.5)
    np.testing.assert_allclose(running, [6.0, 5.0, 3.0, 5.5])
    assert left == 5.5


def test_categorical_distribution():
    policy = distributions.Categorical(jnp.array([0.0, 1.0, -1.0]))
    p = np.exp([0.0, 1.0, -1.0]) / np.exp([0.0, 1.0, -1.0]).sum()
    np.testing.assert_allclose(policy.log_prob(2), np.log(p[2]), rtol=1e-5)
    np.testing.assert_allclose(policy.entropy(), -(p * np.log(p)).sum(), rtol=1e-5)
    drawn = jax.vmap(policy.sample)(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 4000, p, atol=0.03)
    assert policy.mode() == 1


def test_normal_distribution():
    mean, std = np.array([1.0, -2.0]), np.array([0.5, 3.0])
    policy = distributions.DiagonalNormal(jnp.asarray(mean), jnp.log(jnp.asarray(std)))
    x = np.array([0.7, 1.0])
    density = np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(policy.log_prob(jnp.asarray(x)), np.log(density).sum(), rtol=1e-5)
    entropy = np.log(std * np.sqrt(2 * np.pi * np.e)).sum()
    np.testing.assert_allclose(policy.entropy(), entropy, rtol=1e-5)
    drawn = jax.vmap(policy.sample)(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(drawn.std(0), std, rtol=0.05)


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="tanh or relu"):
        mlp(ENV.action, activation="swish")
