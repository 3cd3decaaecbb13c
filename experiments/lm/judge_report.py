"""Numbers, tables and figures of judgements and of second attempts.

Values are `[seeds, problems, samples]`; intervals are bootstrapped over seeds and problems, which
all seeds share.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.host import report
from jaxtrain.host.bootstrap import resampled
from jaxtrain.host.experiment import Finished, Results
from jaxtrain.host.proportions import Interval
from jaxtta.self_evaluation.calibration import bins, brier, calibration_error, revision

Numbers = dict[str, Interval]
DRAWS = 300


def _weights(shape: tuple[int, ...]) -> np.ndarray:
    """How often each seed and problem is drawn, first all of them once, `[1 + DRAWS, N]`."""
    rng = np.random.default_rng(0)
    seeds, problems = (rng.multinomial(n, np.full(n, 1 / n), DRAWS) for n in shape[:2])
    weight = np.einsum("ds,dp->dsp", seeds, problems).astype(float)
    weight = np.concatenate([np.ones((1, *weight.shape[1:])), weight])
    return np.repeat(weight.reshape(len(weight), -1), shape[2], axis=1)


def _aurocs(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of all rows and of every draw, NaN where there is one kind only."""
    _, place = np.unique(confidence.reshape(-1), return_inverse=True)
    flat, found = right.reshape(-1), []
    for weight in _weights(confidence.shape):
        yes = np.bincount(place, weight * flat)
        no = np.bincount(place, weight * ~flat)
        with np.errstate(invalid="ignore"):
            found.append((yes * (np.cumsum(no) - no / 2)).sum() / (yes.sum() * no.sum()))
    return np.array(found)


def _interval(values: np.ndarray) -> Interval:
    if np.isnan(values[1:]).all():
        return Interval(float(values[0]), np.nan, np.nan)
    low, high = np.nanquantile(values[1:], (0.025, 0.975))
    return Interval(float(values[0]), float(low), float(high))


def difference(confidence: np.ndarray, other: np.ndarray, right: np.ndarray) -> Interval:
    """How much larger the AUROC of one confidence is than that of another on the same answers."""
    return _interval(_aurocs(confidence, right) - _aurocs(other, right))


def of_confidence(name: str, confidence: np.ndarray, right: np.ndarray) -> Numbers:
    """AUROC, calibration error, the Brier score and its parts, and what trust would gain.

    Calibration and the parts are those of one seed, averaged: errors of seeds do not cancel.

    Args:
      name: put in front of the names.
      confidence: `[seeds, problems, samples]`.
      right: the same shape, bool.
    """
    right = np.broadcast_to(right, confidence.shape)
    seeds = [(c.reshape(-1), r.reshape(-1)) for c, r in zip(confidence, right, strict=True)]
    tables = [bins(*seed) for seed in seeds]
    parts = [brier(*seed, table) for seed, table in zip(seeds, tables, strict=True)]
    mean = lambda values: Interval(float(np.mean(values)), np.nan, np.nan)
    trusted = confidence > 0.5
    return {
        f"{name}_auroc": _interval(_aurocs(confidence, right)),
        f"{name}_right": resampled(right.mean(-1)),
        f"{name}_right_if_trusted": resampled((right & trusted).sum(-1), trusted.sum(-1)),
        f"{name}_calibration_error": mean([calibration_error(table) for table in tables]),
        f"{name}_brier": resampled(((confidence - right) ** 2).mean(-1)),
        **{
            f"{name}_brier_{part}": mean([getattr(one, part) for one in parts])
            for part in ("reliability", "resolution", "uncertainty")
        },
    }


def of_revision(name: str, first: np.ndarray, second: np.ndarray) -> Numbers:
    """What second attempts do to first ones, `[seeds, problems, samples]`, bool.

    Raises:
      ArithmeticError: Acc2 is not Acc1 CL + (1 - Acc1) CS, which it always is.
    """
    whole = revision(first, second)
    composed = np.nansum([whole.first * whole.confidence, (1 - whole.first) * whole.critique])
    if abs(composed - second.mean()) > 1e-12:
        raise ArithmeticError(f"Acc2 is {second.mean()}, but its parts give {composed}")
    samples, kept = first.shape[-1], (first & second).sum(-1)
    was, fixed = first.sum(-1), (~first & second).sum(-1)
    weight = _weights((*first.shape[:2], 1))
    acc1, acc2 = ((weight @ x.mean(-1).reshape(-1)) / weight.sum(1) for x in (first, second))
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = (acc2 - acc1**2) / (2 * acc1 * (1 - acc1))
    return {
        f"{name}_first": resampled(first.mean(-1)),
        f"{name}_second": resampled(second.mean(-1)),
        f"{name}_confidence": resampled(kept, was),
        f"{name}_critique": resampled(fixed, samples - was),
        f"{name}_right_to_wrong": resampled((was - kept) / samples),
        f"{name}_wrong_to_right": resampled(fixed / samples),
        f"{name}_relative": _interval(np.where(np.isfinite(relative), relative, np.nan)),
    }


