"""Trajectories in memory, and what learners draw from them: windows, goals, futures.

Everything that is drawn is index arithmetic on flat arrays, so it happens inside the compiled step:

    data = from_flat(arrays)                             # the arrays of an OGBench file
    begins = starts(data, 4)                             # rows with three more behind them
    draw = lambda key, data, begins: window(data.action, pick(key, begins), 4)
    batch = by_place(draw)(key, jnp.arange(256), data, begins)                    # [256, 4, A]

References:
  The flat layout is that of Park et al., OGBench, ICLR 2025, arXiv 2410.20092.
  Geometric futures as goals: Eysenbach et al., Contrastive Learning as Goal-Conditioned
  Reinforcement Learning, NeurIPS 2022, arXiv 2206.07568.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

NAMES = ("observations", "actions", "terminals")


class Trajectories(NamedTuple):
    """Rows of all trajectories, one trajectory after the other.

    Attributes:
      observation: `[N, S]`, float32.
      action: what was done there, `[N, A]`, float32. That of the last row of a trajectory led to
        nothing that is known.
      last: row with which the trajectory of each row ends, `[N]`, int32.
    """

    observation: Array
    action: Array
    last: Array


def from_flat(arrays: Mapping[str, np.ndarray]) -> Trajectories:
    """Trajectories from flat arrays in the layout of OGBench.

    Args:
      arrays: `observations` `[N, S]`, `actions` `[N, A]`, and `terminals` `[N]`, which is 1 in the
        last row of a trajectory and 0 elsewhere. Others are ignored.

    Raises:
      ValueError: one is missing, shapes do not fit, numbers are not finite, or `terminals` does not
        cut the rows into trajectories of two rows and more.
    """
    if missing := [name for name in NAMES if name not in arrays]:
        raise ValueError(f"trajectories lack {', '.join(missing)}; they have {sorted(arrays)}")
    observation, action, terminal = (np.asarray(arrays[name]) for name in NAMES)
    number = len(observation) if observation.ndim else 0
    for name, x, wanted in zip(NAMES, (observation, action, terminal), (2, 2, 1), strict=True):
        if x.ndim != wanted or len(x) != number or 0 in x.shape:
            raise ValueError(
                f"{name} has shape {x.shape}; wanted are observations [N, S], actions [N, A] and "
                "terminals [N], a row per step"
            )
        if x.dtype.kind not in "fiub" or not np.isfinite(x).all():
            raise ValueError(f"{name} holds values that are no finite numbers")
    ends = terminal != 0
    if not np.isin(terminal, (0, 1)).all() or not ends[-1]:
        raise ValueError("terminals must be 1 in the last row of every trajectory and 0 elsewhere")
    rows = np.flatnonzero(ends)
    lengths = np.diff(rows, prepend=-1)
    if (lengths < 2).any():
        raise ValueError(
            f"{(lengths < 2).sum()} of the {len(rows)} trajectories have one row, which holds no "
            "step; leave them out"
        )
    last = np.repeat(rows, lengths).astype(np.int32)
    return Trajectories(
        jnp.asarray(observation, jnp.float32), jnp.asarray(action, jnp.float32), jnp.asarray(last)
    )


def to_flat(data: Trajectories) -> dict[str, np.ndarray]:
    """The inverse of `from_flat`."""
    terminal = np.asarray(data.last) == np.arange(len(data.last))
    arrays = np.asarray(data.observation), np.asarray(data.action), terminal
    return dict(zip(NAMES, arrays, strict=True))


def stacked(observation: Array, action: Array) -> Trajectories:
    """Trajectories of one length: observations `[K, T, S]`, actions `[K, T, A]`."""
    number, length = observation.shape[:2]
    last = jnp.repeat(jnp.arange(1, number + 1, dtype=jnp.int32) * length - 1, length)
    flat = lambda x: jnp.asarray(x).reshape(number * length, *x.shape[2:])
    return Trajectories(flat(observation), flat(action), last)


def starts(data: Trajectories, length: int) -> Array:
    """Rows with which a window of `length` rows of one trajectory can begin, `[M]`, int32.

    Raises:
      ValueError: no trajectory is that long.
    """
    last = np.asarray(data.last)
    found = np.flatnonzero(last - np.arange(len(last)) >= length - 1).astype(np.int32)
    if not len(found):
        longest = np.bincount(last).max()
        raise ValueError(f"no trajectory has {length} rows; the longest has {longest}")
    return jnp.asarray(found)


# --- Draws: one example each ----------------------------------------------------------------------


def pick(key: Array, rows: Array) -> Array:
    """One of the rows `[M]`, uniformly, `[]`."""
    return rows[jax.random.randint(key, (), 0, len(rows))]


def window(x: Array, start: Array, length: int) -> Array:
    """Rows `start` to `start + length - 1` of `x` `[N, ...]`, `[length, ...]`."""
    return x[start + jnp.arange(length)]


def future(key: Array, row: Array, last: Array, gamma: ArrayLike) -> Array:
    """A later row of the same trajectory, `[]`: after n steps with chance (1 - gamma) gamma^(n-1).

    What would be behind the end is the end, which is also the future of the end itself.

    Args:
      key: consumed.
      row: now, `[]`.
      last: of the data, `[N]`.
      gamma: in [0, 1]; 1 gives the end.
    """
    u = jax.random.uniform(key, minval=jnp.finfo(jnp.float32).tiny)
    steps = jnp.ceil(jnp.log(u) / jnp.minimum(jnp.log(gamma), -jnp.finfo(jnp.float32).tiny))
    left = last[row] - row
    return row + jnp.minimum(jnp.maximum(steps, 1), left).astype(jnp.int32)


def later(key: Array, row: Array, last: Array) -> Array:
    """A uniform row from `row` to the end of its trajectory, `[]`."""
    return row + jax.random.randint(key, (), 0, last[row] - row + 1)


def by_place(draw: Callable[..., Any]) -> Callable[..., Any]:
    """A batch from what draws one example: example i is `draw(fold_in(key, places[i]), *arrays)`.

    Returns:
      `(key, places [b], *arrays) -> batch [b, ...]`, which does not depend on how places are spread
      over devices, as `jaxtrain.host.data.Generated` wants it.
    """

    def sample(key: Array, places: Array, *arrays: Any) -> Any:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
        return jax.vmap(lambda k: draw(k, *arrays))(keys)

    return sample
