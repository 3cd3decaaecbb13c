"""PPO and A2C: their parts, and whole updates against plain loops."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl import actor_critic, drift, normalise
from jaxrl.actor_critic_state import Relabel
from jaxrl.rollout import Transition, rollout
from jaxtrain.optimizers import adam
from tests.jaxrl.test_returns import GAMMA, LAMBDA, advantages_by_loop
from tests.jaxrl.tiny import FEATURES, linear, walk

WORKERS, STEPS, EPOCHS, MINIBATCHES = 3, 8, 2, 2
INDEX = np.arange(WORKERS)
ENV, NETWORK = walk(), linear()
RATE = optax.linear_schedule(3e-2, 0.0, 40)


def make(core=actor_critic.ppo, optimizer=None, **options):
    options = {"num_epochs": EPOCHS, "num_minibatches": MINIBATCHES} | options
    if core is actor_critic.a2c:
        del options["num_epochs"], options["num_minibatches"]
    return core(
        ENV,
        NETWORK,
        optimizer or adam(RATE, max_norm=0.5, eps=1e-5),
        num_workers=WORKERS,
        num_steps=STEPS,
        gamma=GAMMA,
        lambda_=LAMBDA,
        **options,
    )


@functools.cache
def start():
    return jax.jit(make(scale_rewards=True, normalise_observations=True).init)(jax.random.key(3))


def plain(state):
    """The same agent without running moments."""
    return state._replace(observation_moments=(), return_moments=())


# --- The parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("greedy", [False, True])
def test_acting_is_the_policy_on_standardised_observations(greedy):
    mean, variance = np.float32([0.5, -1.0, 2.0]), np.float32([4.0, 0.25, 1.0])
    moments = normalise.Moments(jnp.float32(9), jnp.asarray(mean), jnp.asarray(variance))
    # Of the first logits neither action is likely enough for six draws to agree.
    params, observation = start().params, np.float32([1.0, 0.5, -0.2])
    cases = (((), observation), (moments, (observation - mean) / np.sqrt(variance)))
    for (given, seen), seed in itertools.product(cases, range(6)):
        key = jax.random.key(seed)
        action, log_prob = actor_critic.acting(NETWORK, params, given, greedy=greedy)(
            key, jnp.asarray(observation)
        )
        logits = np.asarray(params["actor"]) @ seen
        drawn = jax.random.categorical(key, jnp.asarray(logits))
        assert action == (logits.argmax() if greedy else drawn)
        expected = logits[action] - np.log(np.exp(logits).sum())
        np.testing.assert_allclose(log_prob, expected, rtol=1e-4)


def act_of(params, observation_of):
    """A policy written out: `(key, observation) -> (action, log-probability)`."""

    def act(key, observation):
        logits = params["actor"] @ observation_of(observation)
        action = jax.random.categorical(key, logits)
        return action, jax.nn.log_softmax(logits)[action]

    return act


def test_a_worker_is_rolled_out_by_its_place_not_by_its_neighbours():
    state, key = start(), jax.random.key(6)
    act = act_of(state.params, lambda o: o)
    some = np.array([2, 0])
    after, steps = actor_critic.collect(
        ENV,
        (),
        act,
        key,
        jax.tree.map(lambda x: x[some], state.workers),
        places=jnp.asarray(some),
        num_steps=STEPS,
    )
    for row, place in enumerate(some):
        worker = jax.tree.map(lambda x, place=place: x[place], state.workers)
        alone = rollout(ENV, (), act, jax.random.fold_in(key, place), worker, STEPS)
        jax.tree.map(
            lambda a, b, row=row: np.testing.assert_allclose(a[row], b, rtol=1e-5),
            (after, steps),
            alone,
        )


def test_episode_metrics_count_what_ended():
    flags = np.zeros((2, 4), bool)
    terminated, truncated = flags.copy(), flags.copy()
    terminated[0, 1] = truncated[1, 3] = True
    given = jnp.arange(8.0).reshape(2, 4)
    steps = Transition(None, None, None, given, terminated, truncated, None, given, None)
    found = actor_critic.episode_metrics(steps, jnp.float32(-5.0))
    assert found == {"episode_return": (1 + 7) / 2, "num_episodes": 2}
    nothing = steps._replace(terminated=flags, truncated=flags)
    found = actor_critic.episode_metrics(nothing, jnp.float32(-5.0))
    assert found == {"episode_return": -5.0, "num_episodes": 0}


# --- Whole updates --------------------------------------------------------------------------------


@jax.jit
def played(params, mean, deviation, key, worker):
    """The rollout of one worker by a policy on standardised observations."""
    act = act_of(params, lambda o: (o - mean) / deviation)
    return rollout(ENV, (), act, key, worker, STEPS)


class Reference:
    """The learner as a loop, with everything that was seen in lists instead of running moments."""

    def __init__(self, state, moments):
        self.params, self.workers, self.moments = state.params, state.workers, moments
        self.seen, self.returns, self.sums = [], [], np.zeros(WORKERS)

    def data(self, key, bootstrap=True):
        """Steps of one rollout, and columns: observation, action, log pi, V, A, target."""
        mean, deviation = np.zeros(FEATURES, np.float32), np.ones(FEATURES, np.float32)
        if self.moments and self.seen:
            seen = np.concatenate(self.seen)
            mean, deviation = seen.mean(0), np.sqrt(seen.var(0) + np.float32(1e-8))
        after, steps = [], []
        for i in range(WORKERS):
            worker = jax.tree.map(lambda x, i=i: x[i], self.workers)
            worker, one = played(self.params, mean, deviation, jax.random.fold_in(key, i), worker)
            after.append(jax.tree.map(np.asarray, worker))
            steps.append(jax.tree.map(np.asarray, one))
        rewards = [s.reward for s in steps]
        if self.moments:
            for i, s in enumerate(steps):
                for reward, done in zip(s.reward, s.done, strict=True):
                    self.sums[i] = GAMMA * self.sums[i] + reward
                    self.returns.append(self.sums[i])
                    self.sums[i] *= not done
            rewards = [r / np.std(self.returns) for r in rewards]
        rows, critic = [], np.asarray(self.params["critic"])
        for s, reward in zip(steps, rewards, strict=True):
            observations = (s.observation, s.next_observation)
            o, following = (np.clip((x - mean) / deviation, -10, 10) for x in observations)
            ended = s.terminated if bootstrap else s.done
            a = advantages_by_loop(reward, o @ critic, following @ critic, ended, s.truncated)
            rows.append((o, s.action, s.extras, o @ critic, a, a + o @ critic))
        self.workers = jax.tree.map(lambda *x: np.stack(x), *after)
        self.seen += [s.observation for s in steps]
        return steps, [np.float32(np.concatenate([r[i] for r in rows])) for i in range(6)]


OPTIMIZER = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(RATE, eps=1e-5))


@jax.jit
def moved(params, opt_state, gradient):
    moves, opt_state = OPTIMIZER.update(gradient, opt_state, params)
    return optax.apply_updates(params, moves), opt_state


@jax.jit
@jax.grad
def clipped_gradient(params, observation, action, old_log_prob, old_value, advantage, target):
    """PPO's loss as it is usually written: minimum of two products, per sample."""
    p = jax.nn.softmax(observation @ params["actor"].T)
    ratio = jnp.take_along_axis(p, action[:, None].astype(int), 1)[:, 0] / jnp.exp(old_log_prob)
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
    v = observation @ params["critic"]
    clipped = old_value + jnp.clip(v - old_value, -0.2, 0.2)
    error = jnp.maximum((v - target) ** 2, (clipped - target) ** 2)
    entropy = -(p * jnp.log(p)).sum(1)
    return (-surrogate + 0.5 * 0.5 * error - 0.01 * entropy).mean()


