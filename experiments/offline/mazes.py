"""Policies tried in a maze, and pictures of what they do there."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrl.envs.point_maze import REACHED, Maze, move, random_place
from jaxtrain.host.report import figure_style, new_figure, save_figure

# (memory, key, position [2], goal [2]) -> memory, action [2]; positions in cells
Act = Callable[[Any, Array, Array, Array], tuple[Any, Array]]


class Trips(NamedTuple):
    """Where to go from where: keys `[P]`, positions and goals in cells, `[P, 2]` each."""

    keys: Array
    start: Array
    goal: Array


def trips(maze: Maze, key: Array, number: int, least: int) -> Trips:
    """Random pairs of cells that are at least `least` steps of a cell apart; starts off the middle.

    Raises:
      ValueError: no cells of the maze are that far apart.
    """
    pairs = np.argwhere(maze.distance >= least)
    if not len(pairs):
        raise ValueError(
            f"evaluation.min_distance={least}, but no two cells of the maze are more than "
            f"{maze.distance.max()} apart"
        )
    key_pairs, key_start, key_run = jax.random.split(key, 3)
    chosen = jnp.asarray(pairs)[jax.random.randint(key_pairs, (number,), 0, len(pairs))]
    place = lambda k, cell: random_place(maze, k, cell[None])
    start = jax.vmap(place)(jax.random.split(key_start, number), chosen[:, 0])
    goal = jnp.asarray(maze.cells, jnp.float32)[chosen[:, 1]]
    return Trips(jax.random.split(key_run, number), start, goal)


def paths(maze: Maze, act: Act, memory: Any, trips: Trips, max_steps: int) -> Array:
    """Positions `[P, max_steps + 1, 2]` of every trip; a point that has arrived stays."""

    def one(key: Array, start: Array, goal: Array) -> Array:
        def step(carry: Any, time: Array) -> tuple[Any, Array]:
            memory, position = carry
            memory, action = act(memory, jax.random.fold_in(key, time), position, goal)
            there = jnp.linalg.norm(position - goal) < REACHED
            moved = jnp.where(there, position, move(maze, position, action))
            return (memory, moved), position

        (_, last), before = jax.lax.scan(step, (memory, start), jnp.arange(max_steps))
        return jnp.concatenate([before, last[None]])

    return jax.vmap(one)(*trips)


def reached(path: Any, goal: Any) -> np.ndarray:
    """Whether paths `[..., P, T, 2]` end at their goals `[P, 2]`, `[..., P]`, bool."""
    return np.linalg.norm(np.asarray(path)[..., -1, :] - np.asarray(goal), axis=-1) < REACHED


def draw_maze(axes: Any, maze: Maze, values: Any = None) -> Any:
    """The walls, and the cells coloured by `values` `[C]`; returns what a colour bar takes."""
    picture = np.full(maze.wall.shape, np.nan)
    if values is not None:
        picture[tuple(maze.cells.T)] = values
    axes.set_facecolor("#FFFFFF")
    axes.imshow(np.where(maze.wall, 0.35, np.nan), cmap="gray", vmin=0, vmax=1)
    shown = axes.imshow(picture, cmap="viridis_r")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    return shown


def draw_walks(axes: Any, maze: Maze, walked: Any, goals: Any, title: str) -> None:
    """Paths `[P, T, 2]` from their dots to their stars, `[P, 2]`."""
    draw_maze(axes, maze)
    for one, end in zip(np.asarray(walked), np.asarray(goals), strict=True):
        (line,) = axes.plot(one[:, 1], one[:, 0], linewidth=1.2)
        axes.plot(*one[0, ::-1], "o", markersize=4, color=line.get_color())
        axes.plot(*end[::-1], "*", markersize=9, color=line.get_color())
    axes.set_title(title, fontsize=9)


def distance_figure(
    maze: Maze,
    goal: int,
    found: Mapping[str, Any],
    walks: Mapping[str, Any],
    goals: Any,
    path: Path,
) -> None:
    """Distances to a cell by several measures, and paths `[P, T, 2]` of as many policies."""
    with figure_style():
        figure = new_figure(3.2 * len(found), 6.2)
        panels = figure.subplots(2, len(found))
        for axes, (title, values) in zip(panels[0], found.items(), strict=True):
            shown = draw_maze(axes, maze, values)
            axes.plot(*maze.cells[goal][::-1], "r*", markersize=9)
            axes.set_title(title, fontsize=9)
            figure.colorbar(shown, ax=axes, shrink=0.7)
        for axes, (title, walked) in zip(panels[1], walks.items(), strict=True):
            draw_walks(axes, maze, walked, goals, title)
        save_figure(figure, path)


def walks_figure(maze: Maze, walks: Mapping[str, Any], goals: Any, path: Path) -> None:
    """Paths `[P, T, 2]` of several policies to goals `[P, 2]`, side by side."""
    with figure_style():
        figure = new_figure(3.2 * len(walks), 3.6)
        panels = np.ravel(figure.subplots(1, len(walks)))
        for axes, (title, walked) in zip(panels, walks.items(), strict=True):
            draw_walks(axes, maze, walked, goals, title)
        save_figure(figure, path)
