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
        used_mean, used_var = mean.value, var.value
        if not self.is_initializing() and (norm.weight is not None or norm.momentum is not None):
            batch = batch_moments(x, mask, self.axis_name)
            corrected = batch.variance * (batch.size / jnp.maximum(batch.size - 1, 1))
            mixed = lambda a, stored, new: (1 - a) * stored + a * new
            if norm.weight is not None:
                variance = corrected if norm.unbiased else batch.variance
                used_mean = mixed(norm.weight, mean.value, batch.mean)
                used_var = mixed(norm.weight, var.value, variance)
            if norm.momentum is not None:
                variance = corrected if norm.unbiased_stored else batch.variance
                mean.value = mixed(norm.momentum, mean.value, batch.mean).astype(mean.value.dtype)
                var.value = mixed(norm.momentum, var.value, variance).astype(var.value.dtype)
        result = self.dtype or jnp.promote_types(x.dtype, dtype)
        wide = jnp.promote_types(result, jnp.float32)
        around = lambda v: jnp.expand_dims(v.astype(wide), tuple(range(x.ndim - 1)))
        factor = around(scale) * jax.lax.rsqrt(around(used_var) + self.epsilon)
        return ((x.astype(wide) - around(used_mean)) * factor + around(bias)).astype(result)


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
