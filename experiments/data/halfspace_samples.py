"""Labelled samples of halfspaces: marginals that are Gaussian or are not, labels that are wrong.

Marginals, in d dimensions, with the true normal w and a direction u across it:

gaussian  standard normal
laplace   independent Laplace variables of variance 1
cube      corners of a hypercube
scaled    normal with deviations from 0.3 to 1.7 along the axes
slab      normal without the points closer than 0.1 to the boundary
cluster   normal, three tenths of it in a dense cluster 1.5 along u, where labels are random
trap      normal without the points closer than 0.5 to the boundary of v, 60 degrees from w, and a
          tenth far out along v: there learners begin, and find no point that moves them on

Noise: `massart` flips a label with probability 0.3 / (1 + |<w, x>|) by itself, `adversarial` the
5 % of the points that speak most for u. A sample of one's own is a file with `x` and `y`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.stats import norm

from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError


class Sample(NamedTuple):
    """Rows `x [N, d]`, labels `y [N]`, -1 or 1, and what made them: `weights`, `across` `[d]`."""

    x: Any
    y: Any
    weights: Any
    across: Any


SLAB, TRAP, FAR, CLUSTER, SHARE, MOST, FLIPPED = 0.1, 0.5, 40.0, 1.5, 0.3, 0.3, 0.05


def _gaussian(key: Array, w: Array, u: Array, number: int) -> Array:
    return jax.random.normal(key, (number, len(w)))


def _laplace(key: Array, w: Array, u: Array, number: int) -> Array:
    return jax.random.laplace(key, (number, len(w))) / jnp.sqrt(2.0)


def _cube(key: Array, w: Array, u: Array, number: int) -> Array:
    return jax.random.rademacher(key, (number, len(w)), jnp.float32)


def _scaled(key: Array, w: Array, u: Array, number: int) -> Array:
    return jnp.linspace(0.3, 1.7, len(w))[None] * _gaussian(key, w, u, number)


def _outside(key: Array, w: Array, number: int, width: float) -> Array:
    """Standard normal rows with |<w, x>| above the width."""
    key_rest, key_size, key_side = jax.random.split(key, 3)
    x = jax.random.normal(key_rest, (number, len(w)))
    share = jax.random.uniform(key_size, (number,), minval=norm.cdf(width), maxval=1 - 1e-6)
    distance = norm.ppf(share) * jax.random.rademacher(key_side, (number,), jnp.float32)
    return x + (distance - x @ w)[:, None] * w[None]


def _slab(key: Array, w: Array, u: Array, number: int) -> Array:
    return _outside(key, w, number, SLAB)


def _trap(key: Array, w: Array, u: Array, number: int) -> Array:
    key_rest, key_which = jax.random.split(key)
    v = 0.5 * w + 0.75**0.5 * u
    far = jax.random.bernoulli(key_which, 0.1, (number, 1))
    return _outside(key_rest, v, number, TRAP) + FAR * far * v[None]


def _cluster(key: Array, w: Array, u: Array, number: int) -> Array:
    key_rest, key_which = jax.random.split(key)
    x = _gaussian(key_rest, w, u, number)
    dense = CLUSTER * u[None] + 0.05 * x
    return jnp.where(jax.random.bernoulli(key_which, SHARE, (number, 1)), dense, x)


MARGINALS: dict[str, Callable[[Array, Array, Array, int], Array]] = {
    "gaussian": _gaussian,
    "laplace": _laplace,
    "cube": _cube,
    "scaled": _scaled,
    "slab": _slab,
    "cluster": _cluster,
    "trap": _trap,
}


def _massart(key: Array, x: Array, w: Array, u: Array) -> Array:
    return jax.random.bernoulli(key, MOST / (1 + jnp.abs(x @ w)))


def _adversarial(key: Array, x: Array, w: Array, u: Array) -> Array:
    for_u = jnp.sign(x @ w) * (x @ u)
    return for_u > jnp.quantile(for_u, 1 - FLIPPED)


NOISES: dict[str, Callable[[Array, Array, Array, Array], Array]] = {
    "massart": _massart,
    "adversarial": _adversarial,
}


def draw(key: Array, marginal: str, noise: str, number: int, size: int) -> Sample:
    """A sample of `number` rows in `size` dimensions, around a random normal."""
    key_w, key_u, key_x, key_flip, key_label = jax.random.split(key, 5)
    w = jax.random.normal(key_w, (size,))
    w = w / jnp.linalg.norm(w)
    u = jax.random.normal(key_u, (size,))
    u = u - (u @ w) * w
    u = u / jnp.linalg.norm(u)
    x = MARGINALS[marginal](key_x, w, u, number)
    flipped = NOISES[noise](key_flip, x, w, u)
    y = jnp.where((x @ w > 0) ^ flipped, 1.0, -1.0)
    if marginal == "cluster":
        dense = jnp.linalg.norm(x - CLUSTER * u[None], axis=1) < 0.1 * jnp.sqrt(size)
        y = jnp.where(dense, jax.random.rademacher(key_label, y.shape, y.dtype), y)
    return Sample(x, y, w, u)


def read(file: str) -> Sample:
    """A sample from a file of arrays `x [N, d]` and `y [N]`, labels -1 and 1 or 0 and 1.

    Raises:
      UsageError: a file that cannot be read, or that holds something else.
    """
    held = arrays.read(file, ["x", "y"], finite=True)
    x, y = held["x"].astype(np.float32), np.asarray(held["y"])
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise UsageError(
            f"{file}: x has shape {x.shape} and y {y.shape}; expected rows [N, d] and labels [N]"
        )
    if len(x) < 100 or x.shape[1] < 2:
        raise UsageError(
            f"{file}: x has shape {x.shape}; a tester needs 100 rows and 2 features at least"
        )
    if {*np.unique(y).tolist()} not in ({-1, 1}, {0, 1}):
        raise UsageError(f"{file}: y must hold both of the labels -1 and 1, or 0 and 1")
    unknown = np.full(x.shape[1], np.nan, np.float32)
    return Sample(x, np.where(y > 0, 1, -1).astype(np.float32), unknown, unknown)
