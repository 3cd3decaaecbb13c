"""Tables and figures from run folders: every trial, its mean, and a 95 % interval.

A trial is one run, or one row of a sweep. Trials that differ only in their seed form a group; a
group is one curve with a band in a figure and one block of a table. No best trial is singled out.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.host import proportions
from jaxtrain.host.arrays import one_sentence
from jaxtrain.host.config import UsageError, flatten
from jaxtrain.host.extras import import_extra
from jaxtrain.replacing import replacing

# Distinguishable with the common kinds of colour blindness (Okabe and Ito).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
# Keys that do not make two runs different experiments.
_NOT_A_SETTING = (
    "seed",
    "mesh",
    "checkpoint",
    "resume_from",
    "init_from",
    "log_every",
    "eval_every",
)

_PROPORTION = re.compile(r"(^|[_/])(accuracy|correctness|error)([_/]|$)")  # of a metric's name


class Curve(NamedTuple):
    """One metric of one run or group.

    Attributes:
      steps: `[points]`, int.
      values: `[points, trials]`, float64.
    """

    steps: np.ndarray
    values: np.ndarray


class Trial(NamedTuple):
    """One seed of one setting. `curves` maps a metric to its `[points, 1]` curve."""

    name: str
    experiment: str
    seed: int
    settings: dict[str, Any]
    curves: dict[str, Curve]


class Group(NamedTuple):
    """Trials that differ only in their seed. `curves`: metric -> its `[points, trials]` curve."""

    label: str
    trials: list[Trial]
    curves: dict[str, Curve]


def interval(values: Any, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the last axis, with Student's t interval of the mean.

    Args:
      values: `[..., trials]`.
      level: coverage of the interval.

    Returns:
      mean, low, high, each `[...]`; low and high are NaN for a single trial, which says nothing
      about its own spread.
    """
    from scipy.special import stdtrit

    values = np.asarray(values, np.float64)
    count = values.shape[-1]
    mean = values.mean(-1)
    if count < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stdtrit(count - 1, 0.5 + level / 2) * values.std(-1, ddof=1) / np.sqrt(count)
    return mean, mean - half, mean + half


