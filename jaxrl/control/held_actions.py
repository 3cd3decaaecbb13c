"""Deciding seldom: how much an agent loses that is asked only every L steps.

An agent that is asked every L steps keeps what it decided in between. It does so with the memory of
`jaxrl.memory`, so that rollouts and whole episodes are those of any environment:

    env = remembering(pendulum(), nothing_held(pendulum().action))
    total, length = episode(env, env.params, holding(act, 8), key, 200)

`frequency_averaged_score` sums up the returns over L in one number, FAS.

References:
  Patel and Siegelmann, Overcoming Slow Decision Frequencies in Continuous Control, ICLR 2025, arXiv
  2410.08979, and its code, dee0512/Sequence-Reinforcement-Learning (the notebook of FAS).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxrl.envs.environment import Box
from jaxrl.memory import Decided, Remembered
from jaxrl.rollout import Act

LENGTHS = (1, *range(2, 31, 2))  # L of the paper


class Held(NamedTuple):
    """An action, and the step since it was decided, modulo L, `[]`, int32; 0 asks for another."""

    action: Any
    place: Any


def nothing_held(action: Box) -> Held:
    """The memory at the start of an episode."""
    return Held(np.zeros(action.shape, np.float32), np.int32(0))


def holding(act: Act, length: ArrayLike) -> Act:
    """Asks `act` every `length` steps of an episode and repeats its action in between.

    Args:
      act: of an agent without memory.
      length: L, at least 1; may be traced.

    Returns:
      `(key, Remembered) -> (Decided, extras)` for an environment made by `remembering` with
      `nothing_held`.
    """

    def choose(key: Array, seen: Remembered) -> tuple[Decided, Any]:
        held: Held = seen.memory
        new, extras = act(key, seen.observation)
        action = jnp.where(held.place == 0, new, held.action)
        return Decided(action, Held(action, (held.place + 1) % length)), extras

    return choose


def frequency_averaged_score(
    returns: Array, lengths: Sequence[int], *, offset: float, max_return: float
) -> Array:
    """FAS: area under the returns over L by the trapezoid rule / (30 max_return), `[...]`.

    The paper's lengths go from 1 to 30, which is 29, and are divided by 30 all the same; other
    lengths are divided by the longest. An agent with max_return at every L has 29/30.

    Args:
      returns: mean return at each L, `[..., lengths]`.
      lengths: L, increasing.
      offset: is added to every return.
      max_return: of the environment, after the offset.
    """
    steps = jnp.broadcast_to(jnp.asarray(lengths, jnp.float32), returns.shape)
    area = jax.scipy.integrate.trapezoid(returns + offset, steps)
    return area / (lengths[-1] * max_return)
