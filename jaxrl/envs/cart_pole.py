"""CartPole: keep a pole upright on a cart by pushing left or right."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrl.envs.environment import Discrete, Environment, Step


class CartPoleParams(NamedTuple):
    """Physics in SI units, and the time limit in steps; the numbers of CartPole-v1."""

    gravity: ArrayLike = 9.8
    cart_mass: ArrayLike = 1.0
    pole_mass: ArrayLike = 0.1
    half_length: ArrayLike = 0.5
    force: float | Array = 10.0
    seconds_per_step: ArrayLike = 0.02
    max_angle: ArrayLike = 12 * math.pi / 180
    max_position: ArrayLike = 2.4
    max_steps: ArrayLike = 500


class CartPoleState(NamedTuple):
    """Position (m), velocity, angle (rad), angular velocity `[4]`; steps done `[]`, int32."""

    physics: Array
    time: Array


def cart_pole(params: CartPoleParams | None = None) -> Environment:
    """The cart-pole task with the constants of CartPole-v1 and Euler integration.

    Two actions (push left, push right), observation `[4]`, reward 1 per step. Terminates when the
    cart leaves the track or the pole leans over 12 degrees; truncated after 500 steps.

    Args:
      params: other physics or time limit.

    References:
      Barto, Sutton and Anderson, Neuronlike Adaptive Elements That Can Solve Difficult Learning
      Control Problems, 1983; constants of Gym's CartPole-v1.
    """

    def reset(key: Array, p: CartPoleParams) -> tuple[Array, CartPoleState]:
        physics = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return physics, CartPoleState(physics, jnp.int32(0))

    def step(key: Array, state: CartPoleState, action: Array, p: CartPoleParams) -> Step:
        position, velocity, angle, spin = state.physics
        force = jnp.where(action == 1, p.force, -p.force)
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        total_mass = p.cart_mass + p.pole_mass
        pull = (force + p.pole_mass * p.half_length * spin**2 * sin) / total_mass
        spin_up = (p.gravity * sin - cos * pull) / (
            p.half_length * (4.0 / 3.0 - p.pole_mass * cos**2 / total_mass)
        )
        speed_up = pull - p.pole_mass * p.half_length * spin_up * cos / total_mass
        rates = jnp.stack([velocity, speed_up, spin, spin_up])
        physics = state.physics + p.seconds_per_step * rates
        time = state.time + 1
        over = (jnp.abs(physics[0]) > p.max_position) | (jnp.abs(physics[2]) > p.max_angle)
        late = time >= p.max_steps
        return Step(physics, CartPoleState(physics, time), jnp.float32(1.0), over, late, {})

    return Environment(reset, step, Discrete(2), params or CartPoleParams())
