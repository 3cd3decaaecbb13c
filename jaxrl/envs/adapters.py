"""Environments of other packages in our protocol.

The environment is made by the caller, so that no optional package is imported here:

    env = from_gymnax(*gymnax.make("Breakout-MinAtar"))
    env = from_brax(brax.envs.get_environment("ant", backend="spring"), max_steps=1000)
    env = from_brax(registry.load("CartpoleBalance", config_overrides={"impl": "jax"}), 1000)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxrl.envs.environment import Box, Discrete, Environment, Step
from jaxtrain.schedules.checks import check_counts


def from_gymnax(env: Any, params: Any = None) -> Environment:
    """A gymnax environment (version 1.0 or newer).

    Args:
      env: from `gymnax.make`.
      params: from `gymnax.make`; None for the environment's defaults.

    Raises:
      ValueError: the environment is of gymnax 0.x, which does not tell termination and truncation
        apart, or has an action space that is neither discrete nor a box with equal bounds.
    """
    if not hasattr(env, "is_truncated"):
        raise ValueError(
            f"{type(env).__name__} does not tell termination and truncation apart; install "
            "gymnax >= 1.0.1."
        )
    params = env.default_params if params is None else params
    space = env.action_space(params)
    action: Discrete | Box
    if hasattr(space, "n"):
        action = Discrete(int(space.n))
    else:
        low, high = np.asarray(space.low), np.asarray(space.high)
        if low.min() != low.max() or high.min() != high.max():
            raise ValueError(
                f"{type(env).__name__} bounds its actions by {low} and {high}; only boxes with "
                "equal bounds in every entry are supported."
            )
        action = Box(tuple(space.shape), float(low.min()), float(high.max()))

    def reset(key: Array, params: Any) -> tuple[Any, Any]:
        return env.reset_env(key, params)

    def step(key: Array, state: Any, action: Any, params: Any) -> Step:
        observation, state, reward, terminated, info = env.step_env(key, state, action, params)
        truncated = env.is_truncated(state, params)
        reward, terminated = jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool)
        return Step(observation, state, reward, terminated, jnp.asarray(truncated, bool), info)

    return Environment(reset, step, action, jax.tree.map(jnp.asarray, params))


class TimedState(NamedTuple):
    """State of a wrapped environment and steps done `[]`, int32."""

    inner: Any
    time: Array


class TimeLimit(NamedTuple):
    """Steps after which an episode is truncated, `[]`."""

    max_steps: ArrayLike


_OWN_EPISODES = ("AutoReset", "Episode", "Vmap", "Eval")  # in the names of brax's wrappers


def _check_bare(env: Any) -> None:
    for name in ("reset", "step", "action_size"):
        if not hasattr(env, name):
            raise ValueError(
                f"{type(env).__name__} has no {name}; a brax environment has reset(key), "
                "step(state, action) and action_size."
            )
    layer = env
    while (inner := getattr(layer, "__dict__", {}).get("env")) is not None:
        name = type(layer).__name__
        if any(word in name for word in _OWN_EPISODES):
            raise ValueError(
                f"{name} begins, ends or stacks episodes inside step, which hides their last "
                "observation or the time limit; give the bare environment, env.unwrapped."
            )
        layer = inner


def from_brax(env: Any, max_steps: int = 1000) -> Environment:
    """A brax environment, or one of the MuJoCo playground (which has the same interface).

    Give the bare environment, without brax's episode and auto-reset wrappers: the time limit is
    kept here, so that it truncates instead of terminating. Actions are in [-1, 1].

    Args:
      env: has `reset(key)`, `step(state, action)` and `action_size`.
      max_steps: steps per episode, at least 1.

    Raises:
      ValueError: the environment lacks one of these, is wrapped so that it begins or ends episodes
        by itself or runs several at once, or `max_steps` is below 1.
    """
    _check_bare(env)
    check_counts(max_steps=max_steps)

    def reset(key: Array, params: TimeLimit) -> tuple[Any, TimedState]:
        inner = env.reset(key)
        return inner.obs, TimedState(inner, jnp.int32(0))

    def step(key: Array, state: TimedState, action: Array, params: TimeLimit) -> Step:
        copied = jax.tree.map(lambda x: x, state.inner)  # brax writes into the dict of metrics
        inner = env.step(copied, action)
        # Some steps return other dtypes or weak types than the reset; a scan wants one type.
        inner = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), inner, state.inner)
        time = state.time + 1
        late = time >= params.max_steps
        reward = jnp.asarray(inner.reward, jnp.float32)
        return Step(inner.obs, TimedState(inner, time), reward, inner.done > 0.5, late, {})

    box = Box((env.action_size,), -1.0, 1.0)
    return Environment(reset, step, box, TimeLimit(max_steps))
