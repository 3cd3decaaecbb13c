"""Pictures of the Latent Program Network: grids, latent spaces, searches, accuracy curves."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.data.arc.parsing import Pair, Task
from jaxtrain.host.proportions import wilson
from jaxtrain.host.report import draw_interval, draw_percent, figure_style, save_figure
from jaxtta.lpn import (
    LPN,
    Grid,
    Method,
    Pairs,
    ascent_adam,
    execute_tasks,
    generate,
    gradient_ascent,
    scorer,
    search_task,
)

# The colours of the ARC web site, 0 to 9.
ARC_COLOURS = (
    "#000000", "#0074D9", "#FF4136", "#2ECC40", "#FFDC00",
    "#AAAAAA", "#F012BE", "#FF851B", "#7FDBFF", "#870C25",
)  # fmt: skip


def draw_grid(axes: Any, grid: np.ndarray, title: str = "", colour: str = "black") -> None:
    """Draws one grid of colours `[rows, cols]`."""
    from matplotlib.colors import ListedColormap

    axes.imshow(grid, cmap=ListedColormap(ARC_COLOURS), vmin=0, vmax=9, interpolation="nearest")
    rows, cols = grid.shape
    axes.set_xticks(np.arange(-0.5, cols), labels=[])
    axes.set_yticks(np.arange(-0.5, rows), labels=[])
    axes.grid(True, color="#555555", linewidth=0.5)
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=8, color=colour)


Cell = tuple[str, np.ndarray | None, str]  # title, grid or nothing, colour of the title


def strips(rows: Sequence[Sequence[Cell]], labels: Sequence[str], path: Path) -> None:
    """A table of grids: rows of (title, grid, title colour), a label per row."""
    with figure_style():
        import matplotlib.pyplot as plt

        width = max(map(len, rows))
        figure, axes = plt.subplots(
            len(rows), width, figsize=(1.45 * width, 1.7 * len(rows)), squeeze=False
        )
        for line, row, label in zip(axes, rows, labels, strict=True):
            for cell in line:
                cell.axis("off")
            for cell, (title, grid, colour) in zip(line, row, strict=False):
                if grid is not None:
                    cell.axis("on")
                    draw_grid(cell, grid, title, colour)
            line[0].set_ylabel(label, fontsize=8)
        save_figure(figure, path)


def demonstrations(pairs: Sequence[Pair], room: int) -> Iterator[Cell]:
    """Cells of all demonstrations of a task, and empty ones up to `room` of them."""
    for i in range(room):
        given, output = pairs[i] if i < len(pairs) else (None, None)
        yield f"in {i + 1}", given, "black"
        yield f"out {i + 1}", output, "black"


def task_strips(
    tasks: Sequence[Task], predictions: Mapping[str, Sequence[Sequence[np.ndarray]]], path: Path
) -> None:
    """One row per test input: all demonstrations, input, truth and both attempts."""
    rows, labels = [], []
    most = max((len(task.train) for task in tasks), default=0)
    for task in tasks:
        for i, (given, truth) in enumerate(task.test):
            row: list[Cell] = [*demonstrations(task.train, most)]
            row += [("input", given, "black"), ("truth", truth, "black")]
            for a, attempt in enumerate(predictions[task.id][i], 1):
                right = truth is not None and np.array_equal(attempt, truth)
                mark = "" if truth is None else " (right)" if right else " (wrong)"
                row.append((f"attempt {a}{mark}", attempt, "#1a7f37" if right else "#b42318"))
            rows.append(row)
            labels.append(task.id)
    if rows:
        strips(rows, labels, path)


def pattern_attempts(
    lpn: LPN,
    params: Any,
    key: Array,
    pairs: Pairs,
    path: Path,
    *,
    method: Method,
    size: tuple[int, int],
    num_tasks: int = 6,
) -> None:
    """Held-out tasks: the last pair predicted from the others, before and after the search."""
    pairs = jax.tree.map(lambda x: x[:num_tasks], pairs)
    demos = jax.tree.map(lambda x: x[:, :-1], pairs)
    target = jax.tree.map(lambda x: x[:, -1:], pairs)

    @jax.jit
    def attempts(params, demos, inputs):
        keys = jax.random.split(key, demos.mask.shape[0])
        result = jax.vmap(lambda k, d: search_task(lpn, params, k, d, method))(keys, demos)
        contexts = jnp.stack([result.latents[:, 0, 0], result.best_latents[:, 0]], axis=1)
        trails = result.latents[:, :, 0], result.scores[:, :, 0]
        return execute_tasks(lpn, params, contexts, inputs), trails

    grids, trails = jax.device_get(attempts(params, demos, target.inputs))
    latent_trails(*trails, path.with_name("search_in_latent_space.png"), num_tasks)
    rows = []
    for t in range(len(grids.cells)):
        truth = _array(target.outputs, (t, 0))
        shown = [
            (_array(demos.inputs, (t, i)), _array(demos.outputs, (t, i)))
            for i in range(demos.mask.shape[1])
        ]
        row: list[Cell] = [*demonstrations(shown, len(shown))]
        row += [("input", _array(target.inputs, (t, 0)), "black"), ("truth", truth, "black")]
        for k, name in enumerate(("mean latent", "after search")):
            guess = _array(grids, (t, 0, k))
            colour = "#1a7f37" if np.array_equal(guess, truth) else "#b42318"
            row.append((name, guess, colour))
        rows.append(row)
    strips(rows, [f"task {t}" for t in range(len(rows))], path)


def _array(grids: Grid, index: tuple[int, ...]) -> np.ndarray:
    rows, cols = np.asarray(grids.shape)[index].tolist()
    return np.asarray(grids.cells)[index][: rows * cols].reshape(rows, cols)


def accuracy_against_steps(
    curves: Mapping[str, tuple[Sequence[int], np.ndarray]], path: Path
) -> None:
    """Exact-match accuracy against search steps; a band over trials per label.

    Args:
      curves: label -> (steps `[S]`, accuracy `[S, trials]`).
      path: PNG file.
    """
    with figure_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(5, 3.4))
        ticks: set[int] = set()
        for label, (steps, values) in curves.items():
            draw_percent(axes, np.asarray(steps), values, label)
            ticks |= set(steps)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xticks(sorted(ticks), labels=[str(n) for n in sorted(ticks)])
        axes.set_xlabel("gradient steps in latent space")
        axes.set_ylabel("exact match (%)")
        axes.set_ylim(-2, 102)
        axes.legend(fontsize=8)
        save_figure(figure, path)


def accuracy_against_compute(curve: Any, path: Path) -> None:
    """Pass@2 against search steps and against FLOPs (an `arc_evaluation.Curve`)."""
    with figure_style():
        import matplotlib.pyplot as plt

        figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
        found = wilson(curve.accuracy.mean(-1), curve.accuracy.shape[-1])
        values = [100 * part for part in found]
        for axes, x, name in (
            (panels[0], np.asarray(curve.steps), "gradient steps in latent space"),
            (panels[1], curve.flops, "FLOPs per task (encoding and search)"),
        ):
            draw_interval(axes, x, values)
            axes.set_xlabel(name)
            axes.set_ylim(-2, 102)
        panels[0].set_xscale("symlog", linthresh=1)
        panels[0].set_xticks(list(curve.steps), labels=[str(n) for n in curve.steps])
        panels[1].set_xscale("log")
        panels[0].set_ylabel("pass@2 (%), interval over tasks")
        save_figure(figure, path)


def search_trajectories(trajectory: np.ndarray, exact: np.ndarray, path: Path) -> None:
    """Best score so far against search steps, a line per task `[tasks, K + 1]`; nothing is drawn
    if no search took a step."""
    if not (np.isfinite(trajectory) & (trajectory != trajectory[:, :1])).any():
        return
    with figure_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(5, 3.4))
        names = {True: "demonstrations reproduced", False: "not reproduced"}
        for done, colour in ((True, "#1a7f37"), (False, "#b42318")):
            for i, line in enumerate(trajectory[exact == done]):
                axes.plot(
                    np.where(np.isfinite(line), line, np.nan),
                    color=colour, alpha=0.5, linewidth=1, label=names[done] if i == 0 else None,
                )  # fmt: skip
        axes.set_xlabel("search steps")
        axes.set_ylabel("best score on the demonstrations (nats)")
        axes.legend(fontsize=8)
        save_figure(figure, path)


def latent_trails(trails: np.ndarray, scores: np.ndarray, path: Path, num_drawn: int = 6) -> None:
    """The way of each search through latent space, coloured by score.

    Args:
      trails: latents visited, `[tasks, K + 1, H]`; a panel shows the two principal axes of one.
      scores: their scores, `[tasks, K + 1]`; not finite where a search had ended.
      path: PNG file.
      num_drawn: first searches of at least two steps that are drawn; nothing is if there is none.
    """
    moved = np.isfinite(scores).sum(1) >= 3
    trails, scores = trails[moved][:num_drawn], scores[moved][:num_drawn]
    if not len(trails) or trails.shape[2] < 2:
        return
    with figure_style():
        import matplotlib.pyplot as plt

        columns = min(3, len(trails))
        rows = -(-len(trails) // columns)
        figure, panels = plt.subplots(
            rows, columns, figsize=(3.3 * columns, 2.8 * rows), squeeze=False
        )
        for axes in panels.ravel()[len(trails) :]:
            axes.axis("off")
        for axes, trail, score in zip(panels.ravel(), trails, scores, strict=False):
            trail, score = trail[np.isfinite(score)], score[np.isfinite(score)]
            centred = trail - trail.mean(0)
            principal = np.linalg.svd(centred, full_matrices=False)[2][:2]
            x, y = (centred @ principal.T).T if len(principal) == 2 else np.zeros((2, len(trail)))
            axes.plot(x, y, color="#999999", linewidth=0.8, zorder=1)
            dots = axes.scatter(x, y, c=score, s=12, cmap="viridis", zorder=2)
            axes.plot(x[0], y[0], "o", color="#FF851B", markersize=7, label="start", zorder=3)
            best = int(np.argmax(score))
            axes.plot(x[best], y[best], "*", color="#FF4136", markersize=12, label="best", zorder=3)
            figure.colorbar(dots, ax=axes)
            axes.tick_params(labelsize=7)
        panels[0, 0].legend(fontsize=7)
        figure.suptitle(
            "search in latent space: principal axes, coloured by score (nats)", fontsize=10
        )
        figure.tight_layout()
        save_figure(figure, path)


def latent_space(lpn: LPN, params: Any, pairs: Pairs, programs: Array, path: Path) -> None:
    """Posterior means of held-out pairs on their first two principal axes, coloured by program."""
    mean = np.asarray(jax.jit(lpn.encode)(params, pairs).mean)
    flat = mean.reshape(-1, mean.shape[-1])
    centred = flat - flat.mean(0)
    axes_ = np.linalg.svd(centred, full_matrices=False)[2][:2]
    points = (centred @ axes_.T).reshape(*mean.shape[:2], 2)
    corner = np.asarray(programs)[:, 0, 0]
    with figure_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(4.6, 4.2))
        for colour in range(10):
            chosen = points[corner == colour]
            if len(chosen):
                axes.plot(
                    chosen.reshape(-1, 2)[:, 0], chosen.reshape(-1, 2)[:, 1], ".",
                    color=ARC_COLOURS[colour], markersize=4, label=str(colour),
                )  # fmt: skip
                for task in chosen:
                    axes.plot(task[:, 0], task[:, 1], color=ARC_COLOURS[colour], linewidth=0.3)
        axes.set_xlabel("first principal axis of the latents")
        axes.set_ylabel("second principal axis")
        axes.legend(fontsize=7, title="top-left colour", ncol=2)
        save_figure(figure, path)


def _normal_grid(side: int) -> np.ndarray:
    """Latents at the inverse normal of a grid over the unit square, `[side, side, 2]`."""
    from jax.scipy.special import ndtri

    line = np.asarray(ndtri((jnp.arange(side) + 0.5) / side))
    return np.stack(np.meshgrid(line, line[::-1]), axis=-1)


def latent_map(lpn: LPN, params: Any, pairs: Pairs, path: Path, side: int = 16) -> None:
    """What each place of a two-dimensional latent space paints on one input."""
    latents = jnp.asarray(_normal_grid(side).reshape(-1, 2), jnp.float32)
    given = jax.tree.map(lambda x: x[0, :1], pairs.inputs)
    # The dot at the top left, so that the whole pattern is visible.
    given = given._replace(cells=jnp.zeros_like(given.cells).at[:, 0].set(1))
    inputs = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(latents), *x.shape[1:])), given)
    grids = jax.device_get(jax.jit(lambda p, z, g: generate(lpn, p, z, g))(params, latents, inputs))
    with figure_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(side, side, figsize=(6, 6))
        for i, cell in enumerate(axes.ravel()):
            draw_grid(cell, _array(grids, (i,)))
            cell.grid(False)
        figure.subplots_adjust(wspace=0.08, hspace=0.08)
        figure.suptitle("decoded program over the unit square of the prior", fontsize=9)
        save_figure(figure, path)


def likelihood_map(
    lpn: LPN,
    params: Any,
    key: Array,
    pairs: Pairs,
    path: Path,
    *,
    side: int = 48,
    steps: int = 30,
) -> None:
    """Score of one task's demonstrations over a two-dimensional latent space, with an ascent."""

    demos = jax.tree.map(lambda x: x[0, :-1], pairs)
    make = functools.partial(gradient_ascent, optimizer=ascent_adam(0.1))
    method = Method(make_search=make, num_steps=steps)
    result = jax.jit(lambda p, d: search_task(lpn, p, key, d, method))(params, demos)
    trail = np.asarray(result.latents[:, 0])
    low = np.minimum(trail.min(0) - 0.5, -2.5)
    high = np.maximum(trail.max(0) + 0.5, 2.5)
    x, y = (np.linspace(low[i], high[i], side) for i in range(2))
    latents = jnp.asarray(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2), jnp.float32)
    scores = jax.jit(
        lambda p, z: jax.lax.map(
            lambda row: scorer(lpn, p, demos)(row[None]).score[0], z, batch_size=64
        )
    )(params, latents)
    with figure_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(5, 4))
        filled = axes.contourf(x, y, np.asarray(scores).reshape(side, side), 24, cmap="viridis")
        figure.colorbar(filled, label="score of the demonstrations (nats)")
        axes.plot(trail[:, 0], trail[:, 1], "-o", color="white", markersize=2.5, linewidth=1)
        axes.plot(*trail[0], "o", color="#FF851B", label="mean latent")
        best = np.asarray(result.best_latents[0])
        axes.plot(*best, "*", color="#FF4136", markersize=12, label="best")
        axes.set_xlabel("latent dimension 1")
        axes.set_ylabel("latent dimension 2")
        axes.legend(fontsize=8)
        save_figure(figure, path)


def pixel_heat_map(
    predictions: Mapping[str, Sequence[Sequence[np.ndarray]]], tasks: Sequence[Task], path: Path
) -> None:
    """Share of right cells by position, over first attempts whose shape is right."""
    right, seen = np.zeros((30, 30)), np.zeros((30, 30))
    for task in tasks:
        for (_, truth), attempts in zip(task.test, predictions[task.id], strict=True):
            if truth is not None and attempts[0].shape == truth.shape:
                rows, cols = truth.shape
                right[:rows, :cols] += attempts[0] == truth
                seen[:rows, :cols] += 1
    if not seen.any():
        return
    side = int(np.max(np.nonzero(seen))) + 1
    with figure_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(4.6, 4))
        share = np.where(seen > 0, right / np.maximum(seen, 1), np.nan)[:side, :side]
        image = axes.imshow(100 * share, vmin=0, vmax=100, cmap="viridis")
        figure.colorbar(image, label="right cells (%)")
        axes.set_xlabel("column")
        axes.set_ylabel("row")
        axes.grid(False)
        save_figure(figure, path)
