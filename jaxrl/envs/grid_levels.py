"""Distributions of grid-world levels and of lifetimes.

`FAMILIES[name]` says what varies; `sample_level(family, key)` draws a level and
`sample_lifetime(family, key)` the number of agent updates that an agent gets on it.

Numbers are those of the table in EmptyJackson/groove (environments/gridworld/configs.py), which
follows the appendix of Oh et al., arXiv 2007.08794. The mazes are our own (rooms, spirals, combs on
13 x 13 cells), of the same kinds as those of that code.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrl.envs.grid_world import GridShape, Level, free_cells

Numbers = tuple[float, ...] | Callable[[Array, int], Array]  # fixed, or (key, how many) -> drawn


def log_uniform(low: float, high: float) -> Callable[[Array, int], Array]:
    """exp(U(log low, log high))."""

    def draw(key: Array, num: int) -> Array:
        return jnp.exp(jax.random.uniform(key, (num,), minval=np.log(low), maxval=np.log(high)))

    return draw


def uniform(low: float, high: float) -> Callable[[Array, int], Array]:
    """U(low, high)."""
    return lambda key, num: jax.random.uniform(key, (num,), minval=low, maxval=high)


def first_positive(key: Array, num: int) -> Array:
    """U(-1, 1), the first one U(0, 1), so that there is something to gain."""
    low = jnp.where(jnp.arange(num) == 0, 0.0, -1.0)
    return jax.random.uniform(key, (num,), minval=low, maxval=1.0)


class Family(NamedTuple):
    """A distribution of levels.

    Attributes:
      max_steps: least and greatest time limit, log-uniform between them.
      types: type of each object.
      num_objects: least and greatest number of objects, uniform; the first ones are used.
      reward, p_terminate, p_respawn: one number per type, fixed or drawn.
      size: least and greatest side, uniform.
      lifetime: least and greatest number of agent updates, log-uniform.
      random_walls: number of walls among the cells of the largest grid; those outside fall away.
      layouts: wall maps `[layouts, cells]`, of which one is drawn.
      tabular: observed as one number, objects at fixed cells; else dense, objects at random cells.
    """

    max_steps: tuple[int, int]
    types: tuple[int, ...]
    num_objects: tuple[int, int]
    reward: Numbers
    p_terminate: Numbers
    p_respawn: Numbers
    size: tuple[int, int]
    lifetime: tuple[int, int]
    random_walls: int = 0
    layouts: tuple[tuple[bool, ...], ...] = ()
    tabular: bool = True

    @property
    def shape(self) -> GridShape:
        """Array sizes that hold every level of the family."""
        types = max(self.types) + 1
        return GridShape(self.size[1], len(self.types), types, self.tabular)


def _log_uniform_int(key: Array, bounds: tuple[int, int]) -> Array:
    low, high = bounds
    drawn = log_uniform(low, high)(key, 1)[0]
    return jnp.clip(jnp.round(drawn).astype(jnp.int32), low, high)


def _uniform_int(key: Array, bounds: tuple[int, int]) -> Array:
    return jax.random.randint(key, (), bounds[0], bounds[1] + 1)


def _numbers(key: Array, numbers: Numbers, num: int) -> Array:
    return numbers(key, num) if callable(numbers) else jnp.asarray(numbers, jnp.float32)


def sample_level(family: Family, key: Array) -> Level:
    """Draws a level. Start and objects are at different free cells; nothing says they can be
    reached, so `optimal_return` may be 0."""
    keys = iter(jax.random.split(key, 8))
    shape = family.shape
    num_cells = shape.max_size**2
    size = _uniform_int(next(keys), family.size)
    key_walls = next(keys)
    walls = jnp.zeros(num_cells, bool)
    if family.layouts:
        maps = jnp.asarray(family.layouts)
        walls = maps[jax.random.randint(key_walls, (), 0, len(family.layouts))]
    elif family.random_walls:
        chosen = jax.random.choice(key_walls, num_cells, (family.random_walls,), replace=False)
        walls = walls.at[chosen].set(True)
    free = (jnp.arange(num_cells) < size**2) & ~walls
    places = free_cells(next(keys), free, shape.max_objects + 1)
    num_objects = _uniform_int(next(keys), family.num_objects)
    return Level(
        size=size,
        walls=walls,
        start=places[0],
        object_cell=places[1:],
        object_type=jnp.asarray(family.types, jnp.int32),
        object_used=jnp.arange(shape.max_objects) < num_objects,
        reward=_numbers(next(keys), family.reward, shape.num_types),
        p_terminate=_numbers(next(keys), family.p_terminate, shape.num_types),
        p_respawn=_numbers(next(keys), family.p_respawn, shape.num_types),
        random_cells=jnp.asarray(not family.tabular),
        max_steps=_log_uniform_int(next(keys), family.max_steps),
    )


def sample_lifetime(family: Family, key: Array) -> Array:
    """N, the number of updates an agent gets, `[]`, int32.

    Raises:
      ValueError: the family's lifetimes are not at least 1, or the least is above the greatest.
    """
    least, greatest = family.lifetime
    if not 1 <= least <= greatest:
        raise ValueError(
            f"lifetimes from {least} to {greatest} updates are impossible; give the least, at "
            "least 1, and the greatest."
        )
    return _log_uniform_int(key, family.lifetime)


# --- Walls ----------------------------------------------------------------------------------------


def _flat(walls: np.ndarray) -> tuple[bool, ...]:
    return tuple(bool(x) for x in walls.ravel())


def _centre_column() -> tuple[bool, ...]:
    walls = np.zeros((9, 9), bool)
    walls[:, 4] = True
    walls[[1, 7], 4] = False
    return _flat(walls)


def _cross() -> tuple[bool, ...]:
    walls = np.zeros((11, 11), bool)
    walls[:, 5] = walls[4, :] = True
    walls[[0, 7], 5] = False
    walls[4, [2, 8]] = False
    return _flat(walls)


def _two_posts() -> tuple[bool, ...]:
    walls = np.zeros((7, 7), bool)
    walls.flat[[9, 25]] = True
    return _flat(walls)


def _rooms(gap: int) -> np.ndarray:
    """Sixteen rooms; each wall between two rooms has one door, `gap` cells from its corner."""
    walls = np.zeros((13, 13), bool)
    lines = (3, 6, 9)
    walls[lines, :] = walls[:, lines] = True
    for room in (0, 4, 7, 10):
        door = room + gap % 2
        walls[lines, door] = False
        walls[door, lines] = False
    return walls


def _spiral() -> np.ndarray:
    """A corridor that winds from the corner to the centre."""
    walls = np.ones((13, 13), bool)
    row, column, ahead = 0, 0, 0
    steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
    lengths = (12, 12, 12, 10, 10, 8, 8, 6, 6, 4, 4, 2, 2)
    walls[row, column] = False
    for length in lengths:
        for _ in range(length):
            row, column = row + steps[ahead % 4][0], column + steps[ahead % 4][1]
            walls[row, column] = False
        ahead += 1
    return walls


def _comb() -> np.ndarray:
    """Parallel dead ends on both sides of a corridor around the grid."""
    walls = np.zeros((13, 13), bool)
    walls[1:12, 1:12:2] = True
    walls[6, 1:12] = True
    return walls


MAZES = {
    "rooms": _flat(_rooms(0)),
    "rooms_shifted": _flat(_rooms(1)),
    "spiral": _flat(_spiral()),
    "spiral_flipped": _flat(_spiral()[:, ::-1]),
    "comb": _flat(_comb()),
    "comb_turned": _flat(_comb().T),
}

# --- Families -------------------------------------------------------------------------------------


Range = tuple[int, int]  # least and greatest


def _tabular(
    steps: int,
    types: tuple[int, ...],
    reward: Numbers,
    p_terminate: Numbers,
    p_respawn: Numbers,
    size: int,
    *walls: tuple[bool, ...],
) -> Family:
    return Family(
        (steps, steps), types, (len(types),) * 2, reward, p_terminate, p_respawn, (size, size),
        (2500, 2500), layouts=walls,
    )  # fmt: skip


def _random(*arguments: Any) -> Family:
    return _tabular(*arguments)._replace(lifetime=(25_000, 25_000), tabular=False)


def _drawn(
    max_steps: Range, num_objects: Range, num_types: int, size: Range, walls: int, lifetime: Range
) -> Family:
    return Family(
        max_steps, tuple(range(num_types)), num_objects, first_positive, log_uniform(1e-2, 1.0),
        log_uniform(1e-3, 1e-1), size, lifetime, random_walls=walls,
    )  # fmt: skip


_ALL = _drawn((20, 750), (1, 5), 5, (4, 10), 15, (1000, 1000))

FAMILIES = {
    # Five fixed kinds of tabular levels.
    "dense": _tabular(500, (0, 0, 1, 2), (1, -1, -1), (0, 0.5, 0), (0.05, 0.1, 0.5), 11),
    "sparse": _tabular(50, (0, 1), (1, -1), (1, 1), (0, 0), 13),
    "long": _tabular(1000, (0, 0, 1, 1), (1, -1), (0, 0.5), (0.01, 1), 11),
    "longer": _tabular(
        2000, (0, 0, 1, 1, 1), (1, -1), (0.1, 0.8), (0.01, 1), 9, _centre_column()
    ),
    "long_dense": _tabular(2000, (0, 0, 0, 0), (1,), (0,), (0.005,), 11, _cross()),
    # Dense observations, objects at random cells.
    "rand_dense": _random(500, (0, 0, 1, 2), (1, -1, -1), (0, 0.5, 0), (0.05, 0.1, 0.5), 11),
    "rand_long": _random(1000, (0, 0, 1, 1), (1, -1), (0, 0.5), (0.01, 1), 11),
    "rand_small": _random(500, (0, 0, 1, 1), (1, -1), (0, 0.5), (0.05, 0.1), 7, _two_posts()),
    "rand_sparse": _random(50, (0, 1, 1), (1, -1), (1, 1), (1, 1), 7),
    "rand_very_dense": _random(2000, (0,), (1,), (0,), (1,), 11),
    # Distributions of tabular levels.
    "small": _drawn((20, 100), (1, 3), 3, (4, 6), 7, (250, 250)),
    "medium": _drawn((100, 250), (2, 4), 4, (6, 8), 10, (1000, 1000)),
    "large": _drawn((250, 750), (2, 5), 5, (8, 10), 15, (2500, 2500)),
    "all": _ALL,
    "all_shortlife": _ALL._replace(lifetime=(250, 250)),
    "all_randlife": _ALL._replace(lifetime=(50, 250)),
    "all_vrandlife": _ALL._replace(lifetime=(10, 250)),  # meta-training set of TA-LPG
    "mazes": Family(
        (25, 50), (0, 1, 2), (3, 3), uniform(0, 1), log_uniform(1e-2, 1.0),
        log_uniform(1e-3, 1e-1), (13, 13), (2500, 2500), layouts=tuple(MAZES.values()),
    ),
    "debug": _drawn((5, 10), (1, 2), 2, (3, 4), 4, (4, 4)),
}  # fmt: skip
