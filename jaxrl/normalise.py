"""Running moments, carried in the state, to normalise observations and scale rewards."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.parallel import AxisName, pmean


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


def update_moments(
    moments: Moments, values: Any, axis_name: AxisName | None = None, num_shards: int = 1
) -> Moments:
    """Adds values `[batch, ...]`, those of all shards together.

    Args:
      moments: so far.
      values: new ones; every leaf `[batch, ...]`, equally many per shard.
      axis_name: mapped device axis.
      num_shards: of that axis.

    References:
      Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample
      Variances, 1979.
    """
    count = jax.tree.leaves(values)[0].shape[0] * num_shards
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


def standardise(moments: Moments, value: Any, clip: float = 10.0) -> Any:
    """(value - mean) / standard deviation, clipped."""

    def leaf(mean: Array, variance: Array, x: Array) -> Array:
        return jnp.clip((x - mean) / jnp.sqrt(variance + 1e-8), -clip, clip)

    return jax.tree.map(leaf, moments.mean, moments.variance, value)
