"""Normalisation whose statistics the caller chooses on every call.

Test-time adaptation lives on this choice: source statistics, those of the test batch, a mixture, or
running ones. Every network of `jaxtrain.nets` passes a `Norm` and a row mask down to its layers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from jaxtrain.parallel import AxisName, psum


class Norm(NamedTuple):
    """Which statistics batch-norm layers use; layer and group norm have no choice.

    Attributes:
      weight: a, share of the batch in mean and variance, (1 - a) stored + a batch; `None`: the
        stored ones alone, and the batch is not looked at. May be traced.
      momentum: share of the batch in what is stored; `None`: stored statistics stay. May be traced.
      unbiased: whether the batch variance in the mixture divides by n - 1 instead of n.
      unbiased_stored: the same for the variance that is stored.
    """

    weight: ArrayLike | None = None
    momentum: ArrayLike | None = None
    unbiased: bool = False
    unbiased_stored: bool = True


SOURCE = Norm()
BATCH = Norm(weight=1.0)
# Training, with the momentum and the unbiased stored variance of PyTorch's default.
TRAIN = Norm(weight=1.0, momentum=0.1)


class Moments(NamedTuple):
    """Batch statistics per channel.

    Attributes:
      mean: `[C]`.
      variance: biased, `[C]`.
      size: number of values they are of, `[]`.
    """

    mean: jax.Array
    variance: jax.Array
    size: jax.Array


def batch_moments(
    x: jax.Array, mask: jax.Array | None = None, axis_name: AxisName | None = None
) -> Moments:
    """Mean and variance over all axes but the last, in two passes.

    With row weights m in {0, 1} and P positions per row: n = sum_i m_i P, mean = sum m x / n,
    variance = sum m (x - mean)^2 / n; all zero when no row is selected.

    Args:
      x: `[B, ..., C]`.
      mask: selected rows, `[B]`, bool; `None`: all.
      axis_name: mapped device axis or axes over which the batch is spread, `None` for global
        arrays.

    Returns:
      Moments, float32 or the type of `x` if that is wider.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    weights = jnp.ones(x.shape[:1], x.dtype) if mask is None else mask.astype(x.dtype)
    weights = weights.reshape(-1, *(1,) * (x.ndim - 1))
    rest = tuple(range(x.ndim - 1))
    count = psum(weights.sum(), axis_name) * (x[0, ..., 0].size)
    safe = jnp.maximum(count, 1)
    mean = psum(jnp.where(weights > 0, x, 0).sum(rest), axis_name) / safe
    centred = jnp.where(weights > 0, x - jnp.expand_dims(mean, rest), 0)
    return Moments(mean, psum((centred**2).sum(rest), axis_name) / safe, count)


class Statistics(NamedTuple):
    """What a batch-norm layer normalises with, or stores: `mean` and `var`, `[C]` each."""

    mean: Any
    var: Any


def chosen_statistics(
    x: jax.Array,
    stored: Statistics,
    norm: Norm,
    mask: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> tuple[Statistics, Statistics]:
    """The statistics that a batch-norm layer uses in this call, and those that it stores then.

    Args:
      x: its inputs, `[B, ..., C]`.
      stored: so far.
      norm: what the caller chose.
      mask: rows that count, `[B]`, bool; `None`: all.
      axis_name: mapped device axis or axes of global statistics.
    """
    if norm.weight is None and norm.momentum is None:
        return stored, stored
    batch = batch_moments(x, mask, axis_name)
    corrected = batch.variance * (batch.size / jnp.maximum(batch.size - 1, 1))

    def mixed(share: ArrayLike, unbiased: bool) -> Statistics:
        variance = corrected if unbiased else batch.variance
        mix = lambda old, new: (1 - share) * old + share * new
        return Statistics(mix(stored.mean, batch.mean), mix(stored.var, variance))

    used = stored if norm.weight is None else mixed(norm.weight, norm.unbiased)
    if norm.momentum is None:
        return used, stored
    after = mixed(norm.momentum, norm.unbiased_stored)
    return used, jax.tree.map(lambda new, old: new.astype(old.dtype), after, stored)


def normalised(
    x: jax.Array,
    used: Statistics,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    *,
    epsilon: float = 1e-5,
    dtype: Any = None,
) -> jax.Array:
    """(x - mean) / sqrt(var + epsilon) * scale + bias along the last axis.

    Args:
      x: `[..., C]`.
      used: `[C]` each.
      scale: `[C]`; `None`: 1.
      bias: `[C]`; `None`: 0.
      epsilon: added to the variance.
      dtype: of the result; `None`: that of `x` and `scale`.
    """
    result = dtype or jnp.promote_types(x.dtype, used.mean.dtype if scale is None else scale.dtype)
    wide = jnp.promote_types(result, jnp.float32)
    around = lambda v: jnp.expand_dims(v.astype(wide), tuple(range(x.ndim - 1)))
    factor = jax.lax.rsqrt(around(used.var) + epsilon)
    if scale is not None:
        factor = around(scale) * factor
    centred = (x.astype(wide) - around(used.mean)) * factor
    return (centred if bias is None else centred + around(bias)).astype(result)


class BatchNorm(nn.Module):
    """Batch normalisation over the last axis; parameters `scale`, `bias`, state `mean`, `var`.

    Differs from `flax.linen.BatchNorm`: statistics chosen per call, rows can be left out, two-pass
    variance, PyTorch's epsilon and sense of momentum.

    Attributes:
      epsilon: added to the variance.
      axis_name: mapped device axis of global statistics; `None` for global arrays, or for
        statistics of each shard.
      dtype: of the result; `None`: that of input and parameters.
      param_dtype: of parameters and stored statistics.
    """

    epsilon: float = 1e-5
    axis_name: AxisName | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, norm: Norm, mask: jax.Array | None = None) -> jax.Array:
        shape, dtype = (x.shape[-1],), self.param_dtype
        scale = self.param("scale", nn.initializers.ones, shape, dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, dtype)
        var = self.variable("batch_stats", "var", jnp.ones, shape, dtype)
        used = stored = Statistics(mean.value, var.value)
        if not self.is_initializing():
            used, after = chosen_statistics(x, stored, norm, mask, self.axis_name)
            if norm.momentum is not None:
                mean.value, var.value = after
        wanted = self.dtype or jnp.promote_types(x.dtype, dtype)
        return normalised(x, used, scale, bias, epsilon=self.epsilon, dtype=wanted)


class GroupNorm(nn.Module):
    """Group normalisation called like `BatchNorm`; every row is normalised by itself.

    Attributes:
      num_groups: of channels.
      dtype: of the result; `None`: that of input and parameters.
      param_dtype: of the parameters.
    """

    num_groups: int = 8
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, norm: Norm, mask: jax.Array | None = None) -> jax.Array:
        del norm, mask
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (features,), self.param_dtype)
        result = self.dtype or jnp.promote_types(x.dtype, self.param_dtype)
        wide = jnp.promote_types(result, jnp.float32)
        groups = x.astype(wide).reshape(
            x.shape[0], -1, self.num_groups, features // self.num_groups
        )
        mean = groups.mean((1, 3), keepdims=True)
        variance = ((groups - mean) ** 2).mean((1, 3), keepdims=True)
        normal = ((groups - mean) * jax.lax.rsqrt(variance + 1e-5)).reshape(x.shape)
        around = lambda v: jnp.expand_dims(v.astype(wide), tuple(range(x.ndim - 1)))
        return (normal * around(scale) + around(bias)).astype(result)
