"""SRL's losses, its actor and what it remembers, against loops in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl.control.srl import (
    Params,
    Row,
    SequenceNetwork,
    Targets,
    acting_in_sequences,
    sequence_losses,
    sequence_mlp,
    sequenced,
    srl,
)
from jaxrl.distributions import SquashedNormal
from jaxrl.envs import Box, Discrete, Environment, Step
from jaxrl.rollout import new_worker, rollout

S, H, M, J, GAMMA, TAU = 2, 3, 5, 3, 0.9, 0.1
BOX = Box((1,), -2.0, 2.0)


def small():
    """A hidden state that goes on by tanh, values by tanh, a linear model."""

    def init(key, observation):
        draw = iter(jax.random.split(key, 8))
        normal = lambda *shape: 0.7 * jax.random.normal(next(draw), shape)
        actor = {"look": normal(H, S), "on": normal(H, H), "before": normal(H, 1)}
        actor |= {"mean": normal(1, H), "log_std": jnp.full(1, -0.5)}
        return actor, normal(2, S + 1), {"state": normal(S, S), "action": normal(S, 1)}

    def go_on(params, hidden, before):
        hidden = jnp.tanh(params["on"] @ hidden + params["before"] @ before)
        return hidden, SquashedNormal(params["mean"] @ hidden, params["log_std"], -2.0, 2.0)

    return SequenceNetwork(
        init,
        np.zeros(H, np.float32),
        lambda params, observation: params["look"] @ observation,
        go_on,
        lambda params, observation, action: jnp.tanh(params @ jnp.append(observation, action)),
        lambda params, observation, action: (
            params["state"] @ observation + params["action"] @ action
        ),
    )


def drift():
    """The state drifts with the action and is cut after five steps."""

    def reset(key, params):
        x = jax.random.normal(key, (S,))
        return x, (x, jnp.int32(0))

    def step(key, state, action, params):
        x, time = state[0] + 0.3 * action, state[1] + 1
        return Step(x, (x, time), x[0], jnp.zeros_like(time >= 5), time >= 5, {})

    return Environment(reset, step, BOX, ())


NETWORK, ENV = small(), drift()
PARAMS = Params(*NETWORK.init(jax.random.key(0), None), jnp.float32(-0.7))
TARGETS = Targets(*NETWORK.init(jax.random.key(1), None)[1:])


def squashed(mean, log_std, noise):
    """Action and log-density by the change of variables."""
    std = np.exp(log_std)
    u = mean + std * noise
    normal = np.exp(-0.5 * noise**2) / (std * np.sqrt(2 * np.pi))
    return 2 * np.tanh(u), np.log(normal / (2 * (1 - np.tanh(u) ** 2))).sum()


def after(actor, hidden, before):
    return np.tanh(actor["on"] @ hidden + actor["before"] @ before)


def moved(model, state, action):
    return model["state"] @ state + model["action"] @ action


def worth(critics, state, action):
    return np.tanh(critics @ np.append(state, action))


def doubles(tree):
    return jax.tree.map(np.float64, tree)


def visited(params, rows, noise):
    """The states that the sequences of `params` are foreseen to visit, `[M, J, S]`."""
    states = np.zeros((M, J, S))
    for i in range(M):
        hidden, before, state = params.actor["look"] @ rows[0][i], rows[1][i], rows[0][i]
        for j in range(J):
            states[i, j] = state
            hidden = after(params.actor, hidden, before)
            mean, log_std = params.actor["mean"] @ hidden, params.actor["log_std"]
            before, _ = squashed(mean, log_std, noise[i, 1 + j])
            state = moved(doubles(TARGETS.model), state, before)
    return states


def actor_loss(actor, rows, noise, states):
    """Mean loss and log-densities, where the states of the sequences are given."""
    alpha, total, densities = np.exp(float(PARAMS.log_alpha)), 0.0, np.zeros((M, J))
    for i in range(M):
        hidden, before = actor["look"] @ rows[0][i], rows[1][i]
        for j in range(J):
            hidden = after(actor, hidden, before)
            before, density = squashed(actor["mean"] @ hidden, actor["log_std"], noise[i, 1 + j])
            total += alpha * density - min(worth(doubles(PARAMS.critics), states[i, j], before))
            densities[i, j] = density
    return total / M, densities


def rows():
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    given = Row(draw(M, S), draw(M, 1), draw(M, 1), draw(M), np.arange(M) % 2 == 0, draw(M, S))
    return given, draw(M, 1 + J, 1)


LOSSES = functools.partial(
    sequence_losses, network=NETWORK, targets=TARGETS, gamma=GAMMA, target_entropy=-1.0
)
NAMES = ("critic_loss", "model_loss", "actor_loss", "temperature_loss")


def test_losses_are_those_of_a_loop():
    total, parts = jax.jit(LOSSES)(PARAMS, rows())
    given, noise = doubles(rows())
    params, targets = doubles(PARAMS), doubles(TARGETS)
    alpha, critic, missed = np.exp(params.log_alpha), [], []
    for o, _, a, r, end, following in zip(*given, strict=True):
        hidden = after(params.actor, params.actor["look"] @ following, a)
        c, density = squashed(
            params.actor["mean"] @ hidden, params.actor["log_std"], noise[len(critic), 0]
        )
        soft = min(worth(targets.critics, following, c)) - alpha * density
        critic.append(sum((worth(params.critics, o, a) - r - GAMMA * (1 - end) * soft) ** 2))
        missed.append(np.mean((moved(params.model, o, a) - following) ** 2))
    actor, densities = actor_loss(params.actor, given, noise, visited(params, given, noise))
    expected = np.mean(critic), np.mean(missed), actor, -params.log_alpha * (densities.mean() - 1)
    for name, value in zip(NAMES, expected, strict=True):
        np.testing.assert_allclose(parts[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(total, sum(expected), rtol=1e-4)
    np.testing.assert_allclose(parts["entropy"], -densities.mean(), rtol=1e-4)


def test_the_gradient_flows_from_action_to_action_and_not_through_the_model():
    """Differences of the loop in which the states that are visited stay where they were."""
    found = jax.jit(jax.grad(lambda p: LOSSES(p, rows())[1]["actor_loss"]))(PARAMS)
    given, noise = doubles(rows())
    params = doubles(PARAMS)
    states = visited(params, given, noise)
    for name in ("look", "before", "mean"):
        for index in np.ndindex(params.actor[name].shape):
            ends = []
            for change in (1e-5, -1e-5):
                actor = {k: x.copy() for k, x in params.actor.items()}
                actor[name][index] += change
                ends.append(actor_loss(actor, given, noise, states)[0])
            expected = (ends[0] - ends[1]) / 2e-5
            np.testing.assert_allclose(found.actor[name][index], expected, rtol=1e-3, atol=1e-4)


def test_each_part_moves_its_own_parameters():
    gradients = jax.jit(jax.jacrev(lambda p: {n: LOSSES(p, rows())[1][n] for n in NAMES}))(PARAMS)
    moves = {
        name: [any(bool((x != 0).any()) for x in jax.tree.leaves(part)) for part in gradient]
        for name, gradient in gradients.items()
    }
    own = {"critic_loss": 1, "model_loss": 2, "actor_loss": 0, "temperature_loss": 3}
    assert moves == {name: [i == place for i in range(4)] for name, place in own.items()}


@pytest.mark.parametrize("held", [1, 3])
def test_the_actor_looks_when_a_sequence_is_over_or_an_episode_begins(held):
    env = sequenced(ENV, NETWORK)
    act = acting_in_sequences(NETWORK, PARAMS, held, greedy=True)
    worker = new_worker(env, (), jax.random.key(0))
    steps = jax.jit(lambda k: rollout(env, (), act, k, worker, 9)[1])(jax.random.key(1))
    actor = doubles(PARAMS.actor)
    for i in range(9):
        time = i % 5
        before = np.zeros(1) if time == 0 else np.asarray(steps.action.action[i - 1], np.float64)
        if time % held == 0:
            hidden = actor["look"] @ np.asarray(steps.observation.observation[i], np.float64)
        hidden = after(actor, hidden, before)
        expected = squashed(actor["mean"] @ hidden, actor["log_std"], 0.0)[0]
        np.testing.assert_allclose(steps.action.action[i], expected, rtol=1e-4, atol=1e-5)
    drawn = acting_in_sequences(NETWORK, PARAMS, held)
    seen = jax.tree.map(lambda x: x[0], steps.observation)
    first, other = (drawn(jax.random.key(i), seen)[0].action for i in (0, 1))
    assert first != other


def updated(random_steps):
    core = srl(
        ENV,
        NETWORK,
        optax.sgd(0.05),
        length=J,
        gamma=GAMMA,
        tau=TAU,
        num_workers=2,
        num_steps=7,
        batch_size=4,
        capacity=14,
        random_steps=random_steps,
    )
    state = jax.jit(core.init)(jax.random.key(2))
    return state, *jax.jit(core.update)(state, jnp.arange(2), jax.random.key(3))


@pytest.mark.parametrize("random_steps", [0, 14])
def test_the_action_before_is_remembered_and_sequences_are_acted_out(random_steps):
    before, found, out = updated(random_steps)
    kept = jax.tree.map(lambda x: np.asarray(x).reshape(2, 7, *x.shape[1:]), found.ring.rows)
    starts = np.arange(7) % 5 == 0
    expected = np.where(starts[None, :, None], 0, np.roll(kept.action, 1, axis=1))
    np.testing.assert_array_equal(kept.before, expected)
    np.testing.assert_allclose(
        kept.next_observation, kept.observation + 0.3 * kept.action, rtol=1e-5
    )
    np.testing.assert_allclose(kept.reward, kept.next_observation[..., 0], rtol=1e-5)
    assert not kept.terminated.any()
    np.testing.assert_array_equal(found.workers.observation.memory.place, [2, 2])
    moved = Targets(found.params.critics, found.params.model)
    expected = jax.tree.map(lambda x, y: 0.9 * x + TAU * y, before.targets, moved)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(close, found.targets, expected)
    np.testing.assert_allclose(out.metrics["alpha"], np.exp(found.params.log_alpha), rtol=1e-6)


def test_the_networks_of_the_paper_have_their_shapes():
    network = sequence_mlp(Box((2,), -1.0, 3.0), (4,), size=5, model_widths=(6,))
    observation = jnp.ones(3)
    actor, critics, model = jax.jit(network.init)(jax.random.key(0), observation)
    hidden = network.look(actor, observation)
    later, policy = network.go_on(actor, hidden, jnp.ones(2))
    assert hidden.shape == later.shape == network.start.shape == (5,)
    assert (later != network.go_on(actor, hidden, jnp.zeros(2))[0]).any()
    assert policy.mode().shape == (2,) and policy.low == -1.0 and policy.high == 3.0
    assert network.values(critics, observation, jnp.zeros(2)).shape == (2,)
    assert network.model(model, observation, jnp.zeros(2)).shape == (3,)


def test_what_cannot_be_is_refused():
    make = functools.partial(srl, network=NETWORK, optimizer=optax.sgd(0.1), batch_size=4)
    with pytest.raises(ValueError, match="length is 0"):
        make(ENV, length=0)
    with pytest.raises(ValueError, match="continuous actions, a Box"):
        make(ENV._replace(action=Discrete(2)))
    with pytest.raises(ValueError, match="continuous actions, a Box"):
        sequence_mlp(Discrete(2))
    reset = lambda key, params: ({"x": jnp.zeros(2)}, ())
    with pytest.raises(ValueError, match="observations that are one array"):
        jax.eval_shape(make(ENV._replace(reset=reset)).init, jax.random.key(0))
