"""Soft actor-critic: off-policy learning of a policy that is as random as it can afford to be.

One update acts, adds the steps to a ring buffer in the state, and makes gradient steps on rows:

    soft_losses         of critics, policy and temperature, on rows and noise
    gradient_step       one step on their sum; each part is differentiated by its own parameters
    towards             moves the target critics

The losses of a step are taken at the same parameters, as in the first version of the paper, so that
one backward pass serves all. Rows and noise are drawn by the places of the workers, so that numbers
do not depend on the devices.

References:
  Haarnoja et al., Soft Actor-Critic Algorithms and Applications, arXiv 1812.05905.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl import buffers
from jaxrl.actor_critic import collect, episode_metrics
from jaxrl.buffers import Ring
from jaxrl.distributions import SquashedNormal
from jaxrl.envs.environment import Box, Discrete, Environment
from jaxrl.minibatches import flat, gradient_step
from jaxrl.networks import MLP
from jaxrl.rollout import Act, Worker, check_places, new_worker, put_workers, take_workers
from jaxtrain.core import Core, StepOutput
from jaxtrain.parallel import AxisName
from jaxtrain.schedules import applied_rate
from jaxtrain.schedules.checks import check_counts

LOG_STD = (-20.0, 2.0)
NO_BOX = "soft actor-critic needs continuous actions, a Box; ppo takes discrete ones."


class SoftNetwork(NamedTuple):
    """A policy and two critics.

    Attributes:
      init: `(key, observation) -> (policy's params, critics' params)`.
      policy: `(policy's params, observation) -> SquashedNormal`, one observation.
      values: `(critics' params, observation, action) -> [2]`.
    """

    init: Callable[[Array, Any], tuple[Any, Any]]
    policy: Callable[[Any, Any], SquashedNormal]
    values: Callable[[Any, Any, Array], Array]


def soft_mlp(
    action: Discrete | Box,
    widths: Sequence[int] = (256, 256),
    activation: Callable[[Array], Array] = jax.nn.relu,
) -> SoftNetwork:
    """MLPs for the policy and for two critics of observation and action.

    Args:
      action: the action space, a `Box`.
      widths: hidden units per layer.
      activation: of the hidden units.

    Raises:
      ValueError: the actions are not those of a box.
    """
    if not isinstance(action, Box):
        raise ValueError(NO_BOX)
    size = math.prod(action.shape)
    actor = MLP(tuple(widths), 2 * size, activation, 0.01)
    critic = MLP(tuple(widths), 1, activation, 1.0)
    joined = lambda observation, action: jnp.concatenate([observation.ravel(), action.ravel()])

    def init(key: Array, observation: Any) -> tuple[Any, Any]:
        key_actor, key_critics = jax.random.split(key)
        both = joined(observation, jnp.zeros(action.shape))
        make = lambda key: critic.init(key, both)["params"]
        critics = jax.vmap(make)(jax.random.split(key_critics, 2))
        return actor.init(key_actor, observation)["params"], critics

    def policy(params: Any, observation: Any) -> SquashedNormal:
        output: Any = actor.apply({"params": params}, observation)
        mean, log_std = output.reshape(2, *action.shape)
        return SquashedNormal(mean, jnp.clip(log_std, *LOG_STD), action.low, action.high)

    def values(params: Any, observation: Any, action: Array) -> Array:
        both = joined(observation, action)
        of = lambda params: jnp.asarray(critic.apply({"params": params}, both))[0]
        return jax.vmap(of)(params)

    return SoftNetwork(init, policy, values)


class Params(NamedTuple):
    """What gradients change: policy, critics and the log of the temperature `[]`."""

    actor: Any
    critics: Any
    log_alpha: Array


class Row(NamedTuple):
    """A step as it is remembered; a time limit is no end."""

    observation: Any
    action: Array
    reward: Array
    terminated: Array
    next_observation: Any


class SoftState(NamedTuple):
    """State of `soft_actor_critic`.

    Attributes:
      params: policy, critics and temperature.
      targets: critics that follow.
      opt_state: of the optimiser.
      workers: environments, every leaf `[W, ...]`.
      ring: the steps that are remembered.
      episode_return: mean of the episodes of the last update in which any ended, `[]`.
      num_updates: `[]`, int32.
    """

    params: Params
    targets: Any
    opt_state: Any
    workers: Worker
    ring: Ring
    episode_return: Array
    num_updates: Array


def soft_losses(
    params: Params,
    given: tuple[Row, Array],
    *,
    network: SoftNetwork,
    targets: Any,
    gamma: ArrayLike,
    target_entropy: ArrayLike,
) -> tuple[Array, dict[str, Array]]:
    """Sum of the three losses; nothing flows from one part into the parameters of another.

        critics      mean over rows of sum_i ( Q_i(s, a) - y )^2,
                     y = r + gamma (1 - terminated) ( min_i Q'_i(s', a') - alpha log pi(a' | s') )
        policy       mean( alpha log pi(b | s) - min_i Q_i(s, b) )
        temperature  - log alpha mean( log pi(b | s) + target entropy )

    Args:
      params: of policy, critics and temperature.
      given: rows `[m]`, and standard normal noise `[m, 2, ...]` of b and a'.
      network: the functions of the parameters.
      targets: parameters of Q'.
      gamma: discount.
      target_entropy: nats.
    """
    fixed = jax.lax.stop_gradient(params)
    alpha = jnp.exp(fixed.log_alpha)

    def of_row(row: Row, noise: Array) -> dict[str, Array]:
        action, log_prob = network.policy(params.actor, row.observation).at(noise[0])
        following, of_following = network.policy(fixed.actor, row.next_observation).at(noise[1])
        value = (
            network.values(targets, row.next_observation, following).min() - alpha * of_following
        )
        target = row.reward + gamma * jnp.where(row.terminated, 0.0, value)
        error = network.values(params.critics, row.observation, row.action) - target
        score = network.values(fixed.critics, row.observation, action).min()
        short = jax.lax.stop_gradient(log_prob) + target_entropy
        return {
            "critic_loss": (error**2).sum(),
            "actor_loss": alpha * log_prob - score,
            "temperature_loss": -params.log_alpha * short,
            "entropy": -log_prob,
        }

    parts = {name: x.mean() for name, x in jax.vmap(of_row)(*given).items()}
    return parts["critic_loss"] + parts["actor_loss"] + parts["temperature_loss"], parts


def towards(tau: ArrayLike, old: Any, new: Any) -> Any:
    """old + tau (new - old), leaf by leaf."""
    return jax.tree.map(lambda x, y: x + tau * (y - x), old, new)


def acting(network: SoftNetwork, params: Params, *, greedy: bool = False) -> Act:
    """The policy as `rollout` and `episode` want it: `(key, observation) -> (action, ())`."""

    def act(key: Array, observation: Any) -> tuple[Array, tuple[()]]:
        policy = network.policy(params.actor, observation)
        return policy.mode() if greedy else policy.sample(key), ()

    return act


def soft_actor_critic(
    env: Environment,
    network: SoftNetwork,
    optimizer: optax.GradientTransformation,
    *,
    num_workers: int = 1,
    num_steps: int = 1,
    num_updates: int = 1,
    batch_size: int = 256,
    capacity: int = 1_000_000,
    random_steps: int = 10_000,
    gamma: ArrayLike = 0.99,
    tau: ArrayLike = 0.005,
    target_entropy: ArrayLike | None = None,
    env_params: Any = None,
    axis_name: AxisName | None = None,
) -> Core:
    """Soft actor-critic with two critics and a temperature that is learned.

    Args:
      env: the environment, with actions in a box.
      network: policy and critics.
      optimizer: of all parameters; it makes num_updates steps per update, and should not clip the
        global norm, which would tie the parts together.
      num_workers: W, environments over all devices.
      num_steps: T, steps per worker and update.
      num_updates: gradient steps per update.
      batch_size: rows of a gradient step over all devices; a multiple of W.
      capacity: steps that are remembered.
      random_steps: steps of all workers that are taken at random before the first gradient step.
      gamma: discount.
      tau: share of the way that target critics go with each gradient step.
      target_entropy: nats; None: minus the size of an action, whatever the box.
      env_params: of the environment; None for its default ones.
      axis_name: mapped device axis, None for global arrays.

    Returns:
      A core whose batch is worker places `[w]`, int32. Metrics: the losses, `entropy`, `alpha`,
      `episode_return` and `num_episodes` as of `ppo`.

    Raises:
      ValueError: a size below 1, a batch that the workers cannot share evenly, more steps in an
        update than are remembered, an action space that is no box; (when called) the batch is not
        the places of all workers.
    """
    check_counts(
        num_workers=num_workers,
        num_steps=num_steps,
        num_updates=num_updates,
        batch_size=batch_size,
        capacity=capacity,
    )
    if batch_size % num_workers:
        raise ValueError(
            f"batch_size is {batch_size}; it must be a multiple of num_workers, {num_workers}."
        )
    if num_workers * num_steps > capacity:
        raise ValueError(
            f"capacity is {capacity}; an update takes {num_workers * num_steps} steps, keep more."
        )
    if not isinstance(env.action, Box):
        raise ValueError(NO_BOX)
    box = env.action
    env_params = env.params if env_params is None else env_params
    wanted = -float(math.prod(box.shape)) if target_entropy is None else target_entropy
    num_random = -(-random_steps // (num_workers * num_steps))  # updates; steps would pass 2^31
    losses_of = functools.partial(soft_losses, network=network, gamma=gamma, target_entropy=wanted)

    def init(key: Array) -> SoftState:
        key_params, key_workers = jax.random.split(key)
        keys = jax.random.split(key_workers, num_workers)
        workers = jax.vmap(lambda k: new_worker(env, env_params, k))(keys)
        example = jax.tree.map(lambda x: x[0], workers.observation)
        params = Params(*network.init(key_params, example), jnp.float32(0.0))
        row = Row(example, jnp.zeros(box.shape), jnp.float32(0.0), jnp.zeros((), bool), example)
        state = SoftState(
            params=params,
            targets=params.critics,
            opt_state=optimizer.init(params),
            workers=workers,
            ring=buffers.empty(row, capacity),
            episode_return=jnp.float32(0.0),
            num_updates=jnp.int32(0),
        )
        return jax.tree.map(jnp.copy, state)  # no buffer twice: it could not be donated

    def exploring(state: SoftState) -> Act:
        act = acting(network, state.params)
        at_random = state.num_updates < num_random

        def choose(key: Array, observation: Any) -> tuple[Array, tuple[()]]:
            action, _ = act(key, observation)
            key = jax.random.fold_in(key, 1)
            other = jax.random.uniform(key, box.shape, minval=box.low, maxval=box.high)
            return jnp.where(at_random, other, action), ()

        return choose

    def drawn(ring: Ring, key: Array, places: Array) -> tuple[Row, Array]:
        """Rows and noise, `[rows of this shard, ...]`."""
        number = batch_size // num_workers

        def of(place: Array) -> tuple[Row, Array]:
            key_rows, key_noise = jax.random.split(jax.random.fold_in(key, place))
            noise = jax.random.normal(key_noise, (number, 2, *box.shape))
            return buffers.sample(ring, key_rows, number), noise

        return flat(jax.vmap(of)(places))

    def update(state: SoftState, batch: Array, key: Array) -> tuple[SoftState, StepOutput]:
        check_places(batch, "workers", num_workers, axis_name)
        key_rollout, key_learn = jax.random.split(key)
        workers, steps = collect(
            env,
            env_params,
            exploring(state),
            key_rollout,
            take_workers(state.workers, batch),
            places=batch,
            num_steps=num_steps,
        )
        row = Row(*(getattr(steps, name) for name in Row._fields))
        room = jax.tree.map(lambda x: jnp.zeros((num_workers, *x.shape[1:]), x.dtype), row)
        ring = buffers.add(state.ring, flat(put_workers(room, batch, row, axis_name)))

        def learn(carry: Any, key: Array) -> tuple[Any, dict[str, Array]]:
            params, targets, opt_state = carry
            (params, opt_state), metrics = gradient_step(
                functools.partial(losses_of, targets=targets),
                optimizer,
                (params, opt_state),
                drawn(ring, key, batch),
                axis_name=axis_name,
            )
            return (params, towards(tau, targets, params.critics), opt_state), metrics

        before = state.params, state.targets, state.opt_state
        after, metrics = jax.lax.scan(learn, before, jax.random.split(key_learn, num_updates))
        ready = state.num_updates + 1 >= num_random
        params, targets, opt_state = jax.tree.map(
            lambda new, old: jnp.where(ready, new, old), after, before
        )
        metrics = jax.tree.map(jnp.mean, metrics) | {"alpha": jnp.exp(params.log_alpha)}
        metrics |= episode_metrics(steps, state.episode_return, axis_name)
        metrics |= applied_rate(opt_state)
        state = SoftState(
            params=params,
            targets=targets,
            opt_state=opt_state,
            workers=put_workers(state.workers, batch, workers, axis_name),
            ring=ring,
            episode_return=metrics["episode_return"],
            num_updates=state.num_updates + 1,
        )
        return state, StepOutput(metrics)

    return Core(init, update)
