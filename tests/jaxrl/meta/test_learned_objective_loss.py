"""The meta-loss, the critic and the order of lives, with agents that are updated in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl.meta import learned_objective
from jaxrl.meta.evolution import Pairs
from jaxrl.meta.learned_rule import Rule
from jaxrl.meta.lifetime import AgentState, Body, Optimizers, Setting, UpdateStats
from jaxrl.rollout import Transition, Worker
from jaxtrain.optimizers import sgd

LIVES, WORKERS, STEPS, SIZE = 4, 2, 3, 3
GAMMA, LAMBDA, RATE = 0.9, 0.8, 0.5
COEFFICIENTS = {
    "policy_entropy_coef": 0.3,
    "prediction_entropy_coef": 0.2,
    "pi_hat_coef": 0.15,
    "y_hat_coef": 0.1,
}
RNG = np.random.default_rng(0)
SEEN, NEXT = RNG.normal(size=(2, WORKERS, STEPS, SIZE))
ACTION = np.array([[0, 1, 1], [1, 0, 1]])
REWARD = RNG.normal(size=(WORKERS, STEPS))
ENDED = np.array([[False, True, False], [False, False, True]])
CUT = np.array([[True, False, False], [False, False, False]])
BODY = Body(lambda key, o, num: jax.random.normal(key, (SIZE, num)), lambda weights, o: o @ weights)
SETTING = Setting(
    None, Rule(lambda key: jnp.float32(0.7), None, 2), BODY, Optimizers(None, sgd(RATE))
)


def new_agent(setting, key, level):
    workers = Worker(jnp.zeros((WORKERS, SIZE)), (), jnp.zeros(WORKERS), jnp.zeros(WORKERS, int))
    return AgentState(BODY.init(key, None, 2), (), (), (), workers, jnp.int32(0))


def moved(setting, eta, agent, level, lifetime, key):
    """One update adds eta * level to every weight of action 0."""
    actor = agent.actor.at[:, 0].add(eta * level)
    stats = UpdateStats(eta**2, 2 * eta, 3 * eta, 4 * eta**2, *jnp.zeros(4))
    return agent._replace(actor=actor, num_updates=agent.num_updates + 1), stats


def steps_seen(setting, agent, level, key):
    arrays = (SEEN, ACTION, (), level * REWARD, ENDED, CUT, NEXT)
    steps = jax.tree.map(jnp.asarray, Transition(*arrays, 0.0 * REWARD, 0 * ACTION))
    return agent.workers, steps


@pytest.fixture
def one_line_agents(monkeypatch):
    monkeypatch.setattr(learned_objective, "init_agent", new_agent)
    monkeypatch.setattr(learned_objective, "update_while_alive", moved)
    monkeypatch.setattr(learned_objective, "interact", steps_seen)


def targets(critic, level):
    """Values, and advantages by their recursion."""
    value, following = (o @ critic[:, 0] for o in (SEEN, NEXT))
    advantage = np.zeros((WORKERS, STEPS))
    for w in range(WORKERS):
        later = 0.0
        for t in reversed(range(STEPS)):
            beyond = 0.0 if ENDED[w, t] else GAMMA * following[w, t]
            delta = level * REWARD[w, t] + beyond - value[w, t]
            later = delta + (0.0 if ENDED[w, t] or CUT[w, t] else GAMMA * LAMBDA * later)
            advantage[w, t] = later
    return value, advantage


def loss_of(eta, actor, critic, level, num_updates):
    """The meta-loss of one life."""
    _, advantage = targets(critic, level)
    normal = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    weights = np.array(actor, np.float64)
    weights[:, 0] += num_updates * eta * level
    logits = SEEN @ weights
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_p, ACTION[..., None], -1)[..., 0]
    c = COEFFICIENTS
    return (
        -(normal * chosen).mean()
        - c["policy_entropy_coef"] * 3 * eta
        - c["prediction_entropy_coef"] * 4 * eta**2
        + c["pi_hat_coef"] * eta**2
        + c["y_hat_coef"] * 2 * eta
    )


@pytest.mark.parametrize("train_critic", [True, False])
def test_a_meta_update_is_that_of_a_loop_over_lives(one_line_agents, train_critic):
    core = learned_objective.meta_gradient(
        SETTING,
        lambda key: (jax.random.uniform(key, minval=0.5, maxval=2.0), jnp.int32(9)),
        optax.sgd(1.0),
        num_lifetimes=LIVES,
        num_updates=2,
        num_chunks=2,
        gamma=GAMMA,
        lambda_=LAMBDA,
        train_critic=train_critic,
        **COEFFICIENTS,
    )
    state = core.init(jax.random.key(0))
    state = state._replace(lives=state.lives._replace(lifetime=jnp.array([2, 3, 1, 9])))
    after, out = jax.jit(core.update)(state, jnp.arange(LIVES), jax.random.key(1))

    lives = jax.tree.map(lambda x: np.asarray(x, np.float64), state.lives)
    each = [(lives.agent.actor[i], lives.critic[0][i], lives.level[i]) for i in range(LIVES)]
    whole = lambda eta: np.mean([loss_of(eta, *life, 2) for life in each])
    np.testing.assert_allclose(out.metrics["meta_loss"], whole(0.7), rtol=1e-5)
    slope = (whole(0.7 + 1e-5) - whole(0.7 - 1e-5)) / 2e-5
    np.testing.assert_allclose(state.params - after.params, slope, rtol=1e-4)

    assert out.metrics["num_finished"] == 2
    np.testing.assert_array_equal(after.lives.agent.num_updates, [0, 2, 0, 2])
    for i in (1, 3):  # lives that go on
        critic = each[i][1].copy()
        value, advantage = targets(critic, each[i][2])
        target = value + advantage
        gradient = ((value - target)[..., None] * SEEN).mean((0, 1))
        critic[:, 0] -= train_critic * RATE * gradient
        np.testing.assert_allclose(after.lives.critic[0][i], critic, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_buckets", [1, 2, 4])
def test_fitness_returns_in_the_order_of_the_pairs(monkeypatch, num_buckets):
    """Lives are run in the order of their lengths; the fitness of a life is level times rule."""
    monkeypatch.setattr(learned_objective, "init_agent", lambda setting, key, level: level)
    monkeypatch.setattr(learned_objective, "live", lambda s, eta, agent, level, n, key: eta * agent)
    monkeypatch.setattr(
        learned_objective, "final_return", lambda setting, trained, level, key, **_: trained
    )
    sample = lambda key: (jax.random.uniform(key), jax.random.randint(key, (), 1, 100))
    keys = jax.random.split(jax.random.key(0), 4)
    levels, lengths = jax.vmap(lambda key: sample(jax.random.split(key)[1]))(keys)
    assert (jnp.argsort(lengths) != jnp.arange(4)).any()
    evaluate = learned_objective.fitness_of_lives(
        SETTING, sample, max_steps=1, num_buckets=num_buckets
    )
    pairs = Pairs(keys, keys, jnp.stack([keys, keys], 1))
    found = evaluate(lambda key: jnp.array([1.0, 10.0]), pairs)
    np.testing.assert_allclose(found, levels[:, None] * np.array([[1.0, 10.0]]), rtol=1e-6)
