"""PPO for agents with memory: rollouts in segments, each unrolled again from its stored memory.

A rollout of T steps is cut into segments. The memory with which a segment began is stored, and the
loss unrolls the network from it over the segment, so that gradients reach back to its first step
but not beyond. Mini-batches are of whole segments. Values of the states after a step are computed
while the memory is at hand, so that nothing else of it is stored.

The maths is that of `jaxrl.actor_critic.ppo`, of whose parts it is made.

References:
  Hausknecht and Stone, Deep Recurrent Q-Learning for Partially Observable MDPs, arXiv 1507.06527,
  and Kapturowski et al., Recurrent Experience Replay in Distributed Reinforcement Learning, ICLR
  2019, for stored states.
  Code of luchris429/purejaxrl (ppo_rnn.py), whose segments are whole rollouts.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl import drift as drifts
from jaxrl.actor_critic import collect, episode_metrics
from jaxrl.actor_critic_state import ActorCriticState, initial, with_scaled_rewards
from jaxrl.envs.environment import Environment
from jaxrl.memory import MemoryNetwork, acting, remembering, think
from jaxrl.minibatches import Samples, parts_of_loss, passes, weighted_loss, with_values
from jaxrl.rollout import Transition, Worker, check_places, put_workers, take_workers
from jaxtrain.core import Core, StepOutput
from jaxtrain.parallel import AxisName
from jaxtrain.schedules import applied_rate
from jaxtrain.schedules.checks import check_counts


class Window(NamedTuple):
    """What a network is unrolled over.

    Attributes:
      memory: before the first step.
      observation: `[L, ...]`.
      first: whether an episode begins with the step, `[L]`, bool; never at the first one, whose
        memory is that of its episode already.
    """

    memory: Any
    observation: Any
    first: Array


def memory_ppo(
    env: Environment,
    network: MemoryNetwork,
    optimizer: optax.GradientTransformation,
    *,
    num_workers: int = 16,
    num_steps: int = 128,
    segment: int | None = None,
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
    scale_rewards: bool = False,
    horizon: ArrayLike | None = None,
    env_params: Any = None,
    axis_name: AxisName | None = None,
) -> Core:
    """Proximal policy optimisation of an agent with memory.

    Args:
      env: the environment, as it is; the memory is carried by `remembering`.
      network: policy and value function.
      optimizer: as in `ppo`.
      num_workers: W, environments over all devices.
      num_steps: T, steps per worker and update.
      segment: L, steps through which gradients reach; divides T. None: T.
      num_epochs: passes over the segments.
      num_minibatches: mini-batches of segments per pass; must divide W T / L (of a shard).
      gamma, lambda_, drift, value_clip, entropy_coef, value_coef: as in `ppo`.
      normalise_advantages, bootstrap_on_truncation, scale_rewards, horizon: as in `ppo`.
      env_params, axis_name: as in `ppo`.

    Returns:
      A core with the batch, the state and the metrics of `ppo`; observations of its workers are
      `Remembered`.

    Raises:
      ValueError: a size below 1, a segment that does not divide the steps; (when called) the batch
        is not the places of all workers, or mini-batches do not divide the segments.
    """
    length = num_steps if segment is None else segment
    check_counts(
        num_workers=num_workers,
        num_steps=num_steps,
        segment=length,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
    )
    if num_steps % length:
        raise ValueError(f"segment is {length}; it must divide num_steps, which is {num_steps}.")
    if horizon is not None:
        check_counts(horizon=horizon)
    env_params = env.params if env_params is None else env_params
    env = remembering(env, network.start)
    loss_of = functools.partial(
        segment_loss,
        network=network,
        drift=drifts.ppo() if drift is None else drift,
        value_clip=value_clip,
        value_coef=value_coef,
        entropy_coef=entropy_coef,
    )

    def init(key: Array) -> ActorCriticState:
        return initial(
            env,
            env_params,
            lambda key, seen: network.init(key, seen.observation),
            optimizer,
            key,
            num_workers=num_workers,
            normalise_observations=False,
            scale_rewards=scale_rewards,
        )

    def collected(
        state: ActorCriticState, batch: Array, key: Array
    ) -> tuple[Worker, Any, Transition]:
        """Workers to go on with, memories `[w, T / L, ...]` and steps `[w, T, ...]`."""
        act = acting(network, state.params)
        keep = functools.partial(_valued, network, state.params)

        def one(workers: Worker, key: Array) -> tuple[Worker, Any]:
            after, steps = collect(
                env, env_params, act, key, workers, places=batch, num_steps=length, keep=keep
            )
            return after, (workers.observation.memory, steps)

        workers, (memory, steps) = jax.lax.scan(
            one, take_workers(state.workers, batch), jax.random.split(key, num_steps // length)
        )
        by_worker = lambda x: x.swapaxes(0, 1)
        joined = lambda x: by_worker(x).reshape(len(batch), num_steps, *x.shape[3:])
        return workers, jax.tree.map(by_worker, memory), jax.tree.map(joined, steps)

    def update(
        state: ActorCriticState, batch: Array, key: Array
    ) -> tuple[ActorCriticState, StepOutput]:
        check_places(batch, "workers", num_workers, axis_name)
        number = len(batch) * num_steps // length
        if number % num_minibatches:
            raise ValueError(
                f"{number} segments (workers x steps / segment) cannot be cut into "
                f"{num_minibatches} mini-batches; choose a divisor."
            )
        key_rollout, key_epochs = jax.random.split(key)
        workers, memory, steps = collected(state, batch, key_rollout)
        progress = jnp.float32(0.0) if horizon is None else state.num_updates / horizon
        rewarded = steps
        if scale_rewards:
            state, reward = with_scaled_rewards(state, batch, steps, gamma, axis_name)
            rewarded = steps._replace(reward=reward)
        log_prob, value, next_value = steps.extras
        samples = with_values(
            rewarded._replace(extras=log_prob),
            value,
            next_value,
            gamma=gamma,
            lambda_=lambda_,
            bootstrap_on_truncation=bootstrap_on_truncation,
        )
        (params, opt_state), metrics = passes(
            functools.partial(loss_of, progress=progress),
            optimizer,
            (state.params, state.opt_state),
            in_segments(samples, memory, steps.done, length),
            key_epochs,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            normalise_advantages=normalise_advantages,
            axis_name=axis_name,
        )
        metrics |= episode_metrics(steps, state.episode_return, axis_name)
        metrics |= applied_rate(opt_state)
        state = state._replace(
            params=params,
            opt_state=opt_state,
            workers=put_workers(state.workers, batch, workers, axis_name),
            episode_return=metrics["episode_return"],
            num_updates=state.num_updates + 1,
        )
        return state, StepOutput(metrics)

    return Core(init, update)


def _valued(network: MemoryNetwork, params: Any, step: Transition) -> Transition:
    """A step with log pi, V(s) and V(s') as `extras`, and without memory."""
    next_value = think(network, params, step.next_observation)[2]
    return step._replace(
        observation=step.observation.observation,
        action=step.action.action,
        extras=(*step.extras, next_value),
        next_observation=(),
    )


def in_segments(samples: Samples, memory: Any, done: Array, length: int) -> Samples:
    """Samples whose leaves are segments.

    Args:
      samples: `[w, T, ...]`.
      memory: before the first step of each segment, `[w, T / L, ...]`.
      done: whether an episode ended with a step, `[w, T]`, bool.
      length: L.

    Returns:
      Samples `[w T / L, L, ...]`, with `Window` as observations.
    """
    cut = lambda x: x.reshape(-1, length, *x.shape[2:])
    first = jnp.pad(cut(done)[:, :-1], ((0, 0), (1, 0)))
    samples = jax.tree.map(cut, samples)
    memory = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), memory)
    return samples._replace(observation=Window(memory, samples.observation, first))


def segment_loss(
    params: Any,
    samples: Samples,
    *,
    network: MemoryNetwork,
    drift: drifts.Drift,
    progress: ArrayLike = 0.0,
    value_clip: float | Array | None = None,
    value_coef: ArrayLike = 0.5,
    entropy_coef: ArrayLike = 0.01,
) -> tuple[Array, dict[str, Array]]:
    """`actor_critic_loss` over all steps of segments `[m, L, ...]`, from `in_segments`."""
    _, policy, value = jax.vmap(functools.partial(network.unroll, params))(*samples.observation)
    part = functools.partial(parts_of_loss, drift=drift, progress=progress, value_clip=value_clip)
    parts = jax.vmap(jax.vmap(part))(policy, value, samples._replace(observation=()))
    return weighted_loss(parts, value_coef=value_coef, entropy_coef=entropy_coef)
