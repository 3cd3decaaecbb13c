"""Pendulum: swing a pole up with a bounded torque and hold it there (continuous actions)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrl.envs.environment import Box, Environment, Step

MAX_TORQUE = 2.0
MAX_SPEED = 8.0


class PendulumParams(NamedTuple):
    """Physics in SI units, and the time limit in steps; the numbers of Pendulum-v1."""

    gravity: ArrayLike = 10.0
    mass: ArrayLike = 1.0
    length: ArrayLike = 1.0
    seconds_per_step: ArrayLike = 0.05
    max_steps: ArrayLike = 200


class PendulumState(NamedTuple):
    """Angle from upright (rad), angular velocity (rad/s), steps done (int32); all `[]`."""

    angle: Array
    speed: Array
    time: Array


def _observe(state: PendulumState) -> Array:
    return jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.speed])


def pendulum(params: PendulumParams | None = None) -> Environment:
    """The pendulum task with the constants of Pendulum-v1.

    Action `[1]`, a torque in [-2, 2] N m; observation `[3]`: cos, sin of the angle and the angular
    velocity; reward -(angle^2 + 0.1 speed^2 + 0.001 torque^2) of the state before the step, angle
    in [-pi, pi). Never terminates; truncated after 200 steps.

    References:
      Constants of Gym's Pendulum-v1.
    """

    def reset(key: Array, p: PendulumParams) -> tuple[Array, PendulumState]:
        bound = jnp.array([jnp.pi, 1.0])
        angle, speed = jax.random.uniform(key, (2,), minval=-bound, maxval=bound)
        state = PendulumState(angle, speed, jnp.int32(0))
        return _observe(state), state

    def step(key: Array, state: PendulumState, action: Array, p: PendulumParams) -> Step:
        torque = jnp.clip(action[0], -MAX_TORQUE, MAX_TORQUE)
        wrapped = (state.angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
        reward = -(wrapped**2 + 0.1 * state.speed**2 + 0.001 * torque**2)
        push = 1.5 * p.gravity / p.length * jnp.sin(state.angle)
        push = push + 3.0 / (p.mass * p.length**2) * torque
        speed = jnp.clip(state.speed + push * p.seconds_per_step, -MAX_SPEED, MAX_SPEED)
        angle = state.angle + speed * p.seconds_per_step
        state = PendulumState(angle, speed, state.time + 1)
        late = state.time >= p.max_steps
        return Step(_observe(state), state, reward, jnp.zeros_like(late), late, {})

    box = Box((1,), -MAX_TORQUE, MAX_TORQUE)
    return Environment(reset, step, box, params or PendulumParams())
