"""Reductions over device axes that are right in every execution mode.

A core written with `value_and_grad`, `masked_mean` and `fold_in_axis` computes the same numbers on
one device, under `jit` over a mesh (`axis_name=None`: arrays are global), and under `pmap` or
`shard_map` (`axis_name="data"`: arrays are one shard). Writing `pmean(grads)` by hand is not: under
checked `shard_map` the gradient of a replicated parameter is already summed over the axis, so the
result is silently too large by the number of devices.

Calls whose names or behaviour differ between JAX versions belong here, in `meshes.py` and in
`execution.py` only.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain.meshes import gathered, spread

AxisName = str | tuple[str, ...]


def _axes(axis_name: AxisName) -> tuple[str, ...]:
    return (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)


def _varying_axes(x: Any) -> frozenset[str]:
    """Manual axes over which `x` may differ; the attribute has been renamed between versions."""
    kind = jax.typeof(x)
    if hasattr(kind, "manual_axis_type"):
        return frozenset(kind.manual_axis_type.varying)
    return frozenset(kind.vma)


def mark_varying(tree: Any, axis_name: AxisName | None) -> Any:
    """Declares that every leaf may differ between the shards of `axis_name`.

    Changes no number. Checked `shard_map` needs it where a constant starts a loop whose body makes
    the value differ per shard, for example the zeros that start a gradient accumulation. Does
    nothing where there is nothing to declare: `axis_name=None`, `pmap`, `vmap`, already varying.

    Args:
      tree: pytree of arrays.
      axis_name: mapped axis or axes, `None` for global arrays.

    Returns:
      The same tree, typed as varying.
    """
    if axis_name is None:
        return tree
    manual = jax.sharding.get_abstract_mesh().manual_axes

    def leaf(x: Any) -> Any:
        known = _varying_axes(x)
        missing = tuple(a for a in _axes(axis_name) if a in manual and a not in known)
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(leaf, tree)


def mark_varying_like(tree: Any, example: Any) -> Any:
    """`mark_varying` for the axes over which any leaf of `example` varies.

    For constants that start a loop, in functions that do not know the name of the mapped axis: the
    arrays they are combined with do.
    """
    manual = jax.sharding.get_abstract_mesh().manual_axes
    known = frozenset().union(*(_varying_axes(x) for x in jax.tree.leaves(example)))
    return mark_varying(tree, tuple(a for a in manual if a in known))


def axis_size(axis_name: AxisName | None) -> int:
    """Number of shards of `axis_name`; 1 for `None`."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def psum(tree: Any, axis_name: AxisName | None) -> Any:
    """Sums every leaf over the shards; the identity for `axis_name=None`."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def pmax(tree: Any, axis_name: AxisName | None) -> Any:
    """Largest value of every entry over the shards; the identity for `axis_name=None`."""
    return tree if axis_name is None else jax.lax.pmax(tree, axis_name)


def pmean(tree: Any, axis_name: AxisName | None) -> Any:
    """Averages every leaf over the shards; the identity for `axis_name=None`.

    For metrics, statistics and gradients from `local_value_and_grad`. Never for gradients from
    `jax.grad` or from `value_and_grad`, see the head of this file.

    Raises:
      TypeError: a leaf is not floating point, so that its average would change its dtype.
    """
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            raise TypeError(
                "pmean averages floating-point leaves, but leaf "
                f"{jax.tree_util.keystr(path)!r} has dtype {jnp.result_type(x)}; convert it to "
                "float32 first, or use psum for a count."
            )
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def gather(tree: Any, axis_name: AxisName | None) -> Any:
    """Rows of all shards, in the order of the batch and equal on all of them, `[B] -> [N B]`.

    The identity for `axis_name=None`. Unlike `jax.lax.all_gather` the result counts as replicated,
    so that it may become part of a state; it is made by a sum.
    """
    if axis_name is None:
        return tree

    def leaf(x: Any) -> Any:
        size, number = len(x), axis_size(axis_name)
        values = x.astype(jnp.int32) if x.dtype == bool else x
        whole = mark_varying(jnp.zeros((number * size, *x.shape[1:]), values.dtype), axis_name)
        first = jax.lax.axis_index(axis_name) * size
        whole = jax.lax.dynamic_update_slice_in_dim(whole, values, first, 0)
        return psum(whole, axis_name).astype(x.dtype)

    return jax.tree.map(leaf, tree)


def local_value_and_grad(
    fun: Callable[..., Any],
    axis_name: AxisName | None = None,
    *,
    has_aux: bool = False,
    argnums: int | tuple[int, ...] = 0,
) -> Callable[..., Any]:
    """`jax.value_and_grad` of this shard's share, to be averaged with `pmean` later.

    For gradient accumulation: add up local gradients over microbatches, then reduce once.

    Args:
      fun: returns this shard's mean loss `[]` (and `aux`), as if its shard were the whole batch.
      axis_name: mapped axis or axes, `None` for global arrays.
      has_aux: whether `fun` returns `(loss, aux)`.
      argnums: position(s) of the differentiated arguments.

    Returns:
      A function with the result of `jax.value_and_grad`; nothing is reduced.
    """
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def varying_loss(*args: Any, **kwargs: Any) -> Any:
        # A loss that went through a psum has equal values on all shards. Seen as one number, its
        # gradient would be 1/shards of the gradient of the sum of losses that pmean assumes.
        result = fun(*args, **kwargs)
        if has_aux:
            return mark_varying(result[0], axis_name), result[1]
        return mark_varying(result, axis_name)

    differentiate = jax.value_and_grad(varying_loss, argnums, has_aux=has_aux)

    def value_and_local_grad(*args: Any, **kwargs: Any) -> Any:
        whole = lambda a: gathered(mark_varying(a, axis_name))
        marked = [whole(a) if i in positions else a for i, a in enumerate(args)]
        value, grads = differentiate(*marked, **kwargs)
        return value, spread(grads)

    return value_and_local_grad


def value_and_grad(
    fun: Callable[..., Any],
    axis_name: AxisName | None = None,
    *,
    has_aux: bool = False,
    argnums: int | tuple[int, ...] = 0,
) -> Callable[..., Any]:
    """`jax.value_and_grad` of the mean loss over all shards, right in every execution mode.

    Marks the differentiated arguments as varying, takes the local gradient, then averages value,
    auxiliary scalars and gradient. Reductions inside `fun` (`masked_mean`, `pmean`, `psum`, batch
    statistics over the axis) are differentiated correctly.

    Args:
      fun: returns this shard's mean loss `[]` (and `aux`, a tree of floating-point scalars). All
        shards must hold equally many examples; for a mean over selected ones use `masked_mean`.
      axis_name: mapped axis or axes, `None` for global arrays.
      has_aux: whether `fun` returns `(loss, aux)`.
      argnums: position(s) of the differentiated arguments.

    Returns:
      A function returning `(loss, grads)` or `((loss, aux), grads)`, equal on all shards.

    Raises:
      TypeError: (when called) `aux` holds something that is not a floating-point scalar.
    """
    local = local_value_and_grad(fun, axis_name, has_aux=has_aux, argnums=argnums)

    def averaged(*args: Any, **kwargs: Any) -> Any:
        value, grads = local(*args, **kwargs)
        if has_aux:
            for path, x in jax.tree_util.tree_leaves_with_path(value[1]):
                if jnp.ndim(x):
                    raise TypeError(
                        "value_and_grad averages aux over devices, so it must hold scalars, but "
                        f"leaf {jax.tree_util.keystr(path)!r} has shape {jnp.shape(x)}; use "
                        "local_value_and_grad and reduce the parts yourself."
                    )
        return pmean(value, axis_name), pmean(grads, axis_name)

    return averaged


def masked_mean(values: jax.Array, mask: jax.Array, axis_name: AxisName | None = None) -> jax.Array:
    """Mean of the selected values over all shards.

    Computes sum(w v) / sum(w), reducing both sums separately: the average of per-device means is
    a different number when devices select different counts. May be used for metrics and inside a
    loss given to `value_and_grad`.

    Args:
      values: v, `[...]`; unselected entries may be infinite or NaN.
      mask: w, same shape; bool, or non-negative weights.
      axis_name: mapped axis or axes, `None` for global arrays.

    Returns:
      The mean, `[]`, float32 (float64 if the values are); 0 when nothing is selected.

    Raises:
      ValueError: the shapes differ.
    """
    if jnp.shape(values) != jnp.shape(mask):
        raise ValueError(
            f"masked_mean got values of shape {jnp.shape(values)} and a mask of shape "
            f"{jnp.shape(mask)}; broadcast the mask to the shape of the values first."
        )
    dtype = jnp.promote_types(jnp.result_type(values), jnp.float32)
    weights = jnp.asarray(mask, dtype)
    selected = jnp.where(weights > 0, jnp.asarray(values, dtype), 0.0)
    total, count = psum((jnp.sum(weights * selected), jnp.sum(weights)), axis_name)
    return jnp.where(count > 0, total / jnp.where(count > 0, count, 1.0), 0.0)


def fold_in_axis(key: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """A different key on every shard, for noise that must differ (dropout, augmentation).

    Shards must agree on some choices (a mask shared by the batch): do not call it for those.
    """
    return key if axis_name is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))
