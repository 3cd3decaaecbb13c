"""Parameters from and to the flat form in which the authors' models are passed around.

The parameter tree of `LPN` is the authors' own, so a dict of arrays named by paths such as
`encoder/cls_token/embedding` maps onto it one to one. Reading and writing files is the caller's
business.

References:
  Official code: clement-bonnet/lpn.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxtrain.trees import path_names
from jaxtta.lpn.config import Config
from jaxtta.lpn.model import LPN, Params


def from_flat(model: LPN | Config, flat: Mapping[str, ArrayLike]) -> Params:
    """Builds the parameters of `model` from arrays named by their path.

    Arrays saved as one copy per device (a leading axis on every leaf) lose that axis.

    Args:
      model: the model or its configuration; it decides which leaves must be there.
      flat: `{"encoder/cls_token/embedding": array, ...}`, any floating type.

    Returns:
      The parameter tree, float32.

    Raises:
      ValueError: leaves are missing, unknown or of the wrong shape or type (all of them are
        listed), or the copies of several devices differ.
    """
    lpn = LPN(model) if isinstance(model, Config) else model
    tree = jax.eval_shape(lpn.init, jax.random.key(0))
    expected = dict(zip(path_names(tree), jax.tree.leaves(tree), strict=True))
    arrays = _first_copy({name: np.asarray(x) for name, x in flat.items()}, expected)
    if faults := _faults(arrays, expected):
        raise ValueError(
            "the weights do not fit the configuration; change its sizes and switches or take the "
            "file that belongs to it:\n  " + "\n  ".join(faults)
        )
    leaves = [jnp.asarray(arrays[name], x.dtype) for name, x in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def to_flat(params: Params) -> dict[str, Array]:
    """Inverse of `from_flat`: every leaf under its path."""
    return dict(zip(path_names(params), jax.tree.leaves(params), strict=True))


def _first_copy(
    arrays: dict[str, np.ndarray], expected: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, np.ndarray]:
    """Drops the leading device axis when every known leaf has one."""
    known = [name for name in arrays if name in expected]
    if not known or any(arrays[name].shape[1:] != expected[name].shape for name in known):
        return arrays
    for name in known:
        copies = arrays[name]
        if not len(copies) or not np.array_equal(copies, np.broadcast_to(copies[0], copies.shape)):
            raise ValueError(
                f"leaf {name} has shape {copies.shape}, one axis too many, and its {len(copies)} "
                "parts differ, so they are not copies of one model; pass one of them."
            )
    return arrays | {name: arrays[name][0] for name in known}


def _faults(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, jax.ShapeDtypeStruct]
) -> list[str]:
    faults = []
    for name, leaf in expected.items():
        if name not in arrays:
            faults.append(f"{name}: missing, expected shape {leaf.shape}")
        elif arrays[name].shape != leaf.shape:
            faults.append(f"{name}: found shape {arrays[name].shape}, expected {leaf.shape}")
        elif not jnp.issubdtype(arrays[name].dtype, jnp.floating):
            faults.append(f"{name}: found type {arrays[name].dtype}, expected floating point")
    unknown = sorted(set(arrays) - set(expected))
    return faults + [f"{name}: unknown, found shape {arrays[name].shape}" for name in unknown]
