"""Actor-critic learners: A2C, and PPO with any drift (PPO, DPO, LPO, TA-LPO).

`ppo(...)` is a `Core`: `init(key) -> ActorCriticState` and `update(state, workers, key)`, where the
batch is the places of all workers, `arange(num_workers)`, or a device's even share of them. One
update is the functions of this file and of `minibatches.py` and `normalise.py`, one after the
other:

    collect             rolls out every worker with the policy of the state
    relabel             if asked for: other rewards than those of the environment
    scaled_rewards      if asked for: rewards in units of the running deviation of returns
    with_advantages     values, advantages and targets: the steps become `Samples`
    passes              passes over the samples in random mini-batches, of each of which
    gradient_step       takes one step on `actor_critic_loss`
    episode_metrics     what the episodes that ended have returned

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
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl import drift as drifts
from jaxrl.actor_critic_state import ActorCriticState, Relabel, initial, with_scaled_rewards
from jaxrl.envs.environment import Environment
from jaxrl.minibatches import (
    Samples,
    actor_critic_loss,
    flat,
    passes,
    with_advantages,
)
from jaxrl.networks import Network
from jaxrl.normalise import standardise, update_moments
from jaxrl.rollout import (
    Act,
    Transition,
    Worker,
    check_places,
    put_workers,
    rollout,
    take_workers,
)
from jaxtrain.core import Core, StepOutput
from jaxtrain.parallel import AxisName, masked_mean, psum
from jaxtrain.schedules import applied_rate
from jaxtrain.schedules.checks import check_counts

# --- The parts of an update -----------------------------------------------------------------------


def acting(network: Network, params: Any, moments: Any = (), *, greedy: bool = False) -> Act:
    """The network's policy as `collect`, `rollout` and `episode` want it.

    Args:
      network: its policy.
      params: of the network.
      moments: of observations, `state.observation_moments`; `()` if they are not normalised.
      greedy: the likeliest action instead of a random one.

    Returns:
      `(key, observation) -> (action, log pi(action))`.
    """

    def act(key: Array, observation: Any) -> tuple[Any, Array]:
        policy = network.policy(params, standardise(moments, observation))
        action = policy.mode() if greedy else policy.sample(key)
        return action, policy.log_prob(action)

    return act


def collect(
    env: Environment,
    params: Any,
    act: Act,
    key: Array,
    workers: Worker,
    *,
    places: Array,
    num_steps: int,
    keep: Callable[[Transition], Transition] | None = None,
) -> tuple[Worker, Transition]:
    """Rolls out workers whose random numbers belong to their places.

    Args:
      env: the environment.
      params: of the environment, the same for all workers.
      act: `(key, observation) -> (action, log pi(action))`.
      key: of this rollout; a worker uses `fold_in(key, place)`, wherever it runs.
      workers: leaves `[w, ...]`.
      places: among all workers, `[w]`, int32.
      num_steps: T.
      keep: of `rollout`.

    Returns:
      The workers to go on with, and steps `[w, T, ...]`.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
    return jax.vmap(lambda k, w: rollout(env, params, act, k, w, num_steps, keep))(keys, workers)


def episode_metrics(
    steps: Transition, before: Array, axis_name: AxisName | None = None
) -> dict[str, Array]:
    """Mean undiscounted return of the episodes that ended in a rollout, and their number.

    Args:
      steps: `[w, T, ...]`.
      before: the mean to keep where none ended, `[]`.
      axis_name: mapped device axis.

    Returns:
      `episode_return` and `num_episodes`, `[]`, over all shards.
    """
    number = psum(steps.done.sum().astype(jnp.float32), axis_name)
    mean = masked_mean(steps.episode_return, steps.done, axis_name)
    return {"episode_return": jnp.where(number > 0, mean, before), "num_episodes": number}


