"""Equinox networks as functions of parameters and state.

The network is made by the caller, so that Equinox is not imported here.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain.nets.classifier import Classified, ClassifierFn
from jaxtrain.nets.flax_norm import Choice
from jaxtrain.nets.norm import SOURCE, Norm, Statistics, chosen_statistics, normalised

ROWS = "rows of a batch"  # name of the axis over which a network of single images is mapped


def from_equinox(module: Any, state: Any = None) -> tuple[ClassifierFn, Any, Any]:
    """An Equinox network as the function that adaptation methods take, its parameters and state.

    The network takes one image `[C, H, W]`, and its state where it has one, as
    `equinox.nn.make_with_state` makes both. It is called in inference mode, image by image; each
    `equinox.nn.BatchNorm` in it uses the chosen statistics and rows. Parameters are its inexact
    arrays, the model state is `state`, `{}` without one.

    Args:
      module: returns `Classified` or bare logits of one image.
      state: of a network with batch norm.

    Returns:
      `(apply_fn, params, model_state)`.

    Raises:
      ValueError: batch norm without a state, or of a kind whose statistics cannot be chosen.
    """
    eqx: Any = sys.modules["equinox"]  # the network has brought it along
    is_layer = lambda x: isinstance(x, eqx.nn.BatchNorm)
    kinds = {type(x) for x in jax.tree.leaves(module, is_leaf=is_layer) if is_layer(x)}
    if kinds and state is None:
        raise ValueError("the network has batch norm; pass its state too, from make_with_state.")
    if odd := kinds - {eqx.nn.BatchNorm}:
        raise ValueError(
            f"the statistics of {odd.pop().__name__} cannot be chosen, because it changes what "
            "equinox.nn.BatchNorm does; use that itself."
        )
    params, static = eqx.partition(eqx.nn.inference_mode(module), eqx.is_inexact_array)

    class Chosen(eqx.nn.StatefulLayer):
        """A batch norm under the choice of the call, `mask` that of one row."""

        layer: Any
        choice: Choice

        def __call__(self, x: jax.Array, state: Any, **_: Any) -> tuple[jax.Array, Any]:
            return layer_outputs(self.layer, x, state, self.choice)

    def apply(
        params_now: Any,
        state_now: Any,
        inputs: jax.Array,
        *,
        norm: Norm = SOURCE,
        mask: jax.Array | None = None,
    ) -> tuple[Classified, Any]:
        def one(image: jax.Array, counts: jax.Array | None) -> tuple[Any, Any]:
            choose = lambda x: Chosen(x, Choice(norm, counts)) if is_layer(x) else x
            network = eqx.combine(params_now, static)
            network = jax.tree.map(choose, network, is_leaf=is_layer)
            if state is None:
                return network(image), state_now
            own = jax.tree.map(lambda x: x, state_now)  # Equinox lets each be used once
            return network(image, own)

        over_rows = jax.vmap(one, out_axes=(0, None), axis_name=ROWS)
        outputs, after = over_rows(jnp.moveaxis(inputs, -1, 1), mask)
        found = outputs if isinstance(outputs, Classified) else Classified(outputs)
        return found, state_now if norm.momentum is None else after

    return apply, params, {} if state is None else state


def layer_outputs(layer: Any, x: jax.Array, state: Any, choice: Choice) -> tuple[jax.Array, Any]:
    """What an Equinox batch norm returns under a choice: its outputs, and its state then.

    Args:
      layer: of either mode.
      x: of one row, `[C, ...]`, under the axis `ROWS`.
      state: of the network.
      choice: of the caller, with the mask of this row, `[]`.
    """
    share: Any = 1.0
    if layer.mode == "ema":
        index = layer.ema_state_index
    else:  # stored are sums of a geometric series, smaller than the mean by this share
        index, number = layer.batch_state_index, state.get(layer.batch_counter)
        share = jnp.where(number == 0, 1.0, 1.0 - layer.momentum**number)
    stored = Statistics(*(value / share for value in state.get(index)))
    rows = jnp.moveaxis(x, 0, -1)[None]
    counts = None if choice.mask is None else choice.mask[None]
    used, after = chosen_statistics(rows, stored, choice.norm, counts, ROWS)
    y = normalised(rows, used, layer.weight, layer.bias, epsilon=layer.eps, dtype=x.dtype)
    if choice.norm.momentum is not None:
        old = state.get(index)
        kept = [(new * share).astype(o.dtype) for new, o in zip(after, old, strict=True)]
        state = state.set(index, tuple(kept))
    return jnp.moveaxis(y[0], -1, 0), state
