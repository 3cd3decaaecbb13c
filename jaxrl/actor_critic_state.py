"""What an actor-critic learner carries from update to update, and how it begins."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl.envs.environment import Environment
from jaxrl.normalise import no_moments, scaled_rewards
from jaxrl.rollout import Transition, Worker, new_worker, put_workers
from jaxtrain.parallel import AxisName


class ActorCriticState(NamedTuple):
    """State of `ppo` and `a2c`.

    Attributes:
      params: of the network.
      opt_state: of the optimiser.
      workers: environments, every leaf `[W, ...]`.
      discounted: discounted return of each worker's episode so far, `[W]` or, of M rewards,
        `[W, M]`, to scale rewards.
      observation_moments: of observations; `()` if they are not normalised.
      return_moments: of discounted returns; `()` if rewards are not scaled.
      episode_return: mean of the episodes of the last update in which any ended, `[]`.
      num_updates: `[]`, int32.
      relabel: what a `Relabel` keeps; `()` without one.
    """

    params: Any
    opt_state: Any
    workers: Worker
    discounted: Array
    observation_moments: Any
    return_moments: Any
    episode_return: Array
    num_updates: Array
    relabel: Any = ()


class Relabel(NamedTuple):
    """Other rewards in the place of the environment's, such as `jaxrl.control.spo.self_play`.

    Attributes:
      init: `key -> kept`, a pytree of arrays.
      apply: `(kept, steps [w, T], key) -> (rewards [w, T] or [w, T, M], kept, metrics)` of the
        workers of a shard; what it keeps and its metrics, scalars, must be equal on all shards.
    """

    init: Callable[[Array], Any]
    apply: Callable[[Any, Transition, Array], tuple[Array, Any, dict[str, Array]]]


def initial(
    env: Environment,
    env_params: Any,
    init_params: Callable[[Array, Any], Any],
    optimizer: optax.GradientTransformation,
    key: Array,
    *,
    num_workers: int,
    normalise_observations: bool,
    scale_rewards: bool,
    rewards: tuple[int, ...] = (),
) -> ActorCriticState:
    """The state before the first update; `init_params` is `(key, observation) -> params`, and
    `rewards` the shape of those of a step."""
    key_params, key_workers = jax.random.split(key)
    keys = jax.random.split(key_workers, num_workers)
    workers = jax.vmap(lambda k: new_worker(env, env_params, k))(keys)
    example = jax.tree.map(lambda x: x[0], workers.observation)
    params = init_params(key_params, example)
    state = ActorCriticState(
        params=params,
        opt_state=optimizer.init(params),
        workers=workers,
        discounted=jnp.zeros((num_workers, *rewards)),
        observation_moments=no_moments(example) if normalise_observations else (),
        return_moments=no_moments(jnp.zeros(rewards)) if scale_rewards else (),
        episode_return=jnp.float32(0.0),
        num_updates=jnp.int32(0),
    )
    # Observation and state of an environment may be one buffer, which cannot be donated twice.
    return jax.tree.map(jnp.copy, state)


def with_scaled_rewards(
    state: ActorCriticState,
    places: Array,
    steps: Transition,
    gamma: ArrayLike,
    axis_name: AxisName | None,
) -> tuple[ActorCriticState, Array]:
    """The state with its moments of returns moved on, and the `scaled_rewards` of the steps."""
    reward, mine, moments = scaled_rewards(
        state.return_moments,
        state.discounted[places],
        steps.reward,
        steps.done,
        gamma=gamma,
        axis_name=axis_name,
    )
    discounted = put_workers(state.discounted, places, mine, axis_name)
    return state._replace(discounted=discounted, return_moments=moments), reward
