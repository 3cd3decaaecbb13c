"""Running moments, carried in the state, to normalise observations and scale rewards."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxtrain.parallel import AxisName, axis_size, pmean


class Moments(NamedTuple):
    """Count, mean and mean squared deviation of everything seen.

    Attributes:
      num_seen: values so far, `[]`, float32.
      mean: like one value.
      variance: like one value.
    """

    num_seen: Array
    mean: Any
    variance: Any


def no_moments(value: Any) -> Moments:
    """Moments before anything was seen; mean 0 and variance 1, so that they change nothing."""
    zeros = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.float32), value)
    return Moments(jnp.float32(0.0), zeros, jax.tree.map(jnp.ones_like, zeros))


def update_moments(moments: Moments, values: Any, axis_name: AxisName | None = None) -> Moments:
    """Adds values `[batch, ...]`, those of all shards together.

    Args:
      moments: so far.
      values: new ones; every leaf `[batch, ...]`, equally many per shard.
      axis_name: mapped device axis.

    References:
      Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample
      Variances, 1979.
    """
    count = jax.tree.leaves(values)[0].shape[0] * axis_size(axis_name)
    total = moments.num_seen + count
    seen = moments.num_seen / total

    def leaf(mean: Array, variance: Array, x: Array) -> tuple[Array, Array]:
        new_mean = pmean(x.mean(0), axis_name)
        new_variance = pmean(((x - new_mean[None]) ** 2).mean(0), axis_name)
        gap = new_mean - mean
        mixed = seen * variance + (1 - seen) * new_variance + seen * (1 - seen) * gap**2
        return mean + (1 - seen) * gap, mixed

    pairs = jax.tree.map(leaf, moments.mean, moments.variance, values)
    mean, variance = jax.tree.transpose(
        jax.tree.structure(moments.mean), jax.tree.structure((0, 0)), pairs
    )
    return Moments(total, mean, variance)


def standardise(moments: Any, value: Any, clip: float = 10.0) -> Any:
    """(value - mean) / standard deviation of one value, clipped; callers `vmap` over several.

    Args:
      moments: `Moments`, or `()` to leave the value as it is.
      value: every leaf like those of the moments.
      clip: in standard deviations.
    """
    if moments == ():
        return value

    def leaf(mean: Array, variance: Array, x: Array) -> Array:
        return jnp.clip((x - mean) / jnp.sqrt(variance + 1e-8), -clip, clip)

    return jax.tree.map(leaf, moments.mean, moments.variance, value)


def returns_so_far(
    before: Array, reward_t: Array, done_t: Array, gamma: ArrayLike
) -> tuple[Array, Array]:
    """Discounted return of the episode so far, after each step of one worker.

        R_t = gamma R_{t-1} + r_t, where R_{t-1} is 0 if an episode ended with step t-1

    Args:
      before: R before the first step, `[]`.
      reward_t: r, `[T]`.
      done_t: whether an episode ended with the step, `[T]`, bool.
      gamma: discount per step.

    Returns:
      What the next rollout takes as `before`, `[]`, and R, `[T]`, in units of the reward.
    """

    def add(before: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, done = step
        total = jnp.asarray(gamma * before + reward)
        return jnp.where(done, 0.0, total), total

    return jax.lax.scan(add, before, (reward_t, done_t))


def scaled_rewards(
    moments: Moments,
    before: Array,
    reward: Array,
    done: Array,
    *,
    gamma: ArrayLike,
    axis_name: AxisName | None = None,
) -> tuple[Array, Array, Moments]:
    """Rewards divided by the running standard deviation of the discounted return so far.

    The mean is not subtracted, so that the sign of a reward stays.

    Args:
      moments: of the returns so far, `no_moments(jnp.float32(0))` at first.
      before: return so far of each worker, `[w]`, 0 at first.
      reward: `[w, T]`; M rewards `[w, T, M]` go with `before` `[w, M]` and moments of `[M]`.
      done: `[w, T]`, bool.
      gamma: discount per step.
      axis_name: mapped device axis.

    Returns:
      Rewards `[w, T]` without a unit, the next `before` `[w]`, and the next moments.

    References:
      Engstrom et al., Implementation Matters in Deep Policy Gradients, arXiv 2005.12729, section 3;
      code of baselines (VecNormalize).
    """
    after, running = jax.vmap(returns_so_far, (0, 0, 0, None))(before, reward, done, gamma)
    moments = update_moments(moments, running.reshape(-1, *running.shape[2:]), axis_name)
    deviation = jnp.broadcast_to(jnp.sqrt(moments.variance + 1e-8), reward.shape)
    return reward / deviation, after, moments
