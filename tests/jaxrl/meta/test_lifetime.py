"""Inner agents: one update against NumPy, whole lives against loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.envs import FAMILIES, cart_pole, grid_world, pendulum, sample_level
from jaxrl.envs.grid_world import TabularObservation
from jaxrl.meta import lifetime as lives
from jaxrl.meta.learned_rule import RuleInputs, recurrent_rule
from jaxtrain.optimizers import sgd

M, WORKERS, STEPS = 3, 2, 6
FAMILY = FAMILIES["debug"]
RULE = recurrent_rule(M, width=4, embed_width=4, temporal=True)
SETTING = lives.Setting(
    grid_world(FAMILY.shape),
    RULE,
    lives.tabular(FAMILY.shape.num_states),
    lives.Optimizers(sgd(40.0, max_norm=0.5), sgd(4.0, max_norm=0.5)),
    num_workers=WORKERS,
    num_steps=STEPS,
)
LEVEL = sample_level(FAMILY, jax.random.key(1))
ETA = jax.tree.map(lambda x: 3 * x, RULE.init(jax.random.key(2)))


@pytest.fixture(scope="module")
def agent():
    start = jax.jit(functools.partial(lives.init_agent, SETTING))(jax.random.key(3), LEVEL)
    return start._replace(num_updates=jnp.int32(1))


def test_gathering_is_the_product_with_the_one_hot():
    body = lives.tabular(10)
    weights = jax.random.normal(jax.random.key(0), (11, 4))
    dense = lambda w, i, time: jnp.append(jax.nn.one_hot(i, 10), time) @ w
    apply = lambda w, i, time: body.apply(w, TabularObservation(i, time))
    np.testing.assert_allclose(apply(weights, 3, 0.2), dense(weights, 3, 0.2), rtol=1e-6)
    loss = lambda f, w: (f(w, 3, 0.2) ** 2).sum() + f(w, 7, 0.1)[0]
    gradients = [jax.grad(functools.partial(loss, f))(weights) for f in (apply, dense)]
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_update_is_the_gradient_step_by_hand(agent):
    found, stats = jax.jit(functools.partial(lives.update_agent, SETTING))(
        ETA, agent, LEVEL, 4, jax.random.key(4)
    )
    _, steps = jax.jit(functools.partial(lives.interact, SETTING))(agent, LEVEL, jax.random.key(4))
    actor, critic = np.float64(agent.actor), np.float64(agent.critic)
    row = lambda table, o, w, t: table[o.index[w, t]] + float(o.time[w, t]) * table[-1]

    def read(table, observation):
        each = [[row(table, observation, w, t) for t in range(STEPS)] for w in range(WORKERS)]
        return np.array([[softmax(x) for x in worker] for worker in each])

    y, after = (read(critic, o) for o in (steps.observation, steps.next_observation))
    p = read(actor, steps.observation)
    actor_grad, critic_grad = np.zeros_like(actor), np.zeros_like(critic)
    pi_hat, y_hat = [], []
    for w in range(WORKERS):
        chosen = [p[w][t][int(steps.action[w, t])] + 1e-8 for t in range(STEPS)]
        inputs = RuleInputs(
            steps.reward[w], steps.done[w], jnp.float32(chosen), jnp.float32(y[w]),
            jnp.float32(after[w]),
        )  # fmt: skip
        said = RULE.apply(ETA, inputs, 1, 4)
        pi_hat.append(np.float64(said.pi_hat))
        y_hat.append(np.float64(said.y_hat))
        for t in range(STEPS):
            index, time = int(steps.observation.index[w, t]), float(steps.observation.time[w, t])
            a = int(steps.action[w, t])
            d_log = (np.eye(5)[a] - p[w][t]) * p[w][t][a] / chosen[t]
            d_actor = float(said.pi_hat[t]) * d_log / (WORKERS * STEPS)
            q, target = y[w][t], np.float64(said.y_hat[t])
            slope = np.log(q + 1e-8) - np.log(target + 1e-8) + q / (q + 1e-8)
            d_critic = 0.5 * q * (slope - (q * slope).sum()) / (WORKERS * STEPS)
            for grad, d in ((actor_grad, d_actor), (critic_grad, d_critic)):
                grad[index] += d
                grad[-1] += time * d
    for before, grad, rate, new in (
        (actor, actor_grad, 40.0, found.actor),
        (critic, critic_grad, 4.0, found.critic),
    ):
        clip = min(1.0, 0.5 / np.sqrt((grad**2).sum()))
        np.testing.assert_allclose(new, before - rate * clip * grad, rtol=1e-4, atol=1e-4)
    assert np.abs(actor_grad).max() > 1e-3 and np.abs(critic_grad).max() > 1e-3
    assert found.num_updates == 2
    new_p, new_y = (read(np.float64(x), steps.observation) for x in (found.actor, found.critic))
    expected = lives.UpdateStats(
        pi_hat_square=np.mean(np.square(pi_hat)),
        y_hat_square=np.square(y_hat).sum(-1).mean(),
        policy_entropy=-(new_p * np.log(new_p)).sum(-1).mean(),
        prediction_entropy=-(new_y * np.log(new_y)).sum(-1).mean(),
        pi_hat_size=np.mean(np.abs(pi_hat)),
        prediction_gap=np.mean(np.abs(np.array(y_hat) - y)),
        policy_step=(p * (np.log(p) - np.log(new_p))).sum(-1).mean(),
        reward=np.mean(np.asarray(steps.reward)),
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
    jax.tree.map(close, stats, expected)


def test_updates_after_the_end_are_discarded(agent):
    update = jax.jit(functools.partial(lives.update_while_alive, SETTING))
    over, _ = update(ETA, agent, LEVEL, 1, jax.random.key(4))
    jax.tree.map(np.testing.assert_array_equal, over, agent)
    alive, _ = update(ETA, agent, LEVEL, 2, jax.random.key(4))
    assert np.abs(alive.actor - agent.actor).max() > 0


def test_lives_of_different_length_run_together(agent):
    start = agent._replace(num_updates=jnp.int32(0))
    lifetimes = jnp.array([1, 4, 2])
    run = functools.partial(lives.live, SETTING, ETA, start, LEVEL)
    together = jax.jit(jax.vmap(run, (0, None)))(lifetimes, jax.random.key(5))
    assert together.num_updates.tolist() == [1, 4, 2]
    update = jax.jit(functools.partial(lives.update_agent, SETTING))
    for i, lifetime in enumerate((1, 4, 2)):
        one = start
        for n in range(lifetime):
            key = jax.random.fold_in(jax.random.key(5), n)
            one, _ = update(ETA, one, LEVEL, lifetime, key)
        np.testing.assert_allclose(together.actor[i], one.actor, rtol=1e-4, atol=1e-4)


def test_history_ends_with_the_life(agent):
    start = agent._replace(num_updates=jnp.int32(0))
    run = functools.partial(lives.history, SETTING, num_updates=4)
    end, stats = jax.jit(run)(ETA, start, LEVEL, jnp.int32(3), jax.random.key(5))
    assert np.isfinite(stats.policy_entropy[:3]).all() and np.isnan(stats.policy_entropy[3])
    lived = jax.jit(functools.partial(lives.live, SETTING))(
        ETA, start, LEVEL, jnp.int32(3), jax.random.key(5)
    )
    np.testing.assert_allclose(end.actor, lived.actor, rtol=1e-4, atol=1e-4)


def test_final_return_is_the_mean_of_episodes():
    """An agent that always pushes left, by a bias."""
    env = cart_pole()
    setting = SETTING._replace(env=env, body=lives.mlp((4,)))
    agent = lives.init_agent(setting, jax.random.key(0), env.params)
    agent.actor["Dense_1"]["bias"] = jnp.array([1e3, 0.0])
    score = lives.final_return(setting, agent, env.params, jax.random.key(1), max_steps=500)
    assert 8 < score < 11


def test_continuous_actions_are_refused():
    env = pendulum()
    with pytest.raises(ValueError, match="discrete actions"):
        lives.init_agent(SETTING._replace(env=env), jax.random.key(0), env.params)


@pytest.mark.parametrize("lifetime", [0, -3])
def test_a_life_without_updates_is_refused(agent, lifetime):
    for fun in (lives.live, lives.update_agent):
        with pytest.raises(ValueError, match=f"lifetime is {lifetime}"):
            fun(SETTING, ETA, agent, LEVEL, lifetime, jax.random.key(0))


def test_sizes_of_agents_and_tests_are_at_least_1(agent):
    for name in ("num_workers", "num_steps"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            lives.init_agent(SETTING._replace(**{name: 0}), jax.random.key(0), LEVEL)
    with pytest.raises(ValueError, match="num_episodes is 0"):
        lives.final_return(SETTING, agent, LEVEL, jax.random.key(0), max_steps=1, num_episodes=0)
