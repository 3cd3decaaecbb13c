"""Rollouts as scans over steps, unbatched; callers `vmap` over workers.

start = jax.vmap(lambda k: new_worker(env, params, k))(keys)                              # [W]
workers, steps = jax.vmap(lambda k, w: rollout(env, params, act, k, w, T))(keys, start)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrl.envs.environment import Environment, bounded, step_and_reset
from jaxtrain.parallel import AxisName, axis_size, mark_varying_like, psum

Act = Callable[[Array, Any], tuple[Any, Any]]  # (key, observation) -> (action, extras)


class Worker(NamedTuple):
    """An environment in the middle of an episode.

    Attributes:
      observation: what to act on next.
      state: of the environment.
      episode_return: undiscounted rewards of the episode so far, `[]`.
      episode_length: steps of the episode so far, `[]`, int32.
    """

    observation: Any
    state: Any
    episode_return: Array
    episode_length: Array


class Transition(NamedTuple):
    """Steps of one worker; every leaf `[T, ...]`.

    Attributes:
      observation: what was acted on.
      action: the action.
      extras: what the policy said besides.
      reward: float32.
      terminated, truncated: how the episode ended, if it did, bool.
      next_observation: what followed, before any reset.
      episode_return: undiscounted return of the episode up to and including this step; at its last
        step that of the whole episode.
      episode_length: steps of the episode up to and including this one, int32.
    """

    observation: Any
    action: Any
    extras: Any
    reward: Array
    terminated: Array
    truncated: Array
    next_observation: Any
    episode_return: Array
    episode_length: Array

    @property
    def done(self) -> Array:
        """Whether an episode ended here, for whatever reason."""
        return self.terminated | self.truncated


def new_worker(env: Environment, params: Any, key: Array) -> Worker:
    """A worker at the start of an episode."""
    observation, state = env.reset(key, params)
    return mark_varying_like(Worker(observation, state, jnp.float32(0.0), jnp.int32(0)), key)


def _typed_like(new: Any, old: Any) -> Any:
    """Keeps the types of a loop's carry, which environments may widen with `jax_enable_x64`."""
    cast = lambda x, like: x if x.dtype == like.dtype else x.astype(like.dtype)
    return jax.tree.map(cast, new, old)


def rollout(
    env: Environment,
    params: Any,
    act: Act,
    key: Array,
    worker: Worker,
    num_steps: int,
    keep: Callable[[Transition], Transition] | None = None,
) -> tuple[Worker, Transition]:
    """Acts for a number of steps, beginning a new episode whenever one is over.

    Args:
      env: the environment.
      params: of the environment.
      act: `(key, observation) -> (action, extras)`.
      key: consumed.
      worker: from `new_worker` or from the rollout before.
      num_steps: T.
      keep: what is kept of a step, made of it while it is at hand; None: all of it.

    Returns:
      The worker to go on with, and the steps `[T, ...]`.
    """
    # All keys at once: much cheaper than splitting in every step.
    keys = jax.vmap(lambda k: jax.random.split(k, 3))(jax.random.split(key, num_steps))

    def one(worker: Worker, keys: Array) -> tuple[Worker, Transition]:
        key_act, key_step, key_reset = keys
        action, extras = act(key_act, worker.observation)
        step = step_and_reset(env, key_step, key_reset, worker.state, action, params)
        done = step.terminated | step.truncated
        total = worker.episode_return + step.reward
        length = worker.episode_length + 1
        transition = Transition(
            worker.observation,
            action,
            extras,
            step.reward,
            step.terminated,
            step.truncated,
            step.info["final_observation"],
            total,
            length,
        )
        after = Worker(
            step.observation,
            step.state,
            jnp.where(done, 0.0, total),
            jnp.where(done, 0, length),
        )
        return _typed_like(after, worker), transition if keep is None else keep(transition)

    return jax.lax.scan(one, worker, keys)


def episode(
    env: Environment, params: Any, act: Act, key: Array, max_steps: int
) -> tuple[Array, Array]:
    """Undiscounted return and length of one episode from its start.

    Stops as soon as the episode is over; under `vmap`, when all of them are. Cannot be
    differentiated in reverse mode.

    Args:
      env: the environment.
      params: of the environment.
      act: `(key, observation) -> (action, extras)`.
      key: consumed.
      max_steps: where to stop counting if the episode goes on.

    Returns:
      Return `[]` and length `[]`, int32.
    """
    key_reset, key_steps = jax.random.split(key)
    observation, state = env.reset(key_reset, params)

    def body(carry: Any) -> Any:
        observation, state, total, time, over = carry
        key_act, key_step = jax.random.split(jax.random.fold_in(key_steps, time))
        action, _ = act(key_act, observation)
        step = env.step(key_step, state, bounded(env, action), params)
        over = step.terminated | step.truncated
        after = (step.observation, step.state, total + step.reward, time + 1, over)
        return _typed_like(after, carry)

    start = (observation, state, jnp.float32(0.0), jnp.int32(0), jnp.zeros((), bool))
    start = mark_varying_like(start, key)
    going = lambda carry: ~carry[-1] & (carry[-2] < max_steps)
    _, _, total, length, _ = jax.lax.while_loop(going, body, start)
    return total, length


def check_places(places: Any, owners: str, number: int, axis_name: AxisName | None = None) -> None:
    """Refuses batches that are not the list of all places, or a shard's even part of it.

    Args:
      places: the batch of a core that makes its own data, `[w]`, integers.
      owners: whose places they are, for the error.
      number: of those, over all devices.
      axis_name: mapped device axis; None for global arrays.

    Raises:
      ValueError: it is something else, names another number of places than there are, or, where the
        values are known and not those of a shard, not every place once.
    """
    wanted = f"the batch must be the places of the {owners}, arange({number})"
    if getattr(places, "ndim", None) != 1:
        raise ValueError(f"{wanted}, but is a {type(places).__name__}.")
    if not jnp.issubdtype(places.dtype, jnp.integer):
        raise ValueError(f"{wanted}, but holds {places.dtype}.")
    shards = axis_size(axis_name)
    if len(places) * shards != number:
        on = f" on each of {shards} devices" if shards > 1 else ""
        raise ValueError(f"{wanted}, but names {len(places)}{on}.")
    here = not isinstance(places, jax.core.Tracer) and getattr(places, "is_fully_addressable", True)
    if axis_name is None and here:
        if not np.array_equal(np.sort(np.asarray(places)), np.arange(number)):
            raise ValueError(f"{wanted}, but does not name each of them once: {places}.")


def take_workers(tree: Any, index: Array) -> Any:
    """Those workers of `[W, ...]` whose places are in `index` `[w]`."""
    return jax.tree.map(lambda x: x[index], tree)


def put_workers(tree: Any, index: Array, new: Any, axis_name: AxisName | None) -> Any:
    """The inverse of `take_workers`: `[W, ...]` with the workers of all shards put back.

    Together the shards' indices must name every worker once; the result is equal on all shards.
    """
    if axis_name is None:
        return jax.tree.map(lambda x, y: x.at[index].set(y), tree, new)

    def leaf(x: Array, y: Array) -> Array:
        # A sum of zeros and one value per worker is that value, exactly.
        kind = jnp.int32 if x.dtype == bool else x.dtype
        mine = jnp.zeros_like(x, kind).at[index].set(y.astype(kind))
        return psum(mine, axis_name).astype(x.dtype)

    return jax.tree.map(leaf, tree, new)
