"""A ledge: the nearer to its end one stands, the more is earned, and beyond it the episode is over.

Small enough to know everything about attacks on what is seen: there are 32 policies, which go back
or forward at each of five places, and 108 attackers, which show the place or one beside it; the
return of every pair is exact, by going backward through the steps.

    game = ledge_game()                                  # policies, attackers, their payoff
    play = episode_return(game.policies[3], game.attackers[7], key)

References:
  The setting is that of Zhang et al., Robust Deep Reinforcement Learning against Adversarial
  Perturbations on State Observations, NeurIPS 2020, arXiv 2003.08938; the task is ours.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrl.envs.environment import Discrete, Environment, Step
from jaxrl.rollout import episode

EARNED = (0.2, 0.35, 0.5, 0.7, 1.0)  # at each place, after a step to it
PLACES, STEPS, START = len(EARNED), 16, 2
SLIP = 0.1  # chance that a step leads nowhere


class LedgeGame(NamedTuple):
    """Policies against attackers, NumPy arrays.

    Attributes:
      policies: action at each place that is shown, 0 back and 1 forward, `[P, 5]`, int32.
      attackers: place that is shown at each place, `[A, 5]`, int32; the first shows the truth.
      payoff: expected return of an episode of each pair as a share of the largest, `[P, A]`.
    """

    policies: np.ndarray
    attackers: np.ndarray
    payoff: np.ndarray


def ledge() -> Environment:
    """Action 0 goes back and 1 forward, but for one step in ten, which leads nowhere; observation:
    the place, 0 to 4, int32; reward: what the place earns, as a share of all that 16 steps at the
    best one would.

    Terminates with a step beyond the end, which earns nothing, or after 16 steps.
    """

    def reset(key: Array, params: Any) -> tuple[Array, tuple[Array, Array]]:
        return jnp.int32(START), (jnp.int32(START), jnp.int32(0))

    def step(key: Array, state: tuple[Array, Array], action: Array, params: Any) -> Step:
        place, time = state
        move = jnp.where(jax.random.bernoulli(key, SLIP), 0, 2 * action - 1)
        place = jnp.maximum(place + move, 0)
        falls = place >= PLACES
        seen = jnp.minimum(place, PLACES - 1)
        reward = jnp.where(falls, 0.0, jnp.asarray(EARNED)[seen]) / (STEPS * max(EARNED))
        over = falls | (time + 1 >= STEPS)
        return Step(seen, (seen, time + 1), reward, over, jnp.zeros_like(over), {})

    return Environment(reset, step, Discrete(2), ())


def exact_returns(policies: np.ndarray, attackers: np.ndarray) -> np.ndarray:
    """Expected return of an episode of each pair, `[P, A]`, by going backward through its steps.

    Args:
      policies: action at each place that is shown, `[P, 5]`.
      attackers: place that is shown at each place, `[A, 5]`.
    """
    forward = 2 * policies[:, attackers] - 1
    to = np.maximum(np.arange(PLACES) + forward, 0)
    value = np.zeros((*forward.shape[:2], PLACES + 1))
    for _ in range(STEPS):
        after = value + np.append(EARNED, 0.0)
        moved = np.take_along_axis(after, to, -1)
        value[..., :PLACES] = (1 - SLIP) * moved + SLIP * after[..., :PLACES]
    return value[..., START] / (STEPS * max(EARNED))


def ledge_game() -> LedgeGame:
    """All policies of the ledge, all attackers, and what each pair comes to."""
    policies = np.array(list(itertools.product((0, 1), repeat=PLACES)), np.int32)
    beside = [[p, *(q for q in (p - 1, p + 1) if 0 <= q < PLACES)] for p in range(PLACES)]
    attackers = np.array(list(itertools.product(*beside)), np.int32)
    return LedgeGame(policies, attackers, exact_returns(policies, attackers).astype(np.float32))


def episode_return(policy: Array, attacker: Array, key: Array) -> Array:
    """Return of one episode of a policy `[5]` that sees what an attacker `[5]` shows, `[]`."""
    act = lambda key, place: (policy[attacker[place]], ())
    return episode(ledge(), (), act, key, STEPS)[0]