@pytest.mark.parametrize("moments", [False, True])
def test_two_updates_of_ppo_are_a_loop_over_epochs_and_minibatches(moments):
    core = make(scale_rewards=moments, normalise_observations=moments)
    state = start() if moments else plain(start())
    reference = Reference(state, moments)
    opt_state, update = OPTIMIZER.init(state.params), jax.jit(core.update)
    truncated = terminated = 0
    for number in (1, 2):
        key_rollout, key_epochs = jax.random.split(jax.random.key(number))
        state, out = update(state, INDEX, jax.random.key(number))
        steps, data = reference.data(key_rollout)
        params = reference.params
        for key_epoch in jax.random.split(key_epochs, EPOCHS):
            order = np.asarray(jax.random.permutation(key_epoch, WORKERS * STEPS))
            for chosen in np.split(order, MINIBATCHES):
                batch = [x[chosen] for x in data]
                batch[4] = (batch[4] - batch[4].mean()) / (batch[4].std() + 1e-8)
                params, opt_state = moved(params, opt_state, clipped_gradient(params, *batch))
        reference.params = params
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
            (state.params, state.workers),
            (params, reference.workers),
        )
        ended = np.concatenate([s.episode_return[s.done] for s in steps])
        assert out.metrics["num_episodes"] == len(ended) > 0
        np.testing.assert_allclose(out.metrics["episode_return"], ended.mean(), rtol=1e-5)
        assert state.episode_return == out.metrics["episode_return"]
        assert state.num_updates == number
        truncated += sum(s.truncated.sum() for s in steps)
        terminated += sum(s.terminated.sum() for s in steps)
        if moments:
            np.testing.assert_allclose(state.discounted, reference.sums, rtol=1e-4, atol=1e-5)
    assert truncated > 0 and terminated > 0


