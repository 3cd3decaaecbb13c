"""What a checkpoint says about the leaves of its state: paths, dtypes, shapes, fingerprints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def describe(tree: Any, fingerprints: bool = False) -> dict[str, dict[str, Any]]:
    """`{path: {"dtype", "shape"[, "fingerprint"]}}` of every leaf, keys as their raw words.

    Raises:
      TypeError: a leaf is not an array.
      ValueError: two leaves have the same path.
    """
    described: dict[str, dict[str, Any]] = {}
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for path, leaf in leaves:
        if not isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct, np.ndarray)):
            raise TypeError(
                f"state leaf {name(path)} is a {type(leaf).__name__}; a state holds arrays only."
            )
        raw = leaf
        if is_key(leaf):
            raw = jax.eval_shape(jax.random.key_data, leaf)
        described[name(path)] = {"dtype": str(raw.dtype), "shape": list(raw.shape)}
    if len(described) != len(leaves):
        raise ValueError("two leaves of the state have the same path; rename one of them.")
    if fingerprints:
        values = jax.device_get([fingerprint(leaf) for _, leaf in leaves])
        for entry, value in zip(described.values(), values, strict=True):
            entry["fingerprint"] = int(value)
    return described


def is_key(x: Any) -> bool:
    """Whether an array holds typed keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def name(path: tuple[Any, ...]) -> str:
    """`params/encoder/0` for a path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def differences(saved: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """What stands in the way of loading `saved` as `expected`, in words."""

    def show(leaf: Mapping[str, Any]) -> str:
        return f"{leaf['dtype']}{leaf['shape']}"

    found = [f"{k} is missing" for k in expected if k not in saved]
    found += [f"{k} is not expected" for k in saved if k not in expected]
    found += [
        f"{k} is {show(saved[k])} where {show(expected[k])} is expected"
        for k in expected
        if k in saved and show(saved[k]) != show(expected[k])
    ]
    return found


@jax.jit
def fingerprint(x: jax.Array) -> jax.Array:
    """Sum of all words, each times an odd number that depends on its place, modulo 2^32.

    A single changed word always changes the sum; integer sums do not depend on their order, so
    the result is the same for every sharding.
    """
    if is_key(x):
        x = jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = 8 * min(x.dtype.itemsize, 4)
    words = jax.lax.bitcast_convert_type(x, f"uint{bits}").astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    return jnp.sum(words * (place * jnp.uint32(2 * 0x9E3779B1 % 2**32) + jnp.uint32(1)))
