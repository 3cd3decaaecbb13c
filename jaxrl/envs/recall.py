"""A memory task: a cue, a delay, and a choice that only the cue tells right from wrong."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrl.envs.environment import Discrete, Environment, Step


class RecallParams(NamedTuple):
    """Steps between cue and choice, `[]`."""

    delay: ArrayLike


class RecallState(NamedTuple):
    """The cue and the steps done, `[]`, int32."""

    cue: Array
    time: Array


def recall(num_cues: int = 4, delay: int = 8) -> Environment:
    """Shows one of K cues, nothing for `delay` steps, then asks which one it was.

    Observation `[K + 1]`: the one-hot of the cue in the first step, zeros later, and last 1 in the
    step of the choice. Action: one of K, which counts in that step only; reward 1 if it is the cue,
    0 otherwise, and the episode terminates. It has delay + 2 steps. Without memory no policy gets
    more than 1 / K on average.

    Args:
      num_cues: K, at least 2.
      delay: default number of steps between cue and choice.

    Raises:
      ValueError: fewer than two cues, or a negative delay.
    """
    if num_cues < 2:
        raise ValueError(f"{num_cues} cues leave nothing to remember; give at least 2.")
    if delay < 0:
        raise ValueError(f"delay is {delay}; it must be at least 0.")

    def observe(state: RecallState, p: RecallParams) -> Array:
        cue = jax.nn.one_hot(state.cue, num_cues) * (state.time == 0)
        return jnp.append(cue, (state.time == p.delay + 1) * 1.0)

    def reset(key: Array, p: RecallParams) -> tuple[Array, RecallState]:
        state = RecallState(jax.random.randint(key, (), 0, num_cues), jnp.int32(0))
        return observe(state, p), state

    def step(key: Array, state: RecallState, action: Array, p: RecallParams) -> Step:
        asked = state.time == p.delay + 1
        reward = (asked & (action == state.cue)) * 1.0
        state = state._replace(time=state.time + 1)
        return Step(observe(state, p), state, reward, asked, jnp.zeros_like(asked), {})

    return Environment(reset, step, Discrete(num_cues), RecallParams(delay))
