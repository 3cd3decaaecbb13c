"""Meta-training: gradients against finite differences, and what must not change them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl.envs import FAMILIES, grid_world, sample_level, sample_lifetime
from jaxrl.meta import lifetime as lives
from jaxrl.meta.evolution import Pairs, noise
from jaxrl.meta.learned_objective import fitness_of_lives, meta_gradient, updates_run
from jaxrl.meta.learned_rule import recurrent_rule
from jaxtrain.optimizers import sgd

FAMILY = FAMILIES["debug"]._replace(lifetime=(2, 9))


def steps_of(actor_rate, critic_rate):
    return lives.Optimizers(sgd(actor_rate, max_norm=0.5), sgd(critic_rate, max_norm=0.5))


RULE = recurrent_rule(3, width=4, embed_width=4, temporal=True)
SETTING = lives.Setting(
    grid_world(FAMILY.shape), RULE, lives.tabular(FAMILY.shape.num_states), steps_of(40.0, 4.0),
    num_workers=2, num_steps=5,
)  # fmt: skip
INDEX = np.arange(4, dtype=np.int32)


def sample(key):
    key_level, key_lifetime = jax.random.split(key)
    return sample_level(FAMILY, key_level), sample_lifetime(FAMILY, key_lifetime)


def make(**options):
    options = {"num_lifetimes": 4, "num_updates": 2} | options
    return meta_gradient(SETTING, sample, optax.sgd(1.0), **options)


@pytest.fixture(scope="module")
def state():
    state = jax.jit(make().init)(jax.random.key(0))
    return state._replace(params=jax.tree.map(lambda x: 2 * x, state.params))


def gradient(core, state, key):
    """With a rate of 1, eta moves by minus the gradient."""
    after, out = jax.jit(core.update)(state, INDEX, key)
    return jax.tree.map(lambda a, b: a - b, state.params, after.params), after, out


def test_meta_gradient_by_finite_differences(state):
    """With one update nothing that is held constant depends on eta, except the actions after it:
    small steps seldom change one, and the median of several sizes is not moved by those that do."""
    gentle = SETTING._replace(optimizers=steps_of(5.0, 5.0))
    core = meta_gradient(gentle, sample, optax.sgd(1.0), num_lifetimes=4, num_updates=1)
    found, _, _ = gradient(core, state, jax.random.key(1))
    update = jax.jit(core.update)
    direction = jax.tree.map(lambda g: g / optax.tree.norm(found), found)
    slopes = []
    for eps in (2e-3, 3e-3, 4e-3, 6e-3, 8e-3):
        losses = []
        for step in (eps, -eps):
            moved = jax.tree.map(lambda p, d, e=step: p + e * d, state.params, direction)
            _, out = update(state._replace(params=moved), INDEX, jax.random.key(1))
            losses.append(float(out.metrics["meta_loss"]))
        slopes.append((losses[0] - losses[1]) / (2 * eps))
    np.testing.assert_allclose(np.median(slopes), optax.tree.norm(found), rtol=0.03)


@pytest.mark.ci
@pytest.mark.parametrize("options", [{"num_chunks": 2}, {"num_chunks": 4}, {"remat": False}])
def test_portions_and_rematerialisation_change_nothing(state, options):
    expected, after, _ = gradient(make(), state, jax.random.key(1))
    found, other, _ = gradient(make(**options), state, jax.random.key(1))
    assert optax.tree.norm(expected) > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found, expected
    )
    np.testing.assert_allclose(
        other.lives.agent.actor, after.lives.agent.actor, rtol=1e-3, atol=1e-4
    )


@pytest.mark.ci
def test_finished_lives_are_replaced(state):
    core = make(num_updates=5)
    after = state
    for i in range(2):
        before, (after, out) = after, jax.jit(core.update)(after, INDEX, jax.random.key(10 + i))
        due = np.asarray(before.lives.agent.num_updates) + 5 >= np.asarray(before.lives.lifetime)
        assert out.metrics["num_finished"] == due.sum()
        new = np.asarray(after.lives.agent.num_updates) == 0
        np.testing.assert_array_equal(new, due)
        moved = np.abs(after.lives.level.reward - before.lives.level.reward).max(1) > 0
        np.testing.assert_array_equal(moved, due)
    assert new.any() or due.any()


@pytest.mark.parametrize("train", [True, False])
def test_value_critic_learns_unless_told_not_to(state, train):
    long = state._replace(lives=state.lives._replace(lifetime=jnp.full(4, 100)))
    _, after, _ = gradient(make(train_critic=train), long, jax.random.key(1))
    change = np.abs(after.lives.critic[0] - long.lives.critic[0]).max()
    assert (change > 1e-4) == train


@pytest.mark.ci
def test_buckets_change_nothing_but_the_cost():
    rule_params = RULE.init(jax.random.key(0))

    def candidates(key):
        eps = noise(key, rule_params)
        return jax.tree.map(lambda p, e: jnp.stack([p + e, p - e]), rule_params, eps)

    keys = jax.random.split(jax.random.key(1), 4)
    runs = jnp.stack([keys, keys], axis=1)
    pairs = Pairs(keys, jax.random.split(jax.random.key(2), 4), runs)
    found = [
        jax.jit(
            lambda p, n=n: fitness_of_lives(
                SETTING, sample, max_steps=10, num_episodes=4, num_buckets=n
            )(candidates, p)
        )(pairs)
        for n in (1, 4)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-3)
    assert np.abs(found[0][:, 0] - found[0][:, 1]).max() > 0


def test_members_of_a_pair_meet_the_same_task():
    """Two equal rules: the same fitness with common random numbers, another one without them."""
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), RULE.init(jax.random.key(0)))
    gentle = SETTING._replace(optimizers=steps_of(1.0, 1.0))  # agents that still explore
    evaluate = fitness_of_lives(gentle, sample, max_steps=10, num_episodes=8, num_buckets=1)
    evaluate = jax.jit(functools.partial(evaluate, lambda key: twice))
    keys, runs = jax.random.split(jax.random.key(1), 4), jax.random.split(jax.random.key(2), 4)
    shared = evaluate(Pairs(keys, keys, jnp.stack([runs, runs], 1)))
    np.testing.assert_allclose(shared[:, 0], shared[:, 1], rtol=1e-5)
    assert np.ptp(shared[:, 0]) > 0.01  # each pair has its own task
    separate = evaluate(Pairs(keys, keys, jnp.stack([runs, keys], 1)))
    assert np.abs(separate[:, 0] - separate[:, 1]).max() > 0.01


def test_cost_of_buckets():
    lifetimes = jnp.array([9, 1, 4, 2])
    assert updates_run(lifetimes, 1) == 36
    assert updates_run(lifetimes, 2) == 2 * 2 + 2 * 9
    assert updates_run(lifetimes, 4) == 16


def test_buckets_must_divide():
    evaluate = fitness_of_lives(SETTING, sample, max_steps=5, num_buckets=3)
    keys = jax.random.split(jax.random.key(0), 4)
    pairs = Pairs(keys, keys, jnp.stack([keys, keys], 1))
    with pytest.raises(ValueError, match="4 pairs do not divide into 3"):
        evaluate(lambda key: RULE.init(key), pairs)
