"""Numbers, table and bar chart of `tta_images`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments.data.images.loader import Images
from experiments.images.stream import shift_names
from jaxtrain.host import proportions, report
from jaxtta import scores as metrics
from jaxtta.evaluation import Evaluation
from jaxtta.streams import Stream


class Row(NamedTuple):
    """One method on one seed.

    Attributes:
      method: its name.
      seed: of draws and stream.
      shifts: corruption -> its `jaxtta.scores.scores`, over all severities and rounds; errors and
        calibration are NaN where the data have no labels.
      rounds: mean error of every round of the stream; NaN without labels.
      share_selected: rows that updates learned from, of all rows.
      num_resets: how often the method reset itself.
      clean_error: with the state after the stream.
      open_set: mean over corruptions of `auroc`, `fpr95` and `oscr` of the energy; empty if the
        stream has no unknown classes.
      worst_group: error of the group with the largest one, mean over corruptions; `None` if the
        set has no groups.
    """

    method: str
    seed: int
    shifts: dict[str, dict[str, float]]
    rounds: list[float]
    share_selected: float
    num_resets: float
    clean_error: float
    open_set: dict[str, float] = {}
    worst_group: float | None = None


def open_set_scores(logits: np.ndarray, labels: np.ndarray, stream: Stream) -> dict[str, float]:
    """Known against unknown rows (label -1) by energy, mean over domains; errors are shares."""
    truth, energy = np.asarray(labels)[stream.image], metrics.energy(logits)
    correct = logits.argmax(-1) == truth
    found = []
    for domain in np.unique(stream.domain[stream.mask]):
        rows = stream.mask & (stream.domain == domain)
        known, unknown = rows & (truth >= 0), rows & (truth < 0)
        pair = energy[known], energy[unknown]
        found.append(
            {
                "auroc": metrics.auroc(*pair),
                "fpr95": metrics.fpr_at_tpr(*pair),
                "oscr": metrics.oscr(pair[0], correct[known], pair[1]),
            }
        )
    return {name: float(np.mean([f[name] for f in found])) for name in found[0]}


def row_of(
    method: str,
    seed: int,
    done: Evaluation,
    *,
    data: Images,
    stream: Stream,
    config: ConfigDict,
    clean_error: float,
) -> Row:
    """The row of one evaluation on a stream over `data`."""
    labels = data.labels
    logits, selected = np.asarray(done.logits), np.asarray(done.selected)
    names = shift_names(config)
    levels = 5 if config.stream.setting == "gradual" else 1
    is_open = config.stream.setting == "open_set"
    of_energy = open_set_scores(logits, labels, stream) if is_open else {}
    # Errors and calibration are those of rows with a known class, if there are any.
    known = stream.mask & ((labels[stream.image] >= 0) | (not data.has_labels))
    by_shift = stream._replace(domain=stream.domain // levels, mask=known)
    scores = metrics.scores_by_domain(logits, labels, by_shift)
    wrong = (logits.argmax(-1) != labels[stream.image]).astype(float)
    if not data.has_labels:
        wrong[:] = np.nan
    errors = []
    for part in np.split(np.arange(len(wrong)), config.stream.rounds):
        mask, domain = by_shift.mask[part], by_shift.domain[part]
        per = [wrong[part][mask & (domain == d)].mean() for d in np.unique(domain[mask])]
        errors.append(float(np.mean(per)))
    resets = done.metrics.get("did_reset")
    worst = None
    if data.groups is not None:
        at = [known & (by_shift.domain == d) for d in scores]
        groups = data.groups[stream.image]
        worst = float(np.mean([metrics.worst_group_error(wrong[a], groups[a]) for a in at]))
    return Row(
        method,
        seed,
        {names[d]: values for d, values in scores.items()},
        errors,
        float(selected[stream.mask].mean()),
        0.0 if resets is None else float(np.asarray(resets).sum()),
        clean_error,
        of_energy,
        worst,
    )


def mean_of(row: Row, metric: str) -> float:
    """Mean over corruptions."""
    return float(np.mean([scores[metric] for scores in row.shifts.values()]))


def _methods(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.method for row in rows))


def _values(rows: Sequence[Row], method: str, value: Any) -> np.ndarray:
    return np.array([value(row) for row in rows if row.method == method])


def _shown(value: float, form: str) -> str:
    return "-" if np.isnan(value) else format(value, form)


def _percent(shares: np.ndarray) -> str:
    if np.isnan(shares).any():
        return "-"
    return proportions.percent(proportions.over_trials(shares), digits=2)


def summary(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """`<method>_<metric>` -> one value per seed."""
    found = {}
    for method in _methods(rows):
        for metric in ("error", "nll", "brier", "ece", "largest_class"):
            found[f"{method}_{metric}"] = _values(rows, method, lambda r, m=metric: mean_of(r, m))
        found[f"{method}_share_selected"] = _values(rows, method, lambda r: r.share_selected)
        found[f"{method}_clean_error"] = _values(rows, method, lambda r: r.clean_error)
        for metric in rows[0].open_set:
            found[f"{method}_{metric}"] = _values(rows, method, lambda r, m=metric: r.open_set[m])
        if rows[0].worst_group is not None:
            found[f"{method}_worst_group_error"] = _values(rows, method, lambda r: r.worst_group)
        if len(rows[0].rounds) > 1:
            found[f"{method}_last_round_error"] = _values(rows, method, lambda r: r.rounds[-1])
    return found


def print_seed(rows: Sequence[Row], seed: int) -> None:
    """One line per method of a seed."""
    for row in rows:
        if row.seed == seed:
            error = _shown(100 * mean_of(row, "error"), "5.1f")
            print(f"seed {seed}  {row.method:<12} error {error} %", flush=True)


def table(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """Errors in % per corruption and on the mean, with 95 % intervals over seeds; "-" for what is
    not known without labels."""
    shifts = list(rows[0].shifts)
    short = {name: name.split("_")[0][:6] for name in shifts}
    header = ["error, %", "mean [95 % interval]", *(short[s] for s in shifts), "clean after"]
    lines = [header]
    for method in _methods(rows):
        errors = _values(rows, method, lambda r: mean_of(r, "error"))
        cells = [method, _percent(errors)]
        for shift in shifts:
            per = _values(rows, method, lambda r, s=shift: r.shifts[s]["error"])
            cells.append(_shown(100 * per.mean(), ".1f"))
        after = _values(rows, method, lambda r: r.clean_error).mean()
        lines.append([*cells, f"{100 * after:.1f}"])
    more = [["calibration", "nll", "brier", "ece", "selected", "largest class"]]
    for method in _methods(rows):
        cells = [
            _shown(_values(rows, method, lambda r, m=m: mean_of(r, m)).mean(), ".3f")
            for m in ("nll", "brier", "ece")
        ]
        used = _values(rows, method, lambda r: r.share_selected).mean()
        top = _values(rows, method, lambda r: mean_of(r, "largest_class")).mean()
        more.append([method, *cells, f"{used:.3f}", f"{top:.3f}"])
    parts = [lines, more]
    if rows[0].open_set:
        parts.append([["open set, %", *rows[0].open_set]])
        for method in _methods(rows):
            cells = [
                _percent(_values(rows, method, lambda r, m=m: r.open_set[m]))
                for m in rows[0].open_set
            ]
            parts[-1].append([method, *cells])
    if rows[0].worst_group is not None:
        parts.append([["worst group", "error, %"]])
        for method in _methods(rows):
            errors = _values(rows, method, lambda r: r.worst_group)
            parts[-1].append([method, _percent(errors)])
    head = ", ".join(f"{name} {value}" for name, value in about.items())
    return "\n\n".join([head, *map(report.grid, parts)])


def bar_chart(rows: Sequence[Row], about: Mapping[str, Any], path: Path) -> None:
    """Error of every method on every corruption; whiskers are 95 % intervals over seeds."""
    shifts, methods = list(rows[0].shifts), _methods(rows)
    labels = [*shifts, "mean"]
    with report.figure_style():
        figure = report.new_figure(max(6.4, 0.9 * len(labels)), 3.8)
        axes = figure.subplots()
        width = 0.8 / len(methods)
        for i, method in enumerate(methods):
            pick = [lambda r, s=s: r.shifts[s]["error"] for s in shifts]
            pick.append(lambda r: mean_of(r, "error"))
            values = np.stack([_values(rows, method, p) for p in pick])
            mean, low, high = (100 * part for part in proportions.over_trials(values))
            whiskers = None if np.isnan(low).any() else (mean - low, high - mean)
            place = np.arange(len(labels)) + (i - (len(methods) - 1) / 2) * width
            axes.bar(place, mean, width, yerr=whiskers, label=method, error_kw={"lw": 0.8})
        axes.set_xticks(range(len(labels)), [s.replace("_", "\n") for s in labels], fontsize=7)
        axes.set_ylabel("error, %")
        seeds = len({row.seed for row in rows})
        axes.set_title(f"{about['setting']}, {about['data']}, {seeds} seed{'s' * (seeds > 1)}")
        axes.legend(fontsize=7, ncols=4)
        report.save_figure(figure, path)
