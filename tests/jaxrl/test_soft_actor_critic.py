"""Soft actor-critic: its losses against NumPy, and an update against a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl.actor_critic import collect
from jaxrl.distributions import SquashedNormal
from jaxrl.envs import Box, Discrete, Environment, Step
from jaxrl.off_policy import towards
from jaxrl.soft_actor_critic import (
    Params,
    Row,
    SoftNetwork,
    acting,
    soft_actor_critic,
    soft_losses,
    soft_mlp,
)

S, M, GAMMA, TAU = 3, 6, 0.9, 0.1
BOX = Box((1,), -2.0, 2.0)


def linear():
    """The mean of the policy and both values are linear; its deviation is a parameter."""

    def init(key, observation):
        key_actor, key_critics = jax.random.split(key)
        actor = {"mean": 0.3 * jax.random.normal(key_actor, (1, S)), "log_std": jnp.full(1, -0.5)}
        return actor, jax.random.normal(key_critics, (2, S + 1))

    def policy(params, observation):
        return SquashedNormal(params["mean"] @ observation, params["log_std"], BOX.low, BOX.high)

    values = lambda params, observation, action: params @ jnp.concatenate([observation, action])
    return SoftNetwork(init, policy, values)


def drift():
    """The state drifts with the action; one in three steps terminates, long episodes are cut."""

    def reset(key, params):
        x = jax.random.normal(key, (S,))
        return x, (x, jnp.int32(0))

    def step(key, state, action, params):
        x, time = state[0] + 0.1 * action, state[1] + 1
        end = jax.random.bernoulli(key, 1 / 3)
        return Step(x, (x, time), x[0] - action[0], end, (time >= 4) & ~end, {})

    return Environment(reset, step, BOX, ())


NETWORK, ENV = linear(), drift()
PARAMS = Params(*NETWORK.init(jax.random.key(0), None), jnp.float32(-0.7))
TARGETS = jax.random.normal(jax.random.key(1), (2, S + 1))


def make(**options):
    options = {"num_workers": 2, "num_steps": 2, "batch_size": 4, "capacity": 6} | options
    return soft_actor_critic(
        ENV, NETWORK, optax.sgd(0.05), gamma=GAMMA, tau=TAU, **{"random_steps": 0} | options
    )


def squashed(params, observation, noise):
    """Action and log-density by the change of variables, in float64."""
    mean, std = np.float64(params["mean"]) @ observation, np.exp(np.float64(params["log_std"]))
    u = mean + std * noise
    normal = np.exp(-0.5 * noise**2) / (std * np.sqrt(2 * np.pi))
    return 2 * np.tanh(u), np.log(normal / (2 * (1 - np.tanh(u) ** 2))).sum()


def losses_by_loop(params, rows, noise, wanted):
    critic, actor, temperature = [], [], []
    alpha = np.exp(float(params.log_alpha))
    for i in range(M):
        o, a, r, end, following = (np.asarray(x[i]) for x in rows)
        b, log_b = squashed(params.actor, o, noise[i, 0])
        c, log_c = squashed(params.actor, following, noise[i, 1])
        soft = min(TARGETS @ np.concatenate([following, c])) - alpha * log_c
        y = r + GAMMA * (0 if end else soft)
        critic.append(sum((params.critics @ np.concatenate([o, a]) - y) ** 2))
        actor.append(alpha * log_b - min(params.critics @ np.concatenate([o, b])))
        temperature.append(-float(params.log_alpha) * (log_b + wanted))
    return map(np.mean, (critic, actor, temperature))


def rows():
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    end = np.arange(M) % 2 == 0
    return Row(draw(M, S), draw(M, 1), draw(M), end, draw(M, S)), draw(M, 2, 1)


LOSSES = functools.partial(
    soft_losses, network=NETWORK, targets=TARGETS, gamma=GAMMA, target_entropy=-1.0
)


def test_losses_are_those_of_a_loop():
    total, parts = jax.jit(LOSSES)(PARAMS, rows())
    params = jax.tree.map(np.asarray, PARAMS)
    critic, actor, temperature = losses_by_loop(params, *rows(), -1.0)
    np.testing.assert_allclose(parts["critic_loss"], critic, rtol=1e-4)
    np.testing.assert_allclose(parts["actor_loss"], actor, rtol=1e-4)
    np.testing.assert_allclose(parts["temperature_loss"], temperature, rtol=1e-4)
    np.testing.assert_allclose(total, critic + actor + temperature, rtol=1e-4)


def test_each_part_moves_its_own_parameters():
    gradients = {
        name: jax.grad(lambda p, name=name: LOSSES(p, rows())[1][name])(PARAMS)
        for name in ("critic_loss", "actor_loss", "temperature_loss")
    }
    moves = {
        name: tuple(any(bool((x != 0).any()) for x in jax.tree.leaves(part)) for part in gradient)
        for name, gradient in gradients.items()
    }
    assert moves == {
        "critic_loss": (False, True, False),
        "actor_loss": (True, False, False),
        "temperature_loss": (False, False, True),
    }
    entropy = LOSSES(PARAMS, rows())[1]["entropy"]
    np.testing.assert_allclose(gradients["temperature_loss"].log_alpha, entropy + 1, rtol=1e-5)


def test_an_update_adds_steps_and_moves_the_targets_behind():
    core, key = make(num_updates=2), jax.random.key(5)
    state = jax.jit(core.init)(jax.random.key(2))
    found, out = jax.jit(core.update)(state, jnp.arange(2), key)
    key_rollout, key_learn = jax.random.split(key)

    def choose(key, observation):
        return NETWORK.policy(state.params.actor, observation).sample(key), ()

    _, steps = collect(
        ENV, (), choose, key_rollout, state.workers, places=jnp.arange(2), num_steps=2
    )
    kept = Row(*(np.asarray(x)[:4] for x in found.ring.rows))
    for name in Row._fields:
        given = np.asarray(getattr(steps, name))
        np.testing.assert_allclose(
            getattr(kept, name), given.reshape(4, *given.shape[2:]), rtol=1e-5
        )
    assert found.ring.size == 4 and found.num_updates == 1
    params, targets = state.params, state.targets
    for key in jax.random.split(key_learn, 2):
        batch, noise = [], []
        for place in range(2):
            key_rows, key_noise = jax.random.split(jax.random.fold_in(key, place))
            index = jax.random.randint(key_rows, (2,), 0, 4)
            batch.append(jax.tree.map(lambda x, index=index: x[index], kept))
            noise.append(jax.random.normal(key_noise, (2, 2, 1)))
        given = jax.tree.map(lambda *x: jnp.concatenate(x), *batch), jnp.concatenate(noise)
        gradient = jax.grad(lambda p, t=targets, g=given: LOSSES(p, g, targets=t)[0])(params)
        params = jax.tree.map(lambda x, g: x - 0.05 * g, params, gradient)
        targets = (1 - TAU) * targets + TAU * params.critics
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, found.params, params)
    close(found.targets, targets)
    close(out.metrics["alpha"], np.exp(params.log_alpha))


def test_nothing_is_learned_before_the_random_steps_are_taken():
    core = make(random_steps=8, num_workers=1, num_steps=4)
    update, state = jax.jit(core.update), jax.jit(core.init)(jax.random.key(0))
    first, _ = update(state, jnp.arange(1), jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, first.params, state.params)
    second, _ = update(first, jnp.arange(1), jax.random.key(1))
    assert (second.params.critics != state.params.critics).any()
    sure = Params({"mean": jnp.zeros((1, S)), "log_std": jnp.full(1, -9.0)}, *PARAMS[1:])
    at = lambda n: update(
        state._replace(params=sure, num_updates=n), jnp.arange(1), jax.random.key(3)
    )
    of = lambda n: np.abs(at(jnp.int32(n))[0].ring.rows.action[:4])
    assert of(1).max() > 0.5 and of(2).max() < 0.01


def test_greedy_actions_are_those_of_noise_0():
    observation = jnp.array([1.0, -1.0, 2.0])
    act = acting(NETWORK, PARAMS, greedy=True)
    expected = squashed(jax.tree.map(np.asarray, PARAMS.actor), np.asarray(observation), 0.0)[0]
    np.testing.assert_allclose(act(jax.random.key(0), observation)[0], expected, rtol=1e-5)
    act = acting(NETWORK, PARAMS)
    assert act(jax.random.key(0), observation)[0] != act(jax.random.key(1), observation)[0]


def test_targets_go_a_share_of_the_way():
    np.testing.assert_allclose(towards(0.25, jnp.float32(2.0), jnp.float32(6.0)), 3.0)


def test_a_network_has_two_critics_that_differ():
    network = soft_mlp(Box((2,), -1.0, 3.0), (4,))
    observation = jnp.ones(3)
    actor, critics = jax.jit(network.init)(jax.random.key(0), observation)
    policy = network.policy(actor, observation)
    assert policy.mode().shape == (2,) and np.abs(policy.mode() - 1).max() < 0.1
    first, second = network.values(critics, observation, jnp.zeros(2))
    assert first != second


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 3}, "batch_size is 3; it must be a multiple of num_workers, 2"),
        ({"capacity": 3}, "capacity is 3; an update takes 4 steps"),
        ({"num_updates": 0}, "num_updates is 0"),
    ],
)
def test_impossible_sizes_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**options)


def test_discrete_actions_are_refused():
    with pytest.raises(ValueError, match="continuous actions, a Box"):
        soft_mlp(Discrete(2))
    with pytest.raises(ValueError, match="continuous actions, a Box"):
        soft_actor_critic(ENV._replace(action=Discrete(2)), NETWORK, optax.sgd(0.1))