# --- The learners ---------------------------------------------------------------------------------


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
    relabel: Relabel | None = None,
    reward_weights: ArrayLike | None = None,
    env_params: Any = None,
    axis_name: AxisName | None = None,
) -> Core:
    """Proximal policy optimisation.

    Minimises, per mini-batch and with advantages normalised within it,

        mean( D(rho, A) - rho A ) + value_coef mean(value loss) - entropy_coef mean(entropy)

    Args:
      env: the environment.
      network: policy and value function.
      optimizer: any Optax transformation, e.g. `adam(2.5e-4, max_norm=0.5, eps=1e-5)` of
        `jaxtrain.optimizers`. It makes num_epochs * num_minibatches steps per update, and a
        schedule in it counts those steps. `adam(schedule, steps_per_update=num_epochs *
        num_minibatches)` counts updates, with one rate for all steps of an update.
      num_workers: W, environments over all devices.
      num_steps: T, steps per worker and update.
      num_epochs: passes over the data.
      num_minibatches: mini-batches per pass; must divide W T (of a shard under `axis_name`).
      gamma: discount.
      lambda_: of generalised advantage estimation.
      drift: D; default `drift.ppo(0.2)`. `drift.from_distance` makes one of your own.
      value_clip: of the value loss, None for plain squared error.
      entropy_coef: weight of the entropy (nats).
      value_coef: weight of the value loss.
      normalise_advantages: subtract the mean and divide by the standard deviation, for which a
        mini-batch needs two samples.
      bootstrap_on_truncation: V(last observation) counts when a time limit cut the episode; False
        treats time limits as termination, as older code does.
      normalise_observations: with running moments.
      scale_rewards: divide by the running standard deviation of discounted returns, of every reward
        by its own.
      horizon: N, updates in the whole run; gives the drift n / N. None: n / N is 0.
      relabel: makes the rewards that are learned from out of the steps of a rollout; None for those
        of the environment, of which `episode_return` is in any case.
      reward_weights: w, `[M]`, where `relabel` makes M rewards, `[w, T, M]`, each with a critic of
        its own, `mlp(..., num_critics=M)`: the policy learns from the sum of w A over the rewards,
        whose advantages are normalised one by one, so that no reward drowns another by its size.
        None for one reward.
      env_params: of the environment; None for its default ones.
      axis_name: mapped device axis, None for global arrays.

    Returns:
      A core whose batch is worker places `[w]`, int32. Metrics: the three losses, `approx_kl`,
      `episode_return` (of the last update in which an episode ended, 0 before) and `num_episodes`.

    Raises:
      ValueError: a size below 1; (when called) the batch is not the places of all workers,
        mini-batches do not divide or hold one sample whose advantage is to be normalised, or
        rewards, values and weights are not equally many.

    References:
      See the head of this file.
    """
    check_counts(
        num_workers=num_workers,
        num_steps=num_steps,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
    )
    if horizon is not None:
        check_counts(horizon=horizon)
    env_params = env.params if env_params is None else env_params
    losses_of = functools.partial(
        actor_critic_loss,
        network=network,
        drift=drifts.ppo() if drift is None else drift,
        value_clip=value_clip,
        value_coef=value_coef,
        entropy_coef=entropy_coef,
    )

    def init(key: Array) -> ActorCriticState:
        kept = ()
        if relabel is not None:
            key, key_relabel = jax.random.split(key)
            kept = relabel.init(key_relabel)
        state = initial(
            env,
            env_params,
            network.init,
            optimizer,
            key,
            num_workers=num_workers,
            normalise_observations=normalise_observations,
            scale_rewards=scale_rewards,
            rewards=() if reward_weights is None else jnp.shape(reward_weights),
        )
        return state._replace(relabel=kept)

    def prepared(
        state: ActorCriticState, batch: Array, steps: Transition
    ) -> tuple[ActorCriticState, Samples]:
        """Steps as flat samples, and the state with the statistics that they change."""
        seen = jax.vmap(jax.vmap(functools.partial(standardise, state.observation_moments)))
        reward = steps.reward
        if scale_rewards:
            state, reward = with_scaled_rewards(state, batch, steps, gamma, axis_name)
        samples = with_advantages(
            network,
            state.params,
            steps._replace(
                observation=seen(steps.observation),
                next_observation=seen(steps.next_observation),
                reward=reward,
            ),
            gamma=gamma,
            lambda_=lambda_,
            bootstrap_on_truncation=bootstrap_on_truncation,
        )
        if normalise_observations:
            moments = update_moments(state.observation_moments, flat(steps.observation), axis_name)
            state = state._replace(observation_moments=moments)
        return state, flat(samples)

    def update(
        state: ActorCriticState, batch: Array, key: Array
    ) -> tuple[ActorCriticState, StepOutput]:
        check_places(batch, "workers", num_workers, axis_name)
        key_relabel = key
        if relabel is not None:
            key, key_relabel = jax.random.split(key)
        key_rollout, key_epochs = jax.random.split(key)
        workers, steps = collect(
            env,
            env_params,
            acting(network, state.params, state.observation_moments),
            key_rollout,
            take_workers(state.workers, batch),
            places=batch,
            num_steps=num_steps,
        )
        progress = jnp.float32(0.0) if horizon is None else state.num_updates / horizon
        loss = functools.partial(losses_of, progress=progress)
        earned, said = steps, dict[str, Array]()
        if relabel is not None:
            reward, kept, said = relabel.apply(state.relabel, steps, key_relabel)
            state, earned = state._replace(relabel=kept), steps._replace(reward=reward)
        wanted = () if reward_weights is None else jnp.shape(reward_weights)
        if earned.reward.shape[2:] != wanted:
            raise ValueError(
                f"rewards are {earned.reward.shape} [workers, steps, ...] but reward_weights are "
                f"{wanted}; M rewards [workers, steps, M] need M weights."
            )
        state, samples = prepared(state, batch, earned)

        (params, opt_state), metrics = passes(
            loss,
            optimizer,
            (state.params, state.opt_state),
            samples,
            key_epochs,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            normalise_advantages=normalise_advantages,
            reward_weights=reward_weights,
            axis_name=axis_name,
        )
        metrics |= episode_metrics(steps, state.episode_return, axis_name)
        metrics |= applied_rate(opt_state) | said
        state = state._replace(
            params=params,
            opt_state=opt_state,
            workers=put_workers(state.workers, batch, workers, axis_name),
            episode_return=metrics["episode_return"],
            num_updates=state.num_updates + 1,
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
        drift=drifts.none(),
        **options,
    )