@pytest.mark.parametrize("bootstrap", [True, False])
def test_a2c_follows_the_policy_gradient(bootstrap):
    """One step on all data: -A log pi with neither clip nor normalisation, by hand.

    A plain step, since the first one of Adam hides the size of the gradient.
    """
    options = {"entropy_coef": 0.0, "bootstrap_on_truncation": bootstrap}
    core = make(actor_critic.a2c, optax.sgd(0.1), **options)
    state, key = plain(start())._replace(opt_state=optax.sgd(0.1).init(())), jax.random.key(1)
    found, _ = jax.jit(core.update)(state, INDEX, key)
    _, (o, action, _, v, advantage, target) = Reference(state, False).data(
        jax.random.split(key)[0], bootstrap
    )
    logits = o @ np.asarray(state.params["actor"]).T
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = {
        "actor": -(advantage[:, None] * (np.eye(2)[action.astype(int)] - p)).T @ o / len(o),
        "critic": 0.5 * (v - target) @ o / len(o),
    }
    expected = jax.tree.map(lambda w, g: w - 0.1 * g, state.params, gradient)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found.params, expected
    )


def test_progress_counts_updates_up_to_the_horizon():
    """A drift that forbids all movement once n / N is 0.5, which is after one update of two."""
    wall = lambda log_ratio, advantage, progress: jnp.where(
        progress >= 0.5, jnp.exp(log_ratio) * advantage, 0.0
    )
    core = make(
        drift=drift.from_distance(wall),
        horizon=2,
        entropy_coef=0.0,
        num_epochs=1,
        num_minibatches=1,
    )
    state, update = plain(start()), jax.jit(core.update)
    first, _ = update(state, INDEX, jax.random.key(1))
    assert np.abs(first.params["actor"] - state.params["actor"]).max() > 1e-2
    second, _ = update(first._replace(opt_state=state.opt_state), INDEX, jax.random.key(2))
    np.testing.assert_allclose(second.params["actor"], first.params["actor"], atol=1e-4)


def test_minibatches_must_divide():
    core = make(num_minibatches=5)
    state = jax.eval_shape(core.init, jax.random.key(0))
    with pytest.raises(ValueError, match="24 samples .* cannot be cut into 5"):
        jax.eval_shape(core.update, state, jnp.arange(WORKERS), jax.random.key(0))


