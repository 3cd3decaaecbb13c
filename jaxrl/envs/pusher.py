"""A point pushes a disc about in a walled square, seen from above.

Nothing has inertia: the disc goes where the point shoves it, along the line between the two, and
stays there; walls stop both, and a disc that they hold stops the point. Lengths are in halves of
the side of the square, whose middle is the origin.

References:
  The task is ours, in the place of an arm and objects on a table: Emukpere et al., arXiv
  2402.00823.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrl.envs.environment import Box, Environment, Step

SPEED = 0.1  # way of a step with the largest action
TOUCH = 0.2  # distance of point and disc when they touch
FURTHEST = 0.85  # of the middle of the disc from the origin, along each axis


class PusherParams(NamedTuple):
    """The time limit in steps."""

    max_steps: ArrayLike = 50


class PusherState(NamedTuple):
    """Positions of point and disc `[2]`, steps done `[]`, int32."""

    point: Array
    disc: Array
    time: Array


class Seen(NamedTuple):
    """An observation `[6]` taken apart: point, disc, and the way from one to the other, `[2]`."""

    point: Array
    disc: Array
    way: Array


def seen(observation: Array) -> Seen:
    """The parts of an observation `[..., 6]`, or of one with more behind it."""
    return Seen(observation[..., :2], observation[..., 2:4], observation[..., 4:6])


def bumps(observation: Array, action: Array) -> Array:
    """Whether the point would leave the square with this action, were there no walls, `[]`."""
    wanted = seen(observation).point + SPEED * jnp.clip(action, -1, 1)
    return (jnp.abs(wanted) > 1).any(-1)


def _apart(fixed: Array, moved: Array) -> Array:
    """Where `moved` is shoved to, so that the two do not overlap, `[2]`."""
    way = moved - fixed
    distance = jnp.linalg.norm(way + 1e-9)
    return jnp.where(distance < TOUCH, fixed + way / distance * TOUCH, moved)


def push(point: Array, disc: Array, action: Array) -> tuple[Array, Array]:
    """Point and disc after an action `[2]` in [-1, 1]."""
    point = jnp.clip(point + SPEED * jnp.clip(action, -1, 1), -1, 1)
    disc = jnp.clip(_apart(point, disc), -FURTHEST, FURTHEST)
    return jnp.clip(_apart(disc, point), -1, 1), disc


def pusher(params: PusherParams | None = None) -> Environment:
    """The square: the disc begins near the middle, the point anywhere.

    Action `[2]` in [-1, 1]: the way of the point in units of `SPEED`; observation `[6]`: point,
    disc, and disc minus point; reward: how far the disc has moved. Truncated after `max_steps`.
    """

    def observe(state: PusherState) -> Array:
        return jnp.concatenate([state.point, state.disc, state.disc - state.point])

    def reset(key: Array, p: PusherParams) -> tuple[Array, PusherState]:
        key_point, key_disc = jax.random.split(key)
        disc = jax.random.uniform(key_disc, (2,), minval=-0.1, maxval=0.1)
        point = jax.random.uniform(key_point, (2,), minval=-1.0, maxval=1.0)
        state = PusherState(jnp.clip(_apart(disc, point), -1, 1), disc, jnp.int32(0))
        return observe(state), state

    def step(key: Array, state: PusherState, action: Array, p: PusherParams) -> Step:
        point, disc = push(state.point, state.disc, action)
        moved: Any = jnp.linalg.norm(disc - state.disc)
        state = PusherState(point, disc, state.time + 1)
        over = state.time >= p.max_steps
        return Step(observe(state), state, moved, jnp.zeros_like(over), over, {})

    return Environment(reset, step, Box((2,), -1.0, 1.0), params or PusherParams())