def interval_of(name: str, values: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`interval` of a metric; one that its name says is a proportion keeps to [0, 1]."""
    values = np.asarray(values, np.float64)
    inside = bool(((values >= 0) & (values <= 1)).all())
    return (
        proportions.over_trials(values) if inside and _PROPORTION.search(name) else interval(values)
    )


def read_metrics(workdir: str | Path) -> dict[str, Curve]:
    """Reads `metrics.jsonl`; a torn last line is left out.

    Raises:
      UsageError: no such file, a damaged one, or nothing in it.
    """
    from jaxtrain.host import metrics

    file = Path(workdir) / "metrics.jsonl"
    if not file.is_file():
        raise UsageError(f"{str(workdir)!r} is not a run folder: it has no metrics.jsonl")
    points: dict[str, list[tuple[int, Any]]] = {}
    try:
        records = metrics.read(file)
    except ValueError as error:
        raise UsageError(str(error)) from error
    with one_sentence(file, "file of metrics"):
        for record in records:
            step = record.pop("step")
            for name, value in record.items():
                points.setdefault(name, []).append((step, np.atleast_1d(np.asarray(value, float))))
        if not points:
            raise UsageError(f"{str(file)!r} holds no metrics yet")
        return {
            name: Curve(np.asarray([s for s, _ in rows]), np.stack([v for _, v in rows]))
            for name, rows in points.items()
        }


def read_trials(workdir: str | Path) -> list[Trial]:
    """All trials of one run folder, one unless the run is a sweep.

    Raises:
      UsageError: its metrics or its `config.json` cannot be read.
    """
    workdir = Path(workdir)
    curves = read_metrics(workdir)
    with one_sentence(workdir / "config.json", "description of a run"):
        return _trials(workdir, curves)


def _trials(workdir: Path, curves: dict[str, Curve]) -> list[Trial]:
    file = workdir / "config.json"
    about = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    settings = flatten(about.get("config", {}))
    swept: Mapping[str, Sequence[float]] = about.get("trials") or {}
    count = max(curve.values.shape[1] for curve in curves.values())
    trials = []
    for index in range(count):
        own = settings | {name: values[index] for name, values in swept.items()}
        seed = int(own.get("seed", 0))
        kept = {
            key: value
            for key, value in own.items()
            if not any(key == name or key.startswith(f"{name}.") for name in _NOT_A_SETTING)
        }
        mine = {
            name: Curve(curve.steps, curve.values[:, [index if curve.values.shape[1] > 1 else 0]])
            for name, curve in curves.items()
        }
        experiment = " ".join(filter(None, (about.get("experiment"), about.get("variant"))))
        trials.append(Trial(workdir.name, experiment or workdir.name, seed, kept, mine))
    return trials


def _join(trials: Sequence[Trial]) -> dict[str, Curve]:
    """Curves over the trials, at the steps that all of them have."""
    names = [n for n in trials[0].curves if all(n in trial.curves for trial in trials)]
    joined = {}
    for name in names:
        curves = [trial.curves[name] for trial in trials]
        steps = curves[0].steps
        for curve in curves[1:]:
            steps = np.intersect1d(steps, curve.steps)
        columns = [curve.values[np.isin(curve.steps, steps), 0] for curve in curves]
        if len(steps):
            joined[name] = Curve(steps, np.stack(columns, axis=1))
    return joined


def group(trials: Sequence[Trial]) -> list[Group]:
    """Groups trials that differ only in their seed; labels say in what the groups differ."""
    by_setting: dict[str, list[Trial]] = {}
    for trial in trials:
        key = json.dumps([trial.experiment, trial.settings], sort_keys=True)
        by_setting.setdefault(key, []).append(trial)
    firsts = [members[0] for members in by_setting.values()]
    keys = sorted({key for trial in firsts for key in trial.settings})
    varied = [k for k in keys if len({json.dumps(t.settings.get(k)) for t in firsts}) > 1]
    several = len({trial.experiment for trial in firsts}) > 1
    groups = []
    for members in by_setting.values():
        first = members[0]
        parts = [first.experiment] if several or not varied else []
        parts += [f"{key}={_short(first.settings.get(key))}" for key in varied[:4]]
        groups.append(Group(", ".join(parts), members, _join(members)))
    return groups


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def with_interval(values: Any, name: str = "") -> str:
    """`"0.123 [0.120, 0.126]"`, or the number alone for a single trial, of the metric `name`."""
    mean, low, high = interval_of(name, values)
    return f"{mean:.4g}" + ("" if np.isnan(low) else f" [{low:.4g}, {high:.4g}]")


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Text columns: the first one left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def table(groups: Sequence[Group], metrics: Sequence[str]) -> str:
    """Last value of each metric: mean with interval per group, then every trial by itself."""
    blocks = []
    for one in groups:
        shown = [name for name in metrics if name in one.curves]
        last = {name: one.curves[name].values[-1] for name in shown}
        step = max((int(one.curves[name].steps[-1]) for name in shown), default=0)
        count = len(one.trials)
        rows = [["trial", *shown]]
        rows += [
            [f"seed {trial.seed} ({trial.name})", *(f"{last[name][i]:.4g}" for name in shown)]
            for i, trial in enumerate(one.trials)
        ]
        rows.append(["mean [95 % interval]", *(with_interval(last[name], name) for name in shown)])
        noun = "trial" if count == 1 else "trials"
        blocks.append(f"{one.label}: {count} {noun}, step {step}\n{grid(rows)}")
    return "\n\n".join(blocks)


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """Matplotlib settings of all figures: quiet axes, light grid, colour-blind-safe colours."""
    matplotlib = import_extra("matplotlib", "experiments")
    settings: Any = {
        "axes.prop_cycle": matplotlib.cycler(color=COLORS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#888888",
        "axes.labelcolor": "#333333",
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#E4E4E4",
        "grid.linewidth": 0.8,
        "xtick.color": "#555555",
        "ytick.color": "#555555",
        "font.size": 10,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
        "legend.frameon": False,
        "figure.dpi": 150,
        "savefig.dpi": 150,
        "savefig.bbox": "tight",
        "savefig.facecolor": "white",
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(width: float, height: float) -> Any:
    """An empty figure of that many inches, which no window shows."""
    return import_extra("matplotlib.figure", "experiments").Figure(figsize=(width, height))


def save_figure(figure: Any, path: str | Path) -> Path:
    """Writes `figure` as PNG, making the folder when needed, and closes it."""
    with replacing(path) as part:
        figure.savefig(part, format="png")
    import_extra("matplotlib.pyplot", "experiments").close(figure)
    return Path(path)


def draw_band(axes: Any, x: Any, values: Any, label: str = "", **style: Any) -> None:
    """Draws mean and 95 % interval of `values` (`[points, trials]`) over `x` (`[points]`)."""
    draw_interval(axes, x, interval(values), label, **style)


def draw_percent(axes: Any, x: Any, shares: Any, label: str = "", **style: Any) -> None:
    """`draw_band` of proportions, in percent."""
    percent = [100 * part for part in proportions.over_trials(shares)]
    draw_interval(axes, x, percent, label, **style)


def draw_interval(axes: Any, x: Any, found: Sequence[Any], label: str = "", **style: Any) -> None:
    """Draws a line with its band: value, low and high, each `[points]`, over `x`."""
    mean, low, high = found
    (line,) = axes.plot(x, mean, label=label, marker="o" if len(x) == 1 else None, **style)
    if not np.isnan(low).any():
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.18, linewidth=0)


def learning_curves(groups: Sequence[Group], metric: str, path: str | Path) -> Path:
    """One figure: `metric` against the step, a line with its band per group."""
    shown = [one for one in groups if metric in one.curves]
    with figure_style():
        figure = new_figure(6.4, 3.8)
        axes = figure.subplots()
        for one in shown:
            curve = one.curves[metric]
            draw_interval(axes, curve.steps, interval_of(metric, curve.values), label=one.label)
        lows = [one.curves[metric].values.min() for one in shown]
        highs = [one.curves[metric].values.max() for one in shown]
        if "loss" in metric and min(lows) > 0 and max(highs) > 50 * min(lows):
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel(metric)
        counts = sorted({len(one.trials) for one in shown})
        title = [shown[0].label] if len(shown) == 1 else []
        if counts[-1] > 1:
            number = "-".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
            title.append(f"mean and 95 % interval over {number} trials")
        axes.set_title("; ".join(title), color="#555555")
        if len(shown) > 1:
            axes.legend()
        return save_figure(figure, path)


def schedule_curves(resolved: Mapping[str, Mapping[str, Any]], path: str | Path) -> Path:
    """One figure: the learning rate of every update to come, one line per run and swept rate.

    Args:
      resolved: run -> what `schedules.read_schedule` found there.
      path: of the PNG.
    """
    with figure_style():
        figure = new_figure(6.4, 3.8)
        axes = figure.subplots()
        for name, one in resolved.items():
            rows = list(dict.fromkeys(map(tuple, one["rates"])))
            for row in rows:
                peak = f", peak {_short(max(row))}" if len(rows) > 1 else ""
                run = f" ({name})" if len(resolved) > 1 else ""
                axes.plot(one["steps"], row, label=f"{one['schedule'][:60]}{peak}{run}")
        axes.set_xlabel("step")
        axes.set_ylabel("learning rate")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)
        return save_figure(figure, path)


def figure_name(metric: str) -> str:
    """A file name for a metric: `val/accuracy` -> `val_accuracy.png`."""
    return re.sub(r"[^\w.-]+", "_", metric) + ".png"
