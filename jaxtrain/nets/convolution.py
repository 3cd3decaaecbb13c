"""Convolution whose gradients stay fast inside loops on CPU.

XLA's CPU backend brings convolutions into the form that its fast routine knows only outside loops.
The gradients that JAX makes of a convolution are in another form, so under `scan` they fall back to
a plain loop, 10 to 50 times slower. Here they are written in the known form. On GPU and TPU the
compiler chooses layouts anyway.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import Array, lax

from jaxtrain.parallel import mark_varying_like

_LAYOUT = ("NHWC", "HWIO", "NHWC")
Pairs = tuple[tuple[int, int], ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: Array, w: Array, strides: tuple[int, ...], padding: Pairs) -> Array:
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=_LAYOUT)


def _forward(x: Array, w: Array, strides: tuple[int, ...], padding: Pairs) -> Any:
    return _conv(x, w, strides, padding), (x, w)


def _backward(strides: tuple[int, ...], padding: Pairs, saved: Any, g: Array) -> Any:
    x, w = saved
    size, kernel, out = x.shape[1:3], w.shape[:2], g.shape[1:3]
    spread = [(n - 1) * s + 1 for n, s in zip(out, strides, strict=True)]
    # dL/dx: g, spread by the stride, with the kernel turned round.
    before = [k - 1 - p[0] for k, p in zip(kernel, padding, strict=True)]
    around = [
        (b, n + k - 1 - m - b) for b, n, k, m in zip(before, size, kernel, spread, strict=True)
    ]
    turned = w[::-1, ::-1].swapaxes(2, 3)
    dx = lax.conv_general_dilated(
        g, turned, (1, 1), around, lhs_dilation=strides, dimension_numbers=_LAYOUT
    )
    # dL/dw: images correlated with g; channels take the place of the batch.
    ends = [
        (p[0], m + k - 1 - n - p[0])
        for p, m, k, n in zip(padding, spread, kernel, size, strict=True)
    ]
    dw = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), (1, 1), ends,
        rhs_dilation=strides, dimension_numbers=_LAYOUT,
    )  # fmt: skip
    return dx, dw.transpose(1, 2, 0, 3)


_conv.defvjp(_forward, _backward)


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Any,
    *,
    feature_group_count: int = 1,
    dimension_numbers: Any = None,
    **options: Any,
) -> Array:
    """For the attribute of this name of `flax.linen.Conv`.

    Dense two-dimensional convolutions `[B, H, W, C]` with kernels `[h, w, C, D]`, without dilation
    or options, have the fast gradients (in reverse mode only); all others are those of JAX.
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    plain = lhs.ndim == 4 and numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _LAYOUT)
    # Anything else that is set, such as a precision or a dilation above 1.
    special = any(v is not None and set(np.atleast_1d(v).tolist()) != {1} for v in options.values())
    if not plain or special or feature_group_count != 1:
        return lax.conv_general_dilated(
            lhs, rhs, window_strides, padding,
            feature_group_count=feature_group_count, dimension_numbers=dimension_numbers, **options,
        )  # fmt: skip
    strides = tuple(window_strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    pairs = tuple((int(a), int(b)) for a, b in padding)
    # Under shard_map a shared kernel meets split images; its gradient is then summed over devices.
    lhs, rhs = mark_varying_like((lhs, rhs), (lhs, rhs))
    return _conv(lhs, rhs, strides, pairs)
