"""What off-policy learners share: steps go to a ring buffer, and gradients are taken on its rows.

`off_policy(env, learner, optimizer)` is a `Core` whose update acts, adds the steps to a buffer in
the state, and makes gradient steps on rows of it. A `Learner` says how an agent acts, what of a
step is remembered, and what is minimised; `soft_actor_critic` and `control.srl` are two.

Rows and noise are drawn by the places of the workers, so that numbers do not depend on the devices.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrl import buffers
from jaxrl.actor_critic import collect, episode_metrics
from jaxrl.buffers import Ring
from jaxrl.envs.environment import Environment
from jaxrl.minibatches import flat, gradient_step
from jaxrl.rollout import (
    Act,
    Transition,
    Worker,
    check_places,
    new_worker,
    put_workers,
    take_workers,
)
from jaxtrain.core import Core, StepOutput
from jaxtrain.parallel import AxisName
from jaxtrain.schedules import applied_rate
from jaxtrain.schedules.checks import check_counts


class Learner(NamedTuple):
    """What is learned, and how an agent acts with it.

    Attributes:
      init: `(key, observation) -> (params, targets)`; targets are parameters that follow.
      act: `(params, at_random) -> Act`, where `at_random` `[]`, bool, asks for any action.
      row: what is remembered of steps, of any leading axes, all but the buffer's dropped.
      example: `observation -> row`, one row; its numbers do not matter.
      noise: shape of the standard normal noise that the loss takes for a row.
      loss: `(params, (rows [m], noise [m, ...]), targets) -> ([], metrics)`, a mean over rows.
      follow: `(targets, params) -> targets`, after each gradient step.
      said: `params -> metrics` of an update.
    """

    init: Callable[[Array, Any], tuple[Any, Any]]
    act: Callable[[Any, Array], Act]
    row: Callable[[Transition], Any]
    example: Callable[[Any], Any]
    noise: tuple[int, ...]
    loss: Callable[..., tuple[Array, dict[str, Array]]]
    follow: Callable[[Any, Any], Any]
    said: Callable[[Any], dict[str, Array]]


class OffPolicyState(NamedTuple):
    """State of an off-policy learner.

    Attributes:
      params: what gradients change.
      targets: parameters that follow.
      opt_state: of the optimiser.
      workers: environments, every leaf `[W, ...]`.
      ring: the steps that are remembered.
      episode_return: mean of the episodes of the last update in which any ended, `[]`.
      num_updates: `[]`, int32.
    """

    params: Any
    targets: Any
    opt_state: Any
    workers: Worker
    ring: Ring
    episode_return: Array
    num_updates: Array


def towards(tau: Any, old: Any, new: Any) -> Any:
    """old + tau (new - old), leaf by leaf."""
    return jax.tree.map(lambda x, y: x + tau * (y - x), old, new)


def off_policy(
    env: Environment,
    learner: Learner,
    optimizer: optax.GradientTransformation,
    *,
    num_workers: int = 1,
    num_steps: int = 1,
    num_updates: int = 1,
    batch_size: int = 256,
    capacity: int = 1_000_000,
    random_steps: int = 10_000,
    env_params: Any = None,
    axis_name: AxisName | None = None,
) -> Core:
    """A core that acts, remembers and learns from what it remembers.

    Args:
      env: the environment, as the learner's `act` sees it.
      learner: what is learned.
      optimizer: of all parameters; it makes num_updates steps per update.
      num_workers: W, environments over all devices.
      num_steps: T, steps per worker and update.
      num_updates: gradient steps per update.
      batch_size: rows of a gradient step over all devices; a multiple of W.
      capacity: steps that are remembered.
      random_steps: steps of all workers that are taken at random before the first gradient step.
      env_params: of the environment; None for its default ones.
      axis_name: mapped device axis, None for global arrays.

    Returns:
      A core whose batch is worker places `[w]`, int32. Metrics: the loss and its parts, what the
      learner says, `episode_return` and `num_episodes` as of `ppo`.

    Raises:
      ValueError: a size below 1, a batch that the workers cannot share evenly, more steps in an
        update than are remembered; (when called) the batch is not the places of all workers.
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
    env_params = env.params if env_params is None else env_params
    num_random = -(-random_steps // (num_workers * num_steps))  # updates; steps would pass 2^31

    def init(key: Array) -> OffPolicyState:
        key_params, key_workers = jax.random.split(key)
        keys = jax.random.split(key_workers, num_workers)
        workers = jax.vmap(lambda k: new_worker(env, env_params, k))(keys)
        example = jax.tree.map(lambda x: x[0], workers.observation)
        params, targets = learner.init(key_params, example)
        state = OffPolicyState(
            params=params,
            targets=targets,
            opt_state=optimizer.init(params),
            workers=workers,
            ring=buffers.empty(learner.example(example), capacity),
            episode_return=jnp.float32(0.0),
            num_updates=jnp.int32(0),
        )
        return jax.tree.map(jnp.copy, state)  # no buffer twice: it could not be donated

    def drawn(ring: Ring, key: Array, places: Array) -> tuple[Any, Array]:
        """Rows and noise, `[rows of this shard, ...]`."""
        number = batch_size // num_workers

        def of(place: Array) -> tuple[Any, Array]:
            key_rows, key_noise = jax.random.split(jax.random.fold_in(key, place))
            noise = jax.random.normal(key_noise, (number, *learner.noise))
            return buffers.sample(ring, key_rows, number), noise

        return flat(jax.vmap(of)(places))

    def update(
        state: OffPolicyState, batch: Array, key: Array
    ) -> tuple[OffPolicyState, StepOutput]:
        check_places(batch, "workers", num_workers, axis_name)
        key_rollout, key_learn = jax.random.split(key)
        workers, steps = collect(
            env,
            env_params,
            learner.act(state.params, state.num_updates < num_random),
            key_rollout,
            take_workers(state.workers, batch),
            places=batch,
            num_steps=num_steps,
        )
        row = learner.row(steps)
        room = jax.tree.map(lambda x: jnp.zeros((num_workers, *x.shape[1:]), x.dtype), row)
        ring = buffers.add(state.ring, flat(put_workers(room, batch, row, axis_name)))

        def learn(carry: Any, key: Array) -> tuple[Any, dict[str, Array]]:
            params, targets, opt_state = carry
            (params, opt_state), metrics = gradient_step(
                functools.partial(learner.loss, targets=targets),
                optimizer,
                (params, opt_state),
                drawn(ring, key, batch),
                axis_name=axis_name,
            )
            return (params, learner.follow(targets, params), opt_state), metrics

        before = state.params, state.targets, state.opt_state
        after, metrics = jax.lax.scan(learn, before, jax.random.split(key_learn, num_updates))
        ready = state.num_updates + 1 >= num_random
        params, targets, opt_state = jax.tree.map(
            lambda new, old: jnp.where(ready, new, old), after, before
        )
        metrics = jax.tree.map(jnp.mean, metrics) | learner.said(params)
        metrics |= episode_metrics(steps, state.episode_return, axis_name)
        metrics |= applied_rate(opt_state)
        state = OffPolicyState(
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