def asked(core, places):
    state = jax.eval_shape(core.init, jax.random.key(0))
    return jax.eval_shape(core.update, state, places, jax.random.key(0))


@pytest.mark.parametrize("number", [2, 8])
def test_a_batch_of_some_workers_or_of_more_is_refused(number):
    with pytest.raises(ValueError, match=rf"arange\(3\), but names {number}"):
        asked(make(), jnp.arange(number))


def test_mini_batches_of_one_sample_are_refused_where_they_are_normalised():
    one = dict(num_minibatches=WORKERS * STEPS, num_epochs=1)
    with pytest.raises(ValueError, match="two samples or more"):
        asked(make(**one), INDEX)
    asked(make(**one, normalise_advantages=False), INDEX)


@pytest.mark.parametrize("name", ["num_workers", "num_steps", "num_epochs", "num_minibatches"])
def test_sizes_are_at_least_1(name):
    sizes = {"num_workers": 3, name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0"):
        actor_critic.ppo(ENV, NETWORK, adam(0.1), **sizes)


@pytest.mark.parametrize("horizon", [0, -1, 2.5])
def test_an_impossible_horizon_is_refused(horizon):
    with pytest.raises(ValueError, match="horizon is"):
        make(horizon=horizon)


def test_a_schedule_counts_steps_or_updates():
    """Four steps per update; after two updates a schedule has been asked for step 7 or update 1."""
    rate = optax.linear_schedule(1.0, 0.0, 10)
    for optimizer, last in ((adam(rate), 0.3), (adam(rate, steps_per_update=4), 0.9)):
        core = make(optimizer=optimizer)
        state, update = plain(start()), jax.jit(core.update)
        state = state._replace(opt_state=optimizer.init(state.params))
        for i in range(2):
            state, out = update(state, INDEX, jax.random.key(i))
        np.testing.assert_allclose(out.metrics["learning_rate"], last, rtol=1e-6)


def test_relabelled_rewards_are_learned_from_and_the_environments_reported():
    """With the rewards as they are every bit is that of PPO without it; negated, that of others."""
    count = lambda sign: Relabel(
        lambda key: jnp.int32(5),
        lambda kept, steps, key: (sign * steps.reward, kept + 1, {"told": jnp.float32(kept)}),
    )
    key, apart = jax.random.key(0), lambda key: jax.random.split(key)[0]
    plainly = make()
    same, other = make(relabel=count(1.0)), make(relabel=count(-1.0))
    run = lambda core, key_init, key: jax.jit(core.update)(core.init(key_init), INDEX, key)
    expected, out = run(plainly, apart(key), apart(key))
    found, told = run(same, key, key)
    assert expected.relabel == () and found.relabel == 6 and told.metrics.pop("told") == 5
    jax.tree.map(np.testing.assert_array_equal, found._replace(relabel=()), expected)
    jax.tree.map(np.testing.assert_array_equal, told.metrics, out.metrics)
    turned, said = run(other, key, key)
    assert said.metrics["episode_return"] == out.metrics["episode_return"]
    assert said.metrics["value_loss"] != out.metrics["value_loss"]
    assert np.abs(turned.params["actor"] - found.params["actor"]).max() > 1e-4


# --- Several rewards ------------------------------------------------------------------------------


def rewards_of(steps):
    """Two rewards of a step `[..., 2]` that pull the policy in opposite directions."""
    costs = jnp.cos(3.0 * steps.observation[..., 2]) - 2.0 * steps.action
    return jnp.stack([steps.next_observation[..., 1], costs], -1)


@functools.cache
def program(has_critics):
    """`(scales, weights, key) -> step of the actor, metrics` of one update whose critics say 0.

    The scaled rewards have a critic each, or one of their sum, without weights.
    """
    began = plain(start())

    def learn(scales, weights, key):
        def told(steps):
            rewards = rewards_of(steps) * scales[None, None]
            return rewards if has_critics else rewards.sum(-1)

        core = make(
            actor_critic.a2c,
            optax.sgd(1.0),
            entropy_coef=0.0,
            normalise_advantages=True,
            relabel=Relabel(lambda key: (), lambda kept, steps, key: (told(steps), kept, {})),
            reward_weights=weights if has_critics else None,
        )
        critics = jnp.zeros((2, FEATURES) if has_critics else FEATURES)
        params = began.params | {"critic": critics}
        state = began._replace(params=params, opt_state=optax.sgd(1.0).init(params))
        after, out = core.update(state, INDEX, key)
        return after.params["actor"] - params["actor"], out.metrics

    return jax.jit(learn)


def learned(scales, weights=None):
    step = program(weights is not None)
    return step(jnp.float32(scales), jnp.float32(weights or (0, 0)), jax.random.key(4))


def test_with_a_critic_of_each_the_policy_follows_the_weighted_sum_of_their_gradients():
    first, second = learned((1, 0))[0], learned((0, 1))[0]
    both, _ = learned((1, 1), (0.5, 2))
    np.testing.assert_allclose(both, 0.5 * first + 2.0 * second, rtol=1e-3, atol=1e-5)
    assert np.abs(both - first).max() > 1e-2


@pytest.mark.parametrize("tenfold", [(10, 1), (1, 10)])
def test_a_reward_of_ten_times_the_size_turns_what_is_learned_from_the_sum_and_nothing_else(
    tenfold,
):
    each, before = learned((1, 1), (1, 1))
    scaled, after = learned(tenfold, (1, 1))
    np.testing.assert_allclose(scaled, each, rtol=1e-3, atol=1e-5)
    assert after["value_loss"] > 10 * before["value_loss"], "the values do know of it"
    one, turned = learned((1, 1))[0], learned(tenfold)[0]
    assert np.linalg.norm(turned - one) > 0.3 * np.linalg.norm(one)


def test_rewards_of_several_sizes_are_scaled_one_by_one():
    """With running deviations every number is that of rewards of another size, critics and all."""
    network = NETWORK._replace(
        init=lambda key, o: NETWORK.init(key, o) | {"critic": jnp.ones((2, FEATURES))}
    )

    def after(sizes):
        told = lambda kept, steps, key: (rewards_of(steps) * sizes[None, None], kept, {})
        core = actor_critic.a2c(
            ENV,
            network,
            optax.sgd(0.1),
            num_workers=WORKERS,
            num_steps=STEPS,
            scale_rewards=True,
            relabel=Relabel(lambda key: (), told),
            reward_weights=jnp.ones(2),
        )
        return core.update(core.init(jax.random.key(0)), INDEX, jax.random.key(1))[0]

    update = jax.jit(after)
    state, other = update(jnp.float32([1, 1])), update(jnp.float32([10, 0.1]))
    assert state.discounted.shape == (WORKERS, 2)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        state.params,
        other.params,
    )
    ratio = other.return_moments.variance / state.return_moments.variance
    np.testing.assert_allclose(ratio, [100, 0.01], rtol=1e-3)


@pytest.mark.parametrize(
    ("made", "weights", "error"),
    [
        (lambda r: r, None, r"reward_weights are \(\)"),
        (lambda r: r, jnp.ones(3), r"reward_weights are \(3,\)"),
        (lambda r: r[..., 0], jnp.ones(2), r"reward_weights are \(2,\)"),
        (lambda r: r, jnp.ones(2), r"a value for every reward, mlp\(..., num_critics=M\)"),
    ],
)
def test_rewards_weights_and_values_are_equally_many(made, weights, error):
    relabel = Relabel(lambda key: (), lambda kept, steps, key: (made(rewards_of(steps)), kept, {}))
    with pytest.raises(ValueError, match=error):
        asked(make(relabel=relabel, reward_weights=weights), INDEX)
