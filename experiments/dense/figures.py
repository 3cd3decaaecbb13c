"""Figures of segmentation: pictures with what was made of them, and labels getting better."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.data.images.masks import Masked
from jaxtrain.host import report
from jaxtrain.host.extras import import_extra

# Sky, building, road, ... in the order of made-up streets; further ones for further classes.
PALETTE = np.array(
    [
        (120, 170, 220), (150, 80, 60), (110, 90, 130), (60, 120, 60), (40, 60, 190),
        (215, 180, 140), (225, 200, 60), (190, 140, 150), (230, 120, 40), (200, 40, 70),
        (0, 160, 160), (90, 90, 90), (160, 200, 90), (255, 150, 190), (100, 40, 100),
        (0, 90, 120), (180, 180, 255), (120, 120, 0), (240, 240, 160),
    ],
    np.uint8,
)  # fmt: skip


def coloured(labels: np.ndarray) -> np.ndarray:
    """Classes `[...]` as colours `[..., 3]`, uint8; black for pixels without one."""
    colours = np.concatenate([np.zeros((1, 3), np.uint8), PALETTE])
    return colours[np.where(labels < 0, 0, 1 + labels % len(PALETTE))]


def pictures(
    given: Masked, found: Mapping[str, np.ndarray], names: tuple[str, ...], path: Path
) -> None:
    """A row per picture: the picture, its true classes, and those that models found."""
    number = min(len(x) for x in found.values())
    columns = {"picture": given.images[:number], "truth": coloured(given.labels[:number])}
    columns |= {name: coloured(x[:number]) for name, x in found.items()}
    with report.figure_style():
        drawn = report.new_figure(2.6 * len(columns), 2.0 * number + 0.6)
        panels = drawn.subplots(number, len(columns), squeeze=False)
        for line, axes in enumerate(panels):
            for one, (name, images) in zip(axes, columns.items(), strict=True):
                one.imshow(images[line], interpolation="nearest")
                one.set_axis_off()
                if not line:
                    one.set_title(name)
        patch = import_extra("matplotlib.patches", "experiments").Patch
        marks = [patch(color=coloured(np.array(i)) / 255) for i in range(len(names))]
        drawn.legend(marks, names, loc="lower center", ncols=min(len(names), 6), fontsize=8)
        drawn.subplots_adjust(0.01, 0.6 / (2.0 * number + 0.6), 0.99, 0.94, 0.03, 0.05)
        report.save_figure(drawn, path)


def curves(right: Mapping[str, np.ndarray], path: Path) -> None:
    """Share of right labels of the target by step, `[seeds, steps]` each, in twentieths of all."""
    with report.figure_style():
        drawn = report.new_figure(7, 4)
        axes = drawn.subplots()
        for name, values in right.items():
            parts = np.array_split(values, min(20, values.shape[1]), axis=1)
            steps = np.cumsum([part.shape[1] for part in parts])
            report.draw_percent(axes, steps, np.stack([part.mean(1) for part in parts]), name)
        axes.set(xlabel="step", ylabel="right labels of the target, %")
        axes.legend(loc="lower right", fontsize=8)
        report.save_figure(drawn, path)
