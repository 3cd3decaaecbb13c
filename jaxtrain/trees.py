"""Pytrees of parameters: names, selection by path, averages, sizes.

A path is the tuple of names from the root to a leaf: dict keys, field names, positions.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

global_norm = optax.tree.norm


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)


def path_names(tree: Any) -> list[str]:
    """Name of every leaf, `"encoder/block_0/kernel"`, in the order of `jax.tree.leaves`."""
    return ["/".join(_names(path)) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def partition(tree: Any, predicate: Callable[[tuple[str, ...]], bool]) -> tuple[Any, Any]:
    """Splits a tree in two by the path of each leaf.

    Args:
      tree: any pytree.
      predicate: given a path such as `("encoder", "norm", "scale")`, whether the leaf is selected.

    Returns:
      `(selected, rest)`, both shaped like `tree` with `None` in place of the other's leaves.
      `None` is an empty subtree: both can be differentiated, optimised and saved as they are.
    """
    chosen = jax.tree_util.tree_map_with_path(lambda path, _: bool(predicate(_names(path))), tree)
    selected = jax.tree.map(lambda keep, x: x if keep else None, chosen, tree)
    rest = jax.tree.map(lambda keep, x: None if keep else x, chosen, tree)
    return selected, rest


def merge(a: Any, b: Any) -> Any:
    """Inverse of `partition`: fills the `None` holes of each tree with the other's leaves.

    Raises:
      ValueError: a leaf is in both trees or the trees have different structures.
    """

    def pick(path: tuple[Any, ...], x: Any, y: Any) -> Any:
        if x is not None and y is not None:
            raise ValueError(
                f"cannot merge: leaf {'/'.join(_names(path))!r} is in both trees; pass the two "
                "halves that partition returned."
            )
        return y if x is None else x

    is_hole = lambda x: x is None
    if len({jax.tree.structure(tree, is_leaf=is_hole) for tree in (a, b)}) > 1:
        raise ValueError(
            f"cannot merge trees of different structures, one with leaves {path_names(a)} and one "
            f"with leaves {path_names(b)}; pass the two halves that partition returned."
        )
    return jax.tree_util.tree_map_with_path(pick, a, b, is_leaf=is_hole)


def ema(old: Any, new: Any, decay: ArrayLike) -> Any:
    """Exponential moving average, `decay * old + (1 - decay) * new` per leaf.

    Leaves that are not floating point (counters, keys) are taken from `new`.

    Args:
      old: running average.
      new: tree like `old`.
      decay: in [0, 1]; may be traced.
    """

    def leaf(x: Any, y: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return y
        return (decay * x + (1 - decay) * y).astype(x.dtype)

    return jax.tree.map(leaf, old, new)


def size(tree: Any) -> int:
    """Number of numbers in a tree, for example the parameter count; works on abstract leaves."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
    """Bytes of all leaves, arrays or shapes."""
    item = lambda x: 8 if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize
    return sum(int(np.prod(x.shape)) * item(x) for x in jax.tree.leaves(tree))


def describe(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every leaf by name; works on abstract leaves."""
    leaves = jax.tree.leaves(tree)
    return {
        name: (tuple(x.shape), str(x.dtype))
        for name, x in zip(path_names(tree), leaves, strict=True)
    }
