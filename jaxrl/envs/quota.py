"""A task with a quota: who wins is told between whole trajectories, not step by step.

Each of 16 steps earns 0 or 1. Of two trajectories the one that earned more in the first twelve
wins, but one that earned more than one in the last four loses to any that did not: no reward of
single states and actions says so.

References:
  The non-Markovian preference of Swamy et al., arXiv 2401.04056, section 5, in its smallest form.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxrl.envs.environment import Discrete, Environment, Step

STEPS, EARLY, QUOTA = 16, 12, 1.0


class Earned(NamedTuple):
    """What counts of a trajectory: earned in the first twelve steps and in the last four, `[]`."""

    early: Array
    late: Array

    @property
    def keeps_quota(self) -> Array:
        """Whether the last four steps earned one or less, bool."""
        return self.late <= QUOTA


def quota() -> Environment:
    """The task: action 0 or 1 is the reward; observation `[16]` is the step, one-hot.

    Terminates after 16 steps.
    """

    def observe(time: Array) -> Array:
        return (jnp.arange(STEPS) == time).astype(jnp.float32)

    def reset(key: Array, params: Any) -> tuple[Array, Array]:
        return observe(jnp.int32(0)), jnp.int32(0)

    def step(key: Array, time: Array, action: Array, params: Any) -> Step:
        time = time + 1
        over = time >= STEPS
        reward = action.astype(jnp.float32)
        return Step(observe(time), time, reward, over, jnp.zeros_like(over), {})

    return Environment(reset, step, Discrete(2), ())


def earned(reward: Array) -> Earned:
    """What counts of the rewards `[16]` of one trajectory."""
    return Earned(reward[:EARLY].sum(), reward[EARLY:].sum())


def prefers(a: Earned, b: Earned) -> Array:
    """1 where trajectory a wins against b, 0 where it loses, 1/2 for a draw, `[]`."""
    by_return = 0.5 * (1 + jnp.sign(a.early - b.early))
    by_quota = a.keeps_quota.astype(jnp.float32)
    return jnp.where(a.keeps_quota == b.keeps_quota, by_return, by_quota)
