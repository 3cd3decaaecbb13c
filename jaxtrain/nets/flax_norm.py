"""Flax's own batch norm with the statistics and rows that the caller chooses.

A network that was written without a `Norm` argument is adapted as it is: while it is traced, its
`BatchNorm` layers take their statistics from `chosen_statistics`. Everything else about a layer
(axes, epsilon, types, which of scale and bias it has) stays its own.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxtrain.nets.norm import Norm, Statistics, chosen_statistics, normalised


class Choice(NamedTuple):
    """What a caller chose: `norm`, and the rows that count, `[B]` bool or `None` for all."""

    norm: Norm
    mask: jax.Array | None


def layer_outputs(
    layer: Any,
    x: jax.Array,
    stored: Statistics,
    affine: tuple[jax.Array | None, jax.Array | None],
    choice: Choice,
    own_mask: Any = None,
) -> tuple[jax.Array, Statistics]:
    """What a Flax batch-norm layer returns under a choice, and the statistics it stores then.

    Args:
      layer: has Flax's attributes, `axis`, `axis_name`, `epsilon` and `dtype` among them.
      x: its inputs, with the batch as first axis.
      stored: statistics so far, in the shape of the feature axes.
      affine: its scale and bias; `None` for one that it does not have.
      choice: of the caller.
      own_mask: what the network itself gave the layer as `mask`.

    Raises:
      ValueError: a layer over other axes than features, in groups of devices, or with a mask of the
        network's own, whose statistics cannot be chosen.
    """
    axes = [axis % x.ndim for axis in jax.tree.leaves(layer.axis)]
    if 0 in axes or layer.axis_index_groups is not None or own_mask is not None:
        raise ValueError(
            "the statistics of a Flax BatchNorm cannot be chosen where axis holds the batch "
            f"({layer.axis}), axis_index_groups is set, or the network calls it with a mask; write "
            "the layer with jaxtrain.nets.norm.BatchNorm."
        )
    last = tuple(range(x.ndim - len(axes), x.ndim))
    moved = jnp.moveaxis(x, axes, last)
    flat = lambda v: None if v is None else jnp.ravel(v)
    rows = moved.reshape(*moved.shape[: last[0]], -1)
    before = Statistics(*map(flat, stored))
    used, after = chosen_statistics(rows, before, choice.norm, choice.mask, layer.axis_name)
    options = dict(epsilon=layer.epsilon, dtype=layer.dtype)
    y = normalised(rows, used, *map(flat, affine), **options).reshape(moved.shape)
    stored_again = jax.tree.map(lambda new, old: new.reshape(jnp.shape(old)), after, stored)
    return jnp.moveaxis(y, last, axes), stored_again


@contextmanager
def linen_choice(norm: Norm, mask: jax.Array | None) -> Iterator[None]:
    """Makes every `flax.linen.BatchNorm` that is applied inside use these statistics and rows."""
    plain = inspect.unwrap(nn.BatchNorm.__call__)

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if context.orig_method.func is not plain or layer.is_initializing():
            return call(*args, **kwargs)
        if not layer.has_variable("batch_stats", "mean"):
            raise ValueError(
                f"the network's BatchNorm {'/'.join(layer.path)} has no stored statistics; the "
                "model state is the dict of what module.init returned besides 'params', "
                "{'batch_stats': ...}."
            )
        stored = Statistics(*(layer.get_variable("batch_stats", name) for name in ("mean", "var")))
        affine = layer.get_variable("params", "scale"), layer.get_variable("params", "bias")
        x, own = arguments(*args, **kwargs)
        y, after = layer_outputs(layer, x, stored, affine, Choice(norm, mask), own)
        if norm.momentum is not None:
            for name, value in after._asdict().items():
                layer.put_variable("batch_stats", name, value)
        return y

    with nn.intercept_methods(intercept):
        yield


def arguments(x: jax.Array, use_running_average: Any = None, *, mask: Any = None) -> Any:
    """Inputs and mask of a call of Flax's batch norm; whether it trains is the caller's choice."""
    del use_running_average
    return x, mask
