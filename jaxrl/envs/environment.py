"""What an environment is: two pure functions, and what a step returns.

An environment here never resets itself. `step_and_reset` does, and keeps the observation before the
reset in `info["final_observation"]`, which is what values and learned objectives must look at: the
observation of the next episode says nothing about how this one ended.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Discrete(NamedTuple):
    """Actions 0 to `num_actions` - 1, int32 `[]`."""

    num_actions: int


class Box(NamedTuple):
    """Actions in a box, float32 of the given shape; `low` and `high` bound every entry."""

    shape: tuple[int, ...]
    low: float
    high: float


class Step(NamedTuple):
    """What one step returns: the six values of the usual step function, by name.

    Attributes:
      observation: what to act on next; after `step_and_reset`, of the new episode if one began.
      state: of the environment.
      reward: `[]`, float32.
      terminated: the episode ended in a state without a future, `[]`, bool.
      truncated: the episode was cut, usually by a time limit, `[]`, bool.
      info: named arrays; `step_and_reset` adds `final_observation`, the one before any reset.
    """

    observation: Any
    state: Any
    reward: Array
    terminated: Array
    truncated: Array
    info: dict[str, Any]


class Environment(NamedTuple):
    """An environment as pure functions.

    Attributes:
      reset: `(key, params) -> (observation, state)`.
      step: `(key, state, action, params) -> Step`, without reset.
      action: the action space.
      params: default parameters, a pytree of numbers; batches of different ones can be vmapped.
    """

    reset: Callable[[Array, Any], tuple[Any, Any]]
    step: Callable[[Array, Any, Any, Any], Step]
    action: Discrete | Box
    params: Any


def bounded(env: Environment, action: Any) -> Any:
    """The action with entries of a `Box` clipped to its bounds."""
    if isinstance(env.action, Box):
        return jnp.clip(action, env.action.low, env.action.high)
    return action


def step_and_reset(
    env: Environment, key_step: Array, key_reset: Array, state: Any, action: Any, params: Any
) -> Step:
    """One step, and the start of a new episode when this one is over.

    Args:
      env: the environment.
      key_step: randomness of the step.
      key_reset: randomness of the reset.
      state: of the environment.
      action: in `env.action`; entries of a `Box` are clipped to its bounds.
      params: of the environment.

    Returns:
      `Step` with the observation and state to go on with, and `info["final_observation"]`.
    """
    step = env.step(key_step, state, bounded(env, action), params)
    observation, state = env.reset(key_reset, params)
    done = step.terminated | step.truncated
    observation, state = jax.tree.map(
        lambda new, old: jnp.where(done, new, old),
        (observation, state),
        (step.observation, step.state),
    )
    info = step.info | {"final_observation": step.observation}
    return step._replace(observation=observation, state=state, info=info)
