"""Test-time augmentation: a task seen in several ways, searched together, and a vote.

A view turns, transposes or recolours all grids of a task, so its rule stays the same up to that
change. Every view is solved as a task of its own, all of them in one batch; what they predict is
changed back, and the grid that most of them agree on is the first attempt.

References:
  Cole and Osman, Don't throw the baby out with the bathwater, arXiv 2506.14276 (augment, infer,
  reverse the augmentation, vote). Akyurek et al., The Surprising Effectiveness of Test-Time
  Training for Few-Shot Learning, arXiv 2411.07279 (a vote within each change, then among them).
  Here each change has one vote, and likelihood decides where votes are equal.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from jaxtta.lpn.grid_augment import color_table, rotate_grid
from jaxtta.lpn.grids import Grid, Pairs
from jaxtta.lpn.model import Params
from jaxtta.lpn.solve import Solution

SolveFn = Callable[[Params, Array, Pairs, Grid], Solution]  # params, keys [B], demos, inputs


class View(NamedTuple):
    """How grids are changed: mirrored left to right, then turned clockwise, and recoloured.

    Attributes:
      turns: number of quarter turns, 0..3, `[...]`, int32.
      mirror: whether to mirror, `[...]`, bool.
      table: permutation of the colours, new = table[old], `[..., 10]`, uint8; keeps 0.
    """

    turns: Array
    mirror: Array
    table: Array


def draw_views(
    key: Array, number: int, *, rotate: bool = True, transpose: bool = True, colors: bool = True
) -> View:
    """Draws views of one task, `[number]`; the first one changes nothing.

    No turn comes again before all have been, and colours are permuted independently.

    Args:
      key: consumed.
      number: of views, 1 or more.
      rotate: turn by 90, 180 and 270 degrees.
      transpose: exchange rows and columns; with `rotate` all eight symmetries of the square.
      colors: permute colours 1..9.

    Raises:
      ValueError: there are not so many different views.
    """
    ways = _ways(number, rotate=rotate, transpose=transpose, colors=colors)
    key_ways, key_colors = jax.random.split(key)
    order = jax.random.permutation(key_ways, jnp.arange(1, len(ways)))
    order = jnp.concatenate([jnp.zeros(1, order.dtype), order])
    turns, mirror = jnp.array(ways, jnp.int32)[order[jnp.arange(number) % len(ways)]].T
    table = jnp.tile(jnp.arange(10, dtype=jnp.uint8), (number, 1))
    if colors:
        drawn = jax.vmap(color_table)(jax.random.split(key_colors, number - 1))
        table = table.at[1:].set(drawn)
    return View(turns, mirror == 1, table)


def _ways(number: int, *, rotate: bool, transpose: bool, colors: bool) -> list[tuple[int, int]]:
    """(turns, mirror) of what can be done to the sides, nothing first."""
    turned = [(turns, 0) for turns in range(4 if rotate else 1)]
    mirrored = [((turns + 3) % 4, 1) for turns, _ in turned]  # three turns make a transposition
    ways = turned + (mirrored if transpose else [])
    if number < 1 or (number > len(ways) and not colors):
        raise ValueError(
            f"{number} views are asked for; without permuted colours there are 1 to {len(ways)}."
        )
    return ways


def seen(view: View, grid: Grid) -> Grid:
    """Grids, cells `[..., L]`, in one view (`turns []`): rows and columns change places when the
    number of turns is odd."""
    turned = rotate_grid(grid, view.turns, view.mirror)
    return turned._replace(cells=view.table[turned.cells])


def opposite(view: View) -> View:
    """The view that changes grids back."""
    turns = jnp.where(view.mirror, view.turns, -view.turns % 4)  # a reflection undoes itself
    return View(turns, view.mirror, jnp.argsort(view.table, axis=-1).astype(view.table.dtype))


def vote(candidates: Grid, votes: Array, scores: Array) -> Array:
    """Chooses two grids out of candidates by their votes.

    Equal grids add up their votes and have the best of their scores, and the candidate with that
    score stands for them. More votes come first, then the better score, then the earlier candidate.

    Args:
      candidates: `[..., M]`.
      votes: of each candidate, `[..., M]`, integers.
      scores: of each candidate, larger is better, `[..., M]`.

    Returns:
      Places of the first grid and of the next one that differs (the first again if none does),
      `[..., 2]`, int32.
    """
    shape, cells = candidates.shape, candidates.cells
    same = (shape[..., :, None, :] == shape[..., None, :, :]).all(-1)
    same &= (cells[..., :, None, :] == cells[..., None, :, :]).all(-1)
    count = jnp.where(same, votes[..., None, :], 0).sum(-1)
    order = jnp.lexsort((-scores, -count), axis=-1)
    first = order[..., :1]
    differs = ~jnp.take_along_axis(same, first[..., None], axis=-2)[..., 0, :]
    second = jnp.argmax(jnp.take_along_axis(differs, order, axis=-1), axis=-1, keepdims=True)
    return jnp.concatenate([first, jnp.take_along_axis(order, second, axis=-1)], axis=-1)


def in_views(
    solve: SolveFn,
    number: int,
    *,
    rotate: bool = True,
    transpose: bool = True,
    colors: bool = True,
) -> SolveFn:
    """A solver that looks at every task in several views and lets them vote.

    Each view has one vote, for its first attempt. Second attempts are candidates without a vote, so
    that there is a second grid when all views agree; with one view attempts are those of `solve`.
    All other fields of the solution are those of the view with the best score. Every view is
    searched with a key of its own, the first with that of the task.

    Args:
      solve: for example `partial(solve_tasks, lpn, method=method)`; it gets `number` times as many
        tasks at once.
      number: of views per task.
      rotate: see `draw_views`. A turned grid must fit the model, so `rotate` and `transpose` need
        as many rows as columns at most.
      transpose: see `draw_views`.
      colors: see `draw_views`.

    Raises:
      ValueError: there are not so many different views.
    """
    _ways(number, rotate=rotate, transpose=transpose, colors=colors)

    def look(key: Array, demos: Pairs, inputs: Grid) -> tuple[View, tuple[Array, Pairs, Grid]]:
        """The views of one task `[V]`, and what the solver sees of it in each of them."""
        kinds = dict(rotate=rotate, transpose=transpose, colors=colors)
        views = draw_views(jax.random.fold_in(key, 0), number, **kinds)
        others = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(1, number))
        change = jax.vmap(seen, (0, None))
        mask = jnp.broadcast_to(demos.mask, (number, *demos.mask.shape))
        pairs = Pairs(change(views, demos.inputs), change(views, demos.outputs), mask)
        return views, (jnp.concatenate([key[None], others]), pairs, change(views, inputs))

    def solver(params: Params, keys: Array, demos: Pairs, inputs: Grid) -> Solution:
        size = len(keys)
        views, tasks = jax.vmap(look)(keys, demos, inputs)
        flat = jax.tree.map(lambda x: x.reshape(size * number, *x.shape[2:]), tasks)
        found: Solution = jax.tree.map(
            lambda x: x.reshape(size, number, *x.shape[1:]), solve(params, *flat)
        )
        back = jax.vmap(jax.vmap(seen))(opposite(views), found.attempts)
        candidates, scores = jax.tree.map(
            lambda x: rearrange(x, "b v q a ... -> b q (v a) ..."), (back, found.attempt_scores)
        )
        votes = jnp.broadcast_to(jnp.arange(2 * number) % 2 == 0, scores.shape)  # first attempts
        pick = vote(candidates, votes, scores)
        best = jnp.argmax(found.scores[:, :, 0], axis=1)
        solution: Solution = jax.tree.map(lambda x: jax.vmap(lambda of, i: of[i])(x, best), found)
        return solution._replace(
            attempts=jax.tree.map(
                lambda x: jnp.take_along_axis(x, pick[..., None], axis=2), candidates
            ),
            attempt_scores=jnp.take_along_axis(scores, pick, axis=2),
        )

    return solver
