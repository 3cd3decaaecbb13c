"""Multi-armed bandits: one state, several arms, an episode of pulls."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxrl.envs.environment import Discrete, Environment, Step


class BanditParams(NamedTuple):
    """One bandit.

    Attributes:
      mean: mean reward of each arm, `[K]`.
      max_steps: pulls per episode, `[]`.
    """

    mean: ArrayLike
    max_steps: ArrayLike


class BanditState(NamedTuple):
    """Pulls done `[]`, int32."""

    time: Array


def bernoulli(key: Array, mean: Array) -> Array:
    """Reward 1 with probability `mean`, else 0."""
    return jax.random.bernoulli(key, mean).astype(jnp.float32)


def gaussian(key: Array, mean: Array) -> Array:
    """Reward N(mean, 1)."""
    return mean + jax.random.normal(key, jnp.shape(mean))


def bandit(
    num_arms: int,
    *,
    draw: Callable[[Array, Array], Array] = bernoulli,
    max_steps: int = 100,
) -> Environment:
    """A bandit with K arms; its default arms have means (0, ..., 1).

    The observation `[K + 1]` is the one-hot of the last arm and the last reward, zeros at first; an
    episode is truncated after `max_steps` pulls and never terminates.

    Args:
      num_arms: K, at least 2.
      draw: `(key, mean) -> reward`, `bernoulli` or `gaussian`.
      max_steps: default pulls per episode.

    Raises:
      ValueError: fewer than two arms.
    """
    if num_arms < 2:
        raise ValueError(f"a bandit with {num_arms} arms leaves no choice; give at least 2.")

    def reset(key: Array, params: BanditParams) -> tuple[Array, BanditState]:
        return jnp.zeros(num_arms + 1), BanditState(jnp.int32(0))

    def step(key: Array, state: BanditState, action: Array, params: BanditParams) -> Step:
        reward = draw(key, jnp.asarray(params.mean)[action])
        pulled = jax.nn.one_hot(action, num_arms)
        time = state.time + 1
        late = time >= params.max_steps
        observation = jnp.append(pulled, reward)
        return Step(observation, BanditState(time), reward, jnp.zeros_like(late), late, {})

    params = BanditParams(np.linspace(0, 1, num_arms, dtype=np.float32), max_steps)
    return Environment(reset, step, Discrete(num_arms), params)


def sample_bandit(key: Array, num_arms: int, max_steps: int = 100) -> BanditParams:
    """A bandit whose means are drawn from U(0, 1)."""
    return BanditParams(jax.random.uniform(key, (num_arms,)), jnp.int32(max_steps))
