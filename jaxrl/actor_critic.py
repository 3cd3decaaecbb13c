"""Actor-critic learners: A2C, and PPO with any drift (PPO, DPO, LPO, TA-LPO).

`ppo(...)` is a `Core`: `init(key) -> ActorCriticState` and `update(state, workers, key)`, where the
batch is the places of the workers to run, `arange(num_workers)` or one shard of it. One update
rolls out every worker, computes advantages and takes epochs of mini-batch steps.

A worker's randomness belongs to its place, so the data do not depend on the devices. Mini-batches
are drawn among the samples of a shard: with more than one of them, runs under `pmap` and
`shard_map` see other mini-batches (of the same total size) than runs on global arrays.

References:
  Schulman et al., Proximal Policy Optimization Algorithms, arXiv 1707.06347.
  Mnih et al., Asynchronous Methods for Deep Reinforcement Learning, arXiv 1602.01783 (A2C is its
  synchronous form).
  Settings and order of computation of luchris429/purejaxrl (ppo.py). Differences: time limits are
  told apart from termination (`bootstrap_on_truncation`), and running moments are updated once per
  rollout instead of once per step.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl import drift as drifts
from jaxrl.envs.environment import Environment
from jaxrl.losses import mirror_loss, value_loss
from jaxrl.networks import Network
from jaxrl.normalise import no_moments, standardise, update_moments
from jaxrl.returns import generalised_advantages
from jaxrl.rollout import Act, Transition, Worker, begin, put_workers, rollout, take_workers
from jaxtrain.core import Core, StepOutput
from jaxtrain.parallel import (
    AxisName,
    axis_size,
    fold_in_axis,
    masked_mean,
    pmean,
    psum,
    value_and_grad,
)
from jaxtrain.schedules import applied_rate, scheduled


class ActorCriticState(NamedTuple):
    """State of `ppo` and `a2c`.

    Attributes:
      params: of the network.
      opt_state: of the optimiser.
      workers: environments, every leaf `[W, ...]`.
      discounted: discounted return of each worker's episode so far, `[W]`, to scale rewards.
      observation_moments: of observations; `()` if they are not normalised.
      return_moments: of discounted returns; `()` if rewards are not scaled.
      episode_return: mean of the episodes of the last update in which any ended, `[]`.
      num_updates: `[]`, int32.
    """

    params: Any
    opt_state: Any
    workers: Worker
    discounted: Array
    observation_moments: Any
    return_moments: Any
    episode_return: Array
    num_updates: Array


class Samples(NamedTuple):
    """What a mini-batch holds; leaves `[samples, ...]`."""

    observation: Any
    action: Any
    log_prob: Array
    value: Array
    advantage: Array
    target: Array


def adam(
    learning_rate: ArrayLike | optax.Schedule,
    *,
    max_grad_norm: ArrayLike = 0.5,
    eps: float = 1e-5,
) -> optax.GradientTransformation:
    """Clip to a global norm, then Adam; numbers may be traced.

    A schedule counts mini-batch steps, and the rate it gave is kept as the metric `learning_rate`.
    """
    factory = functools.partial(optax.adam, eps=eps)
    scales = (
        scheduled(factory, learning_rate) if callable(learning_rate) else factory(learning_rate)
    )
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), scales)


def normalised(state: ActorCriticState, observation: Any) -> Any:
    """The observation as the network sees it."""
    if state.observation_moments == ():
        return observation
    return standardise(state.observation_moments, observation)


def acting(network: Network, state: ActorCriticState, *, greedy: bool = False) -> Act:
    """The policy of a state, with frozen statistics, for `rollout` and `episode`."""

    def act(key: Array, observation: Any) -> tuple[Any, Array]:
        policy = network.policy(state.params, normalised(state, observation))
        action = policy.mode() if greedy else policy.sample(key)
        return action, policy.log_prob(action)

    return act


def ppo(
    env: Environment,
    network: Network,
    optimizer: optax.GradientTransformation,
    *,
    num_workers: int = 4,
    num_steps: int = 128,
    num_epochs: int = 4,
    num_minibatches: int = 4,
    gamma: ArrayLike = 0.99,
    lambda_: ArrayLike = 0.95,
    drift: drifts.Drift | None = None,
    value_clip: float | Array | None = 0.2,
    entropy_coef: ArrayLike = 0.01,
    value_coef: ArrayLike = 0.5,
    normalise_advantages: bool = True,
    bootstrap_on_truncation: bool = True,
    normalise_observations: bool = False,
    scale_rewards: bool = False,
    horizon: ArrayLike | None = None,
    env_params: Any = None,
    axis_name: AxisName | None = None,
) -> Core:
    """Proximal policy optimisation.

    Minimises, per mini-batch and with advantages normalised within it,

        mean( D(rho, A) - rho A ) + value_coef mean(value loss) - entropy_coef mean(entropy)

    Args:
      env: the environment.
      network: policy and value function.
      optimizer: any Optax transformation, e.g. `adam(...)`; counts mini-batch steps.
      num_workers: W, environments over all devices.
      num_steps: T, steps per worker and update.
      num_epochs: passes over the data.
      num_minibatches: mini-batches per pass; must divide W T (of a shard under `axis_name`).
      gamma: discount.
      lambda_: of generalised advantage estimation.
      drift: D; default `drift.ppo(0.2)`.
      value_clip: of the value loss, None for plain squared error.
      entropy_coef: weight of the entropy (nats).
      value_coef: weight of the value loss.
      normalise_advantages: subtract the mean and divide by the standard deviation.
      bootstrap_on_truncation: V(last observation) counts when a time limit cut the episode; False
        treats time limits as termination, as older code does.
      normalise_observations: with running moments.
      scale_rewards: divide by the running standard deviation of discounted returns.
      horizon: N, updates in the whole run; gives the drift n / N. None: n / N is 0.
      env_params: of the environment; None for its default ones.
      axis_name: mapped device axis, None for global arrays.

    Returns:
      A core whose batch is worker places `[w]`, int32. Metrics: the three losses, `approx_kl`,
      `episode_return` (of the last update in which an episode ended, 0 before) and `num_episodes`.

    Raises:
      ValueError: (when called) the batch is not a list of places, or mini-batches do not divide.

    References:
      See the head of this file.
    """
    params_of_env = env.params if env_params is None else env_params
    the_drift = drifts.ppo() if drift is None else drift

    def init(key: Array) -> ActorCriticState:
        key_params, key_workers = jax.random.split(key)
        keys = jax.random.split(key_workers, num_workers)
        workers = jax.vmap(lambda k: begin(env, params_of_env, k))(keys)
        example = jax.tree.map(lambda x: x[0], workers.observation)
        params = network.init(key_params, example)
        state = ActorCriticState(
            params,
            optimizer.init(params),
            workers,
            jnp.zeros(num_workers),
            no_moments(example) if normalise_observations else (),
            no_moments(jnp.float32(0.0)) if scale_rewards else (),
            jnp.float32(0.0),
            jnp.int32(0),
        )
        # Observation and state of an environment may be one buffer, which cannot be donated twice.
        return jax.tree.map(jnp.copy, state)

    def loss(params: Any, samples: Samples, progress: Array) -> tuple[Array, dict[str, Array]]:
        def of_sample(sample: Samples) -> tuple[Array, ...]:
            policy = network.policy(params, sample.observation)
            log_ratio = policy.log_prob(sample.action) - sample.log_prob
            away = the_drift(log_ratio, sample.advantage, progress)
            value = network.value(params, sample.observation)
            return (
                mirror_loss(log_ratio, sample.advantage, away),
                value_loss(value, sample.value, sample.target, value_clip),
                policy.entropy(),
                jnp.expm1(log_ratio) - log_ratio,
            )

        names = ("policy_loss", "value_loss", "entropy", "approx_kl")
        parts = dict(zip(names, (x.mean() for x in jax.vmap(of_sample)(samples)), strict=True))
        total = (
            parts["policy_loss"]
            + value_coef * parts["value_loss"]
            - entropy_coef * parts["entropy"]
        )
        return total, parts

    def learn(
        carry: tuple[Any, Any], samples: Samples, progress: Array
    ) -> tuple[tuple[Any, Any], dict[str, Array]]:
        """One step on one mini-batch."""
        params, opt_state = carry
        if normalise_advantages:
            advantage = samples.advantage
            centred = advantage - pmean(advantage.mean(), axis_name)
            deviation = jnp.sqrt(pmean((centred**2).mean(), axis_name))
            samples = samples._replace(advantage=centred / (deviation + 1e-8))
        (value, parts), grads = value_and_grad(loss, axis_name, has_aux=True)(
            params, samples, progress
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), {"loss": value} | parts

    def evaluate(state: ActorCriticState, steps: Transition, reward: Array) -> Samples:
        """Adds values and advantages to steps `[w, T]`."""
        value_fn = jax.vmap(jax.vmap(lambda o: network.value(state.params, normalised(state, o))))
        value, next_value = value_fn(steps.observation), value_fn(steps.next_observation)
        ended = steps.terminated if bootstrap_on_truncation else steps.done
        advantage = jax.vmap(generalised_advantages, (0, 0, 0, 0, 0, None, None))(
            reward, value, next_value, ended, steps.truncated, gamma, lambda_
        )
        observation = jax.vmap(jax.vmap(lambda o: normalised(state, o)))(steps.observation)
        return Samples(observation, steps.action, steps.extras, value, advantage, advantage + value)

    def update(
        state: ActorCriticState, batch: Array, key: Array
    ) -> tuple[ActorCriticState, StepOutput]:
        if getattr(batch, "ndim", None) != 1:
            raise ValueError(
                f"the batch must be the places of the workers, arange({num_workers}), but is a "
                f"{type(batch).__name__}."
            )
        size = batch.shape[0] * num_steps
        if size % num_minibatches:
            raise ValueError(
                f"{size} samples ({batch.shape[0]} workers x {num_steps} steps) cannot be cut into "
                f"{num_minibatches} mini-batches; choose a divisor."
            )
        key_rollout, key_epochs = jax.random.split(key)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key_rollout, batch)
        act = acting(network, state)
        workers, steps = jax.vmap(
            lambda k, worker: rollout(env, params_of_env, act, k, worker, num_steps)
        )(keys, take_workers(state.workers, batch))

        reward, discounted, return_moments = steps.reward, state.discounted, state.return_moments
        if scale_rewards:
            mine, running = jax.vmap(_discounted, (0, 0, 0, None))(
                state.discounted[batch], steps.reward, steps.done, gamma
            )
            return_moments = update_moments(
                return_moments, running.reshape(-1), axis_name, axis_size(axis_name)
            )
            reward = reward / jnp.sqrt(return_moments.variance + 1e-8)
            discounted = put_workers(discounted, batch, mine, axis_name)
        samples = evaluate(state, steps, reward)
        samples = jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), samples)
        observation_moments = state.observation_moments
        if normalise_observations:
            flat = jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), steps.observation)
            observation_moments = update_moments(
                observation_moments, flat, axis_name, axis_size(axis_name)
            )

        progress = jnp.float32(0.0) if horizon is None else state.num_updates / horizon

        def epoch(carry: tuple[Any, Any], key: Array) -> tuple[Any, Any]:
            order = jax.random.permutation(fold_in_axis(key, axis_name), size)
            order = order.reshape(num_minibatches, -1)

            def step(carry: Any, chosen: Array) -> Any:
                return learn(carry, jax.tree.map(lambda x: x[chosen], samples), progress)

            return jax.lax.scan(step, carry, order)

        (params, opt_state), losses = jax.lax.scan(
            epoch, (state.params, state.opt_state), jax.random.split(key_epochs, num_epochs)
        )
        num_episodes = psum(steps.done.sum().astype(jnp.float32), axis_name)
        mean_return = masked_mean(steps.episode_return, steps.done, axis_name)
        episode_return = jnp.where(num_episodes > 0, mean_return, state.episode_return)
        metrics = jax.tree.map(jnp.mean, losses)
        metrics |= {"episode_return": episode_return, "num_episodes": num_episodes}
        metrics |= applied_rate(opt_state)
        state = ActorCriticState(
            params,
            opt_state,
            put_workers(state.workers, batch, workers, axis_name),
            discounted,
            observation_moments,
            return_moments,
            episode_return,
            state.num_updates + 1,
        )
        return state, StepOutput(metrics)

    return Core(init, update)


def a2c(
    env: Environment,
    network: Network,
    optimizer: optax.GradientTransformation,
    **options: Any,
) -> Core:
    """Advantage actor-critic: one step on all data, mean( -A log pi ) as the policy's loss.

    It is `ppo` with one epoch, one mini-batch and no drift: at rho = 1 the gradient of rho A is
    that of A log pi. Advantages are not normalised and the value loss is not clipped unless
    `options` says so.

    Args:
      env: the environment.
      network: policy and value function.
      optimizer: any Optax transformation.
      **options: of `ppo`, except `num_epochs`, `num_minibatches` and `drift`.
    """
    options = {"normalise_advantages": False, "value_clip": None} | options
    return ppo(
        env,
        network,
        optimizer,
        num_epochs=1,
        num_minibatches=1,
        drift=lambda log_ratio, advantage, progress: jnp.zeros_like(log_ratio),
        **options,
    )


def _discounted(before: Array, reward: Array, done: Array, gamma: ArrayLike) -> tuple[Array, Array]:
    """What to go on with, and the discounted return of the episode so far after each step `[T]`."""

    def add(before: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, done = step
        total = jnp.asarray(gamma * before + reward)
        return jnp.where(done, 0.0, total), total

    return jax.lax.scan(add, before, (reward, done))
