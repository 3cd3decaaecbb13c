"""Randomness of adapters: drawn from the key of the update, or given.

Where a method draws, its update takes a key or the draws themselves: what the method's own function
makes of a key, such as `mean_teacher.cotta_draws`, or what another run recorded. So a recorded run
is replayed by `adaptation.replay` with its draws in place of keys.

    update(state, batch, key)
    update(state, batch, cotta_draws(key, state.params, len(batch["inputs"])))   # the same
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtrain import parallel
from jaxtta.adaptation import row_keys

Draws = TypeVar("Draws")


class Augmenting(NamedTuple):
    """What an augmentation is given beside the images.

    Keys, unless made by hand: `standard_augmentation` takes parameters and noise too, and an
    augmentation of one's own whatever it can use, recorded images included.

    Attributes:
      shared: by all rows.
      rows: one entry per row, `[B, ...]`.
    """

    shared: Any
    rows: Any


def augmenting(
    key: Array, batch_size: int, axis_name: parallel.AxisName | None = None
) -> Augmenting:
    """Keys of one augmented batch, those of the rows the same on any number of devices.

    With `shared, rows = split(key)` and `adaptation.row_keys`.

    Args:
      key: of the draw.
      batch_size: rows, of this shard.
      axis_name: mapped device axis, `None` for global arrays.
    """
    shared, rows = jax.random.split(key)
    return Augmenting(shared, row_keys(rows, batch_size, axis_name))


def either(given: Any, kind: type[Draws], draw: Callable[[Array], Draws]) -> Draws:
    """The draws that were given, or those that `draw` makes of the key that was given.

    Raises:
      ValueError: neither a key nor draws of this kind.
    """
    if isinstance(given, kind):
        return given
    if not isinstance(given, jax.Array | np.ndarray):
        raise ValueError(
            f"this update takes a key, or its draws as {kind.__name__}, but got a "
            f"{type(given).__name__}."
        )
    return draw(given if isinstance(given, Array) else jnp.asarray(given))
