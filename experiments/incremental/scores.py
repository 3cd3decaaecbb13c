"""What is right after every task, and which tasks images are taken for: numbers and a figure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.host import report
from jaxtrain.host.bootstrap import resampled
from jaxtrain.host.proportions import Interval, over_trials, percent

# First row minus second row; the first two pairs are the claims.
PAIRS = (
    ("ovor", "head_only"),
    ("one_prompt", "pool"),
    ("ovor", "one_prompt"),
    ("ovor", "inside_only"),
    ("ovor", "on_data"),
    ("on_data", "head_only"),
    ("released", "head_only"),
)


class Found(NamedTuple):
    """Numbers of one row and seed.

    Attributes:
      right: test images that are right in the end, `[M]`, bool.
      crossed: those that are taken for a class of another task, `[M]`, bool.
      seen: share of right images among the classes seen, after every task, `[tasks]`.
      forgetting: mean over earlier tasks of the best share of before less that of the end.
      confusion: share of the images of task i that are taken for task j, `[tasks, tasks]`.
    """

    right: np.ndarray
    crossed: np.ndarray
    seen: np.ndarray
    forgetting: float
    confusion: np.ndarray


def measured(predicted: np.ndarray, labels: np.ndarray, classes: int) -> Found:
    """Numbers from the classes that were given after every task.

    Args:
      predicted: `[tasks, M]`.
      labels: true ones in the order of learning, `[M]`.
      classes: of a task.
    """
    num_tasks, owner = len(predicted), labels // classes
    given, right = predicted[-1] // classes, predicted == labels
    shares = np.stack([right[:, owner == j].mean(1) for j in range(num_tasks)], 1)
    best = np.array([shares[j:-1, j].max() for j in range(num_tasks - 1)])
    rows = [np.bincount(given[owner == i], minlength=num_tasks) for i in range(num_tasks)]
    return Found(
        right[-1],
        given != owner,
        np.array([right[t, owner <= t].mean() for t in range(num_tasks)]),
        float((best - shares[-1, :-1]).mean()),
        np.stack([row / row.sum() for row in rows]),
    )


NUMBERS: dict[str, Callable[[Found], float]] = {
    "accuracy": lambda one: float(one.right.mean()),
    "crossed": lambda one: float(one.crossed.mean()),
    "within": lambda one: float((~one.right & ~one.crossed).mean()),
    "forgetting": lambda one: one.forgetting,
}


def said(one: Found) -> str:
    """The numbers of a row and seed."""
    return ", ".join(f"{name} {100 * number(one):.1f} %" for name, number in NUMBERS.items())


def summary(found: dict[str, list[Found]]) -> dict[str, Any]:
    """Numbers of every row, a value per seed, and differences over seeds and images."""
    numbers: dict[str, Any] = {
        f"{row}_{name}": np.array([number(one) for one in each])
        for row, each in found.items()
        for name, number in NUMBERS.items()
    }
    of = lambda row, name: np.stack([getattr(one, name) for one in found[row]]).astype(float)
    differences = {
        f"{first} over {second}": {
            name: resampled(of(first, name) - of(second, name))._asdict()
            for name in ("right", "crossed")
        }
        for first, second in PAIRS
        if {first, second} <= found.keys()
    }
    return numbers | {"differences": differences}


def table(found: dict[str, list[Found]]) -> str:
    """A line for every row: means over seeds with intervals, in percent."""
    lines = [["row", "right", "taken for another task", "wrong within the task", "forgetting"]]
    for row, each in found.items():
        values = {name: [number(one) for one in each] for name, number in NUMBERS.items()}
        forgotten = Interval(*report.interval(values.pop("forgetting")))
        shares = [over_trials(x) for x in values.values()]
        lines.append([row, *map(percent, (*shares, forgotten))])
    return report.grid(lines)


def comparisons(differences: dict[str, Any]) -> str:
    """A line for every difference, in points."""
    lines = [["difference", "right, points", "taken for another task, points"]]
    for name, parts in differences.items():
        cells = [percent(Interval(**parts[part]), 2) for part in ("right", "crossed")]
        lines.append([name, *cells])
    return report.grid(lines)


def draw(found: dict[str, list[Found]], path: Path) -> None:
    """Which task images are taken for, and how many are right after every task."""
    shown = [row for row in ("one_prompt", "ovor") if row in found] or list(found)[:2]
    with report.figure_style():
        figure = report.new_figure(3.2 * len(shown) + 4.4, 3.4)
        *panels, right = figure.subplots(1, len(shown) + 1)
        for axes, row in zip(panels, shown, strict=True):
            mean = np.mean([one.confusion for one in found[row]], 0)
            axes.imshow(mean, cmap="Blues", vmin=0, vmax=1)
            for (i, j), share in np.ndenumerate(mean):
                colour = "white" if share > 0.5 else "black"
                axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", color=colour)
            axes.set(title=f"{row}, %", xlabel="taken for task", xticks=(), yticks=())
            axes.grid(False)
        panels[0].set_ylabel("image of task")
        for i, (row, each) in enumerate(found.items()):
            curves = np.stack([one.seen for one in each], 1)
            style = dict(label=row, color=report.COLORS[i % len(report.COLORS)])
            report.draw_percent(right, np.arange(1, len(curves) + 1), curves, **style)
        right.set(xlabel="tasks learned", ylabel="right among the classes seen, %")
        right.legend(fontsize=8)
        figure.tight_layout()
        report.save_figure(figure, path)