def shown(found: Mapping[str, Any], digits: int = 3) -> str:
    """`0.123 [0.120, 0.126]`."""
    value, low, high = (f"{found[name]:.{digits}f}" for name in ("value", "low", "high"))
    return value if low == "nan" else f"{value} [{low}, {high}]"


def show(run: Finished, results: Results) -> None:
    """Prints a column for every setting."""
    settings = [name for name, numbers in results.items() if isinstance(numbers, dict)]
    names = list(dict.fromkeys(name for s in settings for name in results[s]))
    cell = lambda s, name: shown(results[s][name]) if name in results[s] else ""
    rows = [[name, *(cell(s, name) for s in settings)] for name in names]
    print(report.grid([["", *settings], *rows]))


def _ends(values: Sequence[Interval]) -> list[list[float]]:
    """Lengths of error bars in percent, none where they are not known."""
    low = [100 * max(x.value - x.low, 0) if np.isfinite(x.low) else 0.0 for x in values]
    high = [100 * max(x.high - x.value, 0) if np.isfinite(x.high) else 0.0 for x in values]
    return [low, high]


def draw_reliability(
    tables: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]], path: Path, name: str
) -> None:
    """How often answers are right by how right they are called, a panel per domain.

    Args:
      tables: (setting, domain) -> confidence and correctness.
      path: of the figure.
      name: of the confidence.
    """
    domains = list(dict.fromkeys(domain for _, domain in tables))
    settings = list(dict.fromkeys(setting for setting, _ in tables))
    with report.figure_style():
        figure = report.new_figure(4.8 * len(domains), 4.2)
        panels = figure.subplots(1, len(domains), squeeze=False)[0]
        for panel, domain in zip(panels, domains, strict=True):
            panel.plot([0, 100], [0, 100], color="#999999", linewidth=1, linestyle=":")
            for color, setting in zip(report.COLORS, settings, strict=False):
                confidence, right = (x.reshape(-1) for x in tables[setting, domain])
                table = bins(confidence, right)
                full = table.share > 0
                panel.scatter(
                    100 * table.confidence[full],
                    100 * table.label[full],
                    s=20 + 300 * table.share[full],
                    color=color,
                    alpha=0.6,
                )
                panel.plot(
                    100 * table.confidence[full],
                    100 * table.label[full],
                    color=color,
                    label=setting,
                )
            panel.set(xlabel=f"{name} (%)", title=domain, xlim=(0, 100), ylim=(0, 100))
        panels[0].set_ylabel("right (%)")
        panels[-1].legend()
        figure.tight_layout()
        report.save_figure(figure, path)


def draw_hints(found: Mapping[str, Numbers], number: int, path: Path) -> None:
    """P(IK) and the share of right answers by how many right or wrong lines are told."""
    with report.figure_style():
        figure = report.new_figure(4.8 * len(found), 4.2)
        panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
        for panel, (setting, numbers) in zip(panels, found.items(), strict=True):
            for color, kind in zip(report.COLORS, ("right", "wrong"), strict=False):
                for what, style in (("known", "-"), ("right", ":")):
                    lines = range(0 if kind == "right" else 1, number + 1)
                    values = [numbers[f"{what}_after_{n}_{kind}_lines"] for n in lines]
                    heights = [100 * x.value for x in values]
                    label = f"{'P(IK)' if what == 'known' else 'right'}, {kind} lines"
                    panel.errorbar(
                        list(lines),
                        heights,
                        yerr=_ends(values),
                        color=color,
                        linestyle=style,
                        marker="o",
                        capsize=3,
                        label=label,
                    )
            panel.set(xlabel="lines told", title=setting, ylim=(0, 100))
            panel.set_xticks(range(number + 1))
        panels[0].set_ylabel("%")
        panels[0].legend()
        figure.tight_layout()
        report.save_figure(figure, path)


def draw_plane(found: Mapping[str, Numbers], requests: Sequence[str], path: Path) -> None:
    """Right answers kept against wrong ones put right, a colour per setting."""
    markers = dict(zip(requests, "osD^v", strict=False))
    with report.figure_style():
        figure = report.new_figure(6.4, 5.2)
        plane = figure.subplots()
        for color, (setting, numbers) in zip(report.COLORS, found.items(), strict=False):
            for name in requests:
                kept, fixed = numbers[f"{name}_confidence"], numbers[f"{name}_critique"]
                plane.errorbar(
                    100 * kept.value,
                    100 * fixed.value,
                    xerr=_ends([kept]),
                    yerr=_ends([fixed]),
                    marker=markers[name],
                    capsize=3,
                    linestyle="",
                    color=color,
                    label=f"{setting}, {name}",
                )
        plane.plot([100], [0], marker="x", color="#444444", linestyle="", label="copied")
        plane.set(xlabel="right answers kept, CL (%)", ylabel="wrong answers put right, CS (%)")
        plane.legend(fontsize=7)
        figure.tight_layout()
        report.save_figure(figure, path)
