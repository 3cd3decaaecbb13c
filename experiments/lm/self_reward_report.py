"""What sharpening did, as a table and as figures."""

from pathlib import Path

import numpy as np

from experiments.lm.by_setting import bootstrap, shown, table
from jaxtrain.host import report

Found = dict[str, np.ndarray]


def _numbered(name: str) -> tuple[str, int]:
    """`own_choice_of_16` -> its text and its number; 0 where there is none."""
    text = name.rstrip("0123456789")
    return text, int(name[len(text) :] or 0)


def show(found: Found, trials: dict[str, list[int]]) -> None:
    """Prints every number: mean and 95 % interval over problems and seeds, a column per setting.

    Args:
      found: name -> values, `[trials, problems]`.
      trials: setting -> its trials.
    """
    rows = {}
    for name in sorted(found, key=_numbered):
        cells = [shown(bootstrap(found[name][chosen])) for chosen in trials.values()]
        rows[name.replace("_", " ")] = cells
    print(table("over prompts and seeds", list(trials), rows), flush=True)


def draw_law(found: Found, num_samples: np.ndarray, path: Path) -> None:
    """Chance of the best sequence after imitating the best of N, against the law, prompt by prompt.

    Args:
      found: of `table`.
      num_samples: N of each trial, `[trials]`.
      path: of the PNG.
    """
    with report.figure_style():
        figure = report.new_figure(8, 3.6)
        left, right = figure.subplots(1, 2)
        for color, n in zip(report.COLORS, np.unique(num_samples), strict=False):
            mine = num_samples == n
            expected = n * found["best_before"][mine].reshape(-1)
            style = dict(s=9, color=color, label=f"N={n:g}", alpha=0.7, linewidths=0)
            left.scatter(expected, found["best"][mine].reshape(-1), **style)
            right.scatter(found["best_by_law"][mine], found["best"][mine], **style)
        x = (
            np.geomspace(*left.get_xlim(), 200)
            if left.get_xlim()[0] > 0
            else np.geomspace(0.01, 99, 200)
        )
        left.plot(x, -np.expm1(-x), color="#444444", linewidth=1, label="1 - exp(-N p)")
        left.set(
            xscale="log", xlabel="N p: samples times chance of the best", ylabel="chance after"
        )
        left.legend(fontsize=7)
        right.plot([0, 1], [0, 1], color="#444444", linewidth=1)
        right.set(xlabel="1 - (1 - p)^N", title="the law, prompt by prompt")
        figure.tight_layout()
        report.save_figure(figure, path)


def draw_choices(found: Found, trials: dict[str, list[int]], path: Path) -> None:
    """Choosing among samples of the base, and what a single sample gives after sharpening.

    Args:
      found: of `decoder`.
      trials: setting -> its trials; the choices are those of the first one's base.
      path: of the PNG.
    """
    first = next(iter(trials.values()))
    with report.figure_style():
        figure = report.new_figure(8.6, 3.6)
        left, right = figure.subplots(1, 2, sharey=True)
        for label, prefix in (("most probable", "own_choice_of_"), ("majority", "majority_of_")):
            sizes = sorted(_numbered(name)[1] for name in found if name.startswith(prefix))
            cells = bootstrap(np.stack([found[f"{prefix}{k}"][first] for k in sizes]))
            report.draw_interval(left, sizes, cells, label=f"{label} of N")
        greedy = found["greedy_before"][first].mean()
        left.axhline(greedy, color="#888888", linestyle=":", label="most probable tokens")
        left.set(xscale="log", xlabel="samples N of the base", ylabel="share right")
        left.legend(fontsize=7)
        names = ("sample_before", "sample", "greedy")
        for i, (name, chosen) in enumerate(trials.items()):
            value, low, high = bootstrap(np.stack([found[x][chosen] for x in names]))
            at = np.arange(len(names)) + 0.12 * (i - (len(trials) - 1) / 2)
            ends = [value - low, high - value]
            right.errorbar(at, value, yerr=ends, fmt="o", label=name or "this run")
        said = ["one sample before", "one sample after", "greedy after"]
        right.set_xticks(range(len(names)), said, fontsize=8)
        right.legend(fontsize=7)
        figure.tight_layout()
        report.save_figure(figure, path)
