"""Pictures of in-context learning: curves along sequences, regimes, state and improvement."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.host.proportions import wilson
from jaxtrain.host.report import (
    COLORS,
    draw_band,
    draw_interval,
    draw_percent,
    figure_style,
    interval,
    save_figure,
)
from jaxtta.in_context import REGIMES, Curve

_REGIME_COLORS = dict(zip(REGIMES, ("#9ecae1", "#fdd0a2", "#a1d99b", "#eeeeee"), strict=True))


def learning_curves(
    curves: Mapping[str, Curve], chance: float, path: Path, *, num_sequences: int
) -> Path:
    """Accuracy and loss against the number of examples in the context, a line per probe.

    A sweep draws mean and 95 % interval over trials, a single run over its `num_sequences`.
    """
    with figure_style():
        import matplotlib.pyplot as plt

        figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.6))
        for i, (name, curve) in enumerate(curves.items()):
            style: dict[str, Any] = dict(color=COLORS[i % len(COLORS)])
            if any(word in name for word in ("shuffled", "untrained")):
                style |= dict(linestyle="--", linewidth=1.2)
            accuracy, loss = np.asarray(curve.accuracy), np.asarray(curve.loss)
            x = np.arange(accuracy.shape[-1])
            if accuracy.ndim == 2:
                draw_percent(panels[0], x, accuracy.T, name, **style)
                draw_band(panels[1], x, loss.T, name, **style)
                continue
            right = [100 * part for part in wilson(accuracy, num_sequences)]
            draw_interval(panels[0], x, right, name, **style)
            error = 1.96 * np.asarray(curve.loss_error)
            draw_interval(panels[1], x, (loss, loss - error, loss + error), name, **style)
        panels[0].axhline(100 * chance, color="#999999", linewidth=1, linestyle=":")
        panels[1].axhline(-np.log(chance), color="#999999", linewidth=1, linestyle=":")
        panels[0].set_ylabel("accuracy (%)")
        panels[1].set_ylabel("cross-entropy (nats)")
        for axes in panels:
            axes.set_xlabel("examples in the context")
        panels[0].set_ylim(0, 102)
        panels[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        return save_figure(figure, path)


def by_setting(
    curve: Curve,
    trials: Mapping[str, np.ndarray],
    chance: float,
    path: Path,
    controls: Mapping[str, Curve],
) -> Path:
    """Accuracy along the sequence, a line per swept setting with its interval over seeds, and one
    per control with its interval over all trials."""
    names = [name for name in trials if name != "seed"]
    settings = np.stack([np.asarray(trials[name]) for name in names], axis=1)
    accuracy = np.asarray(curve.accuracy)
    with figure_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(5.6, 3.8))
        groups = np.unique(settings, axis=0)
        for i, group in enumerate(groups):
            chosen = (settings == group).all(1)
            label = ", ".join(
                f"{name.split('.')[-1]} {_number(value)}"
                for name, value in zip(names, group, strict=True)
            )
            color = plt.get_cmap("viridis")(i / max(len(groups) - 1, 1))
            draw_percent(axes, np.arange(accuracy.shape[1]), accuracy[chosen].T, label, color=color)
        for color, (name, control) in zip(("#555555", "#aaaaaa"), controls.items(), strict=False):
            positions = np.asarray(control.accuracy).T
            style: dict[str, Any] = dict(color=color, linestyle="--", linewidth=1.2)
            draw_percent(axes, np.arange(len(positions)), positions, name, **style)
        axes.axhline(100 * chance, color="#999999", linewidth=1, linestyle=":")
        axes.set_xlabel("examples in the context")
        axes.set_ylabel("accuracy (%), mean and interval over seeds")
        axes.set_ylim(0, 102)
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        return save_figure(figure, path)


def maps(
    found: Mapping[str, Mapping[str, Any]],
    trials: Mapping[str, np.ndarray],
    chance: float,
    folder: Path,
) -> None:
    """Figures over the whole grid: the map of regimes where numbers of tasks were swept, and state
    size against improvement where models differ in it."""
    if "tasks.num_tasks" in trials:
        regime_map(found, trials["tasks.num_tasks"], chance, folder / "regimes.png")
    if len({one["state_size"] for one in found.values()}) > 1:
        state_size(found, folder / "state_size.png")


def regime_map(
    found: Mapping[str, Mapping[str, Any]], num_tasks: np.ndarray, chance: float, path: Path
) -> Path:
    """Accuracy at the end of the sequence for every (grid entry, number of tasks), seen and unseen;
    a cell is coloured by the regime most of its seeds are in."""
    counts = np.unique(num_tasks)
    with figure_style():
        import matplotlib.pyplot as plt
        from matplotlib.patches import Patch, Rectangle

        size = (1.2 + 0.9 * len(counts), 1.4 + 0.75 * len(found))
        figure, axes = plt.subplots(figsize=size)
        for row, one in enumerate(found.values()):
            regimes, seen, unseen = (
                np.atleast_1d(one[name]) for name in ("regime", "seen_last", "unseen_last")
            )
            for column, count in enumerate(counts):
                chosen = num_tasks == count
                names, votes = np.unique(regimes[chosen], return_counts=True)
                winner = str(names[votes.argmax()])
                axes.add_patch(
                    Rectangle((column, row), 1, 1, color=_REGIME_COLORS[winner], linewidth=0)
                )
                text = (
                    f"{100 * seen[chosen].mean():.0f} / {100 * unseen[chosen].mean():.0f}\n"
                    f"{votes.max()} of {chosen.sum()}"
                )
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7)
        axes.set_xlim(0, len(counts))
        axes.set_ylim(0, len(found))
        powers = [f"$2^{{{np.log2(k):.0f}}}$" for k in counts]
        axes.set_xticks(np.arange(len(counts)) + 0.5, labels=powers)
        axes.set_yticks(np.arange(len(found)) + 0.5, labels=[_short(name) for name in found])
        axes.grid(False)
        axes.set_xlabel("number of meta-training tasks")
        axes.set_title(
            f"last accuracy, seen / unseen tasks (%, chance {100 * chance:.0f})", fontsize=9
        )
        handles = [Patch(color=color, label=name) for name, color in _REGIME_COLORS.items()]
        axes.legend(handles=handles, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        return save_figure(figure, path)


def state_size(found: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Improvement on unseen tasks against accessible state and against the number of parameters."""
    with figure_style():
        import matplotlib.pyplot as plt

        figure, panels = plt.subplots(1, 2, figsize=(9.2, 3.6), sharey=True)
        kinds = list(dict.fromkeys(_kind(name) for name in found))
        for name, one in found.items():
            values = 100 * np.atleast_1d(one["unseen_improvement"])
            mean, low, high = interval(values)
            color = COLORS[kinds.index(_kind(name)) % len(COLORS)]
            for axes, field in zip(panels, ("state_size", "num_parameters"), strict=True):
                x = max(one[field], 1)
                if not np.isnan(low):
                    axes.plot([x, x], [low, high], color=color, linewidth=1)
                axes.plot(np.full(len(values), x), values, ".", color=color, markersize=3)
                axes.plot(x, mean, "o", color=color, markersize=6)
        for axes, label in zip(panels, ("accessible state (numbers)", "parameters"), strict=True):
            axes.set_xscale("log")
            axes.set_xlabel(label)
            axes.axhline(0, color="#999999", linewidth=1, linestyle=":")
        panels[0].set_ylabel("improvement on unseen tasks (points)")
        for i, kind in enumerate(kinds):
            panels[1].plot([], [], "o", color=COLORS[i % len(COLORS)], label=kind)
        panels[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        return save_figure(figure, path)


def _kind(entry: str) -> str:
    """Name of the model in a grid entry."""
    named = [item.partition("=")[2] for item in entry.split(",") if item.startswith("model.name=")]
    return named[0] if named else "model of the config"


def _short(entry: str) -> str:
    return ", ".join(item.split(".")[-1].replace("=", " ") for item in entry.split(","))


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"
