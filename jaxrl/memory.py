"""Agents with memory: what a network remembers is carried from step to step by the environment.

`remembering(env, network.start)` is the environment whose observations come with the memory that
the agent left when it acted last, and whose actions come with the memory to leave:

    env = remembering(cart_pole(), network.start)
    workers, steps = rollout(env, env.params, acting(network, params), key, worker, num_steps)

Rollouts, resets and whole episodes are those of any environment. An episode begins with
`network.start`, whatever ended the one before, and `info["final_observation"]` holds the memory
before the reset, so that the value of the last state of an episode is that of an agent who
remembers the episode.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.distributions import Distribution
from jaxrl.envs.environment import Box, Discrete, Environment, Step, bounded
from jaxrl.rollout import Act


class MemoryNetwork(NamedTuple):
    """A policy and a value function that remember their episode, see `memory_networks`.

    Attributes:
      init: `(key, observation) -> params`.
      start: the memory at the start of an episode, a pytree of arrays.
      unroll: `(params, memory, observation, first) -> (memory, policy, value)`: T steps one after
        the other. Observations, distributions and values are `[T, ...]`; where `first` `[T]` is
        true an episode begins, and nothing before counts.
    """

    init: Callable[[Array, Any], Any]
    start: Any
    unroll: Callable[[Any, Any, Any, Array], tuple[Any, Distribution, Array]]


class Remembered(NamedTuple):
    """An observation, and what is remembered of the episode before it."""

    memory: Any
    observation: Any


class Decided(NamedTuple):
    """An action, and what is to be remembered."""

    action: Any
    memory: Any


class Deciding(NamedTuple):
    """The space of `Decided` with actions of the space `action`."""

    action: Discrete | Box


class Said(NamedTuple):
    """What an agent says besides its action: log pi(action) in nats and V of the step, `[]`."""

    log_prob: Array
    value: Array


def remembering(env: Environment, start: Any) -> Environment:
    """The environment that hands an agent the memory it left.

    Args:
      env: any; actions are clipped to its box.
      start: the memory at the start of an episode.

    Returns:
      An environment with observations `Remembered` and actions `Decided`.
    """

    def reset(key: Array, params: Any) -> tuple[Remembered, Any]:
        observation, state = env.reset(key, params)
        return Remembered(jax.tree.map(jnp.asarray, start), observation), state

    def step(key: Array, state: Any, decided: Decided, params: Any) -> Step:
        one = env.step(key, state, bounded(env, decided.action), params)
        return one._replace(observation=Remembered(decided.memory, one.observation))

    space: Any = Deciding(env.action)
    return Environment(reset, step, space, env.params)


def think(network: MemoryNetwork, params: Any, seen: Remembered) -> tuple[Any, Distribution, Array]:
    """One step: what is to be remembered, the policy and the value `[]`."""
    one = jax.tree.map(lambda x: x[None], seen.observation)
    memory, *said = network.unroll(params, seen.memory, one, jnp.zeros(1, bool))
    policy, value = jax.tree.map(lambda x: x[0], said)
    return memory, policy, value


def acting(network: MemoryNetwork, params: Any, *, greedy: bool = False) -> Act:
    """The network's policy as `rollout` and `episode` want it for a `remembering` environment.

    Args:
      network: its policy.
      params: of the network.
      greedy: the likeliest action instead of a random one.

    Returns:
      `(key, Remembered) -> (Decided, Said)`.
    """

    def act(key: Array, seen: Remembered) -> tuple[Decided, Said]:
        memory, policy, value = think(network, params, seen)
        action = policy.mode() if greedy else policy.sample(key)
        return Decided(action, memory), Said(policy.log_prob(action), value)

    return act
