"""The claims of the Latent Program Network paper on small pattern tasks, three seeds each.

Trains whichever runs are missing, then prints one table per claim and draws one figure of all of
them. A run that was interrupted goes on where it stopped.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import lpn_arc, lpn_patterns
from jaxtrain.host import cli, metrics, proportions, report
from jaxtrain.host.arrays import one_sentence
from jaxtrain.host.files import write_text
from jaxtrain.host.settings import between

VARIANTS = (
    "small",
    "small_ga_1",
    "small_ga_1_full_gradient",
    "small_ood",
    "small_ood_in_context",
    "small_in_context",
    "map",
    "small_views",
)
# Views of a task and search steps in each. Each view scores its demonstrations once more than it
# takes steps, and paints two latents and those on the way (`lpn.distinct_output`): 192, 184 and 192
# decoder calls for a task of three demonstrations and one test input.
VIEWS = {"one view, 60 steps": (1, 60), "4 views, 12 steps": (4, 12), "8 views, 5 steps": (8, 5)}


class Finished(NamedTuple):
    """One finished sweep over seeds.

    Attributes:
      final: name -> values of the seeds at the end of training.
      curves: metric -> `report.Curve` over training steps.
      rate: updates per second.
    """

    final: dict[str, np.ndarray]
    curves: dict[str, report.Curve]
    rate: float


def train(variant: str, folder: Path, seeds: int) -> Finished:
    """Trains and evaluates a variant of `configs/lpn_patterns.py`, or reads what is there.

    Args:
      variant: name; `small_views` is one of `configs/lpn_arc.py`.
      folder: work folder of the run.
      seeds: number of seeds, trained in one program; one run for `map`, which is a figure.
    """
    if variant == "small_views":
        return in_views(folder, seeds)
    if not (folder / "summary.json").is_file():
        lpn_patterns.main(
            argv=[
                f"--config=configs/lpn_patterns.py:{variant}",
                f"--workdir={folder}",
                *([] if variant == "map" else [f"--sweep=seed=0:{seeds}"]),
            ]
        )
    with one_sentence(folder, "folder of a finished run"):
        final = numbers(folder / "summary.json", 1 if variant == "map" else seeds)
        if not (folder / "timing.jsonl").is_file():
            raise ValueError("it has no timing.jsonl")
        rates = [line["steps_per_second"] for line in metrics.read(folder / "timing.jsonl")]
        return Finished(final, report.read_metrics(folder), float(np.median(rates)))


def numbers(file: Path, seeds: int) -> dict[str, np.ndarray]:
    """The final numbers of a run, by name, one per seed.

    Args:
      file: its summary.
      seeds: how many there must be.

    Raises:
      UsageError: the run has another number of seeds.
    """
    found = {
        name: np.asarray(value["trials"] if isinstance(value, dict) else [value], float)
        for name, value in json.loads(file.read_text(encoding="utf-8"))["final"].items()
    }
    if others := {len(x) for x in found.values()} - {seeds}:
        raise cli.UsageError(
            f"--seeds={seeds}, but {file.parent} has a run of {min(others)}; remove that folder, "
            "or use another --workdir"
        )
    return found


def in_views(folder: Path, seeds: int) -> Finished:
    """Trains on three augmented generators and solves held-out samples of them in one view and in
    several, at equal numbers of decoder calls, or reads what is there."""
    if not (folder / "summary.json").is_file():
        begin = ["--config=configs/lpn_arc.py:small_views", f"--sweep=seed=0:{seeds}"]
        lpn_arc.main(argv=[*begin, f"--workdir={folder}", "--mode=train"])
    final = {}
    for label, (number, steps) in VIEWS.items():
        kept = folder / "evaluation" / f"summary-views-{number}.json"
        if not kept.is_file():
            settings = dict(augmentations=number) | {"search.num_steps": steps}
            changes = [f"--config.evaluation.{key}={value}" for key, value in settings.items()]
            lpn_arc.main(argv=[f"--workdir={folder}", "--mode=evaluate", *changes])
            (folder / "evaluation" / "summary-evaluate.json").replace(kept)
        with one_sentence(kept, "summary of an evaluation"):
            found = numbers(kept, seeds)
            for top in ("top_1", "top_2"):
                trials = found[f"rearc/gradient_ascent/per_output/accuracy/{top}"]
                final[f"{label}_{top}_accuracy"] = trials
    return Finished(final, {}, float("nan"))


def _rows(title: str, runs: dict[str, Finished], names: dict[str, tuple[str, str]]) -> str:
    """A table: label -> (run, metric), in percent with intervals; of what was run and measured."""
    rows = [[title, "exact match in % [95 % interval]", "seeds"]]
    for label, (run, name) in names.items():
        later = "at_rate_0" in name or "_demos_" in name  # not in runs of before these rows
        if run not in runs or (later and f"{name}_accuracy" not in runs[run].final):
            continue
        shares = runs[run].final[f"{name}_accuracy"]
        seeds = " ".join(f"{100 * share:.1f}" for share in shares)
        rows.append([label, proportions.percent(proportions.over_trials(shares)), seeds])
    return report.grid(rows)


def _steps(name: str, final: dict[str, np.ndarray], suffix: str = "") -> tuple[list[int], Any]:
    """Accuracy of a search against its steps: steps `[S]`, shares `[S, seeds]`."""
    steps, values = [0], [final[f"mean{suffix}_accuracy"]]
    for n in (1, 5, 20, 100):
        if (key := f"{name}_{n}{suffix}_accuracy") in final:
            steps.append(n)
            values.append(final[key])
    return steps, np.stack(values)


def tables(runs: dict[str, Finished]) -> str:
    """All numbers, as text."""
    small, ascent = "small", "small_ga_1"
    blocks = []
    blocks.append(
        _rows(
            "E1 search improves an under-trained model",
            runs,
            {"mean latent": (small, "mean")}
            | {f"{n} ascent steps": (small, f"ascent_{n}") for n in (1, 5, 20, 100)}
            | {"control: 20 steps at rate 0": (small, "ascent_at_rate_0_20")}
            | {"control: shuffled demonstrations, 20 steps": (small, "ascent_20_shuffled")},
        )
    )
    modes = {
        "trained with the mean latent": small,
        "trained with one step": ascent,
        "trained with one step, full gradient": "small_ga_1_full_gradient",
    }
    blocks.append(
        _rows(
            "E2, E3 training with one ascent step",
            runs,
            {
                f"{label}: {'mean latent' if name == 'mean' else name.replace('_', ' ')}": (
                    run,
                    name,
                )
                for label, run in modes.items()
                for name in (
                    "mean",
                    "ascent_at_rate_0_20",
                    "ascent_1",
                    "ascent_5",
                    "ascent_20",
                    "ascent_100",
                )
            },
        )
    )
    rates = {label: runs[run].rate for label, run in modes.items() if run in runs}
    if small in runs and len(rates) > 1:
        first, *others = rates.items()
        costs = [f"{label}: {first[1] / rate:.2f}" for label, rate in others]
        blocks.append(f"cost of an update relative to one {first[0]}: {'; '.join(costs)}")
    names = {
        "mean latent": "mean",
        "20 steps at rate 0": "ascent_at_rate_0_20",
        "25 samples": "random_25",
        "250 samples": "random_250",
        "local search, 20 steps": "local_search_20",
        "gradient ascent, 20 steps": "ascent_20",
        "N(0, I), no search": "mean_no_encoder",
        "N(0, I), local search, 20 steps": "local_search_20_no_encoder",
        "N(0, I), gradient ascent, 20 steps": "ascent_20_no_encoder",
    }
    searches = {label: (small, name) for label, name in names.items()}
    blocks.append(_rows("E4, E5 searches", runs, searches))
    ood = {}
    for density, suffix in ((0.5, ""), (0.75, "_density_0.75"), (1.0, "_density_1")):
        for label, run, name in _BASELINES["ood"]:
            ood[f"density {density}: {label}"] = (run, f"{name}{suffix}")
    blocks.append(_rows("E6 out of distribution (trained at density 0.5)", runs, ood))
    demos = {
        f"{n} demonstrations: {label}": (run, f"{name}_demos_{n}")
        for n in _DEMONSTRATIONS
        for label, run, name in _BASELINES["demos"]
    }
    blocks.append(_rows("E7 specification size (trained with 3)", runs, demos))
    views = {
        f"{label}, {attempts}": ("small_views", f"{label}_{top}")
        for label in VIEWS
        for attempts, top in (("first attempt", "top_1"), ("two attempts", "top_2"))
    }
    blocks.append(_rows("E8 views that vote, Re-ARC samples, equal decoder calls", runs, views))
    return "\n\n".join(blocks)


_DEMONSTRATIONS = (1, 3, 5, 8)
_BASELINES = {
    "ood": (
        ("LPN mean latent", "small_ood", "mean"),
        ("LPN 100 steps at rate 0", "small_ood", "ascent_at_rate_0_100"),
        ("LPN 20 steps", "small_ood", "ascent_20"),
        ("LPN 100 steps", "small_ood", "ascent_100"),
        ("in context", "small_ood_in_context", "in_context"),
        ("test-time training, 10 steps", "small_ood_in_context", "ttt_10"),
    ),
    "demos": (
        ("LPN mean latent", "small", "mean"),
        ("LPN 20 steps at rate 0", "small", "ascent_at_rate_0_20"),
        ("LPN 20 steps", "small", "ascent_20"),
        ("in context", "small_in_context", "in_context"),
        ("test-time training, 10 steps", "small_in_context", "ttt_10"),
    ),
}


def figure(runs: dict[str, Finished], path: Path) -> None:
    """One panel per claim."""
    with report.figure_style():
        import matplotlib.pyplot as plt

        whole, panels = plt.subplots(2, 3, figsize=(13, 7), sharey=True)
        small = runs["small"]
        there = lambda table: [row for row in table if row[1] in runs]

        axes = panels[0, 0]
        for label, suffix in (
            ("encoder start", ""),
            ("start from N(0, I)", "_no_encoder"),
            ("shuffled demonstrations", "_shuffled"),
        ):
            report.draw_percent(axes, *_steps("ascent", small.final, suffix), label)
        axes.set_title("E1, E5: search improves the mean latent")

        axes = panels[0, 1]
        for name in ("mean", "ascent_20"):
            curve = small.curves[f"eval/{name}_accuracy"]
            label = "mean latent" if name == "mean" else name.replace("_", " ")
            report.draw_percent(axes, curve.steps, curve.values, label)
        axes.set_title("E1: along training")
        axes.set_xlabel("training steps")

        axes = panels[0, 2]
        modes = (
            ("mean latent", "small"),
            ("one ascent step", "small_ga_1"),
            ("one step, full gradient", "small_ga_1_full_gradient"),
        )
        for label, run in there(modes):
            report.draw_percent(axes, *_steps("ascent", runs[run].final), label)
        axes.set_title("E2, E3: training mode")

        axes = panels[1, 0]
        for label, name, suffix in (
            ("gradient ascent", "ascent", ""),
            ("local search", "local_search", ""),
            ("gradient ascent from N(0, I)", "ascent", "_no_encoder"),
            ("local search from N(0, I)", "local_search", "_no_encoder"),
        ):
            report.draw_percent(axes, *_steps(name, small.final, suffix), label)
        for samples, style in ((25, ":"), (250, "--")):
            value = 100 * small.final[f"random_{samples}_accuracy"].mean()
            axes.axhline(value, color="#888888", linestyle=style, label=f"{samples} samples")
        axes.set_title("E4, E5: searches")

        for axes in (panels[0, 0], panels[0, 2], panels[1, 0]):
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xticks([0, 1, 5, 20, 100], labels=["0", "1", "5", "20", "100"])
            axes.set_xlim(-0.15, 120)
            axes.set_xlabel("search steps")

        axes = panels[1, 1]
        suffixes = ("", "_density_0.75", "_density_1")
        for label, run, name in there(_BASELINES["ood"]):
            found = [runs[run].final.get(f"{name}{suffix}_accuracy") for suffix in suffixes]
            if any(value is None for value in found):
                continue
            values = [value for value in found if value is not None]
            report.draw_percent(axes, [0.5, 0.75, 1.0], np.stack(values), label)
        axes.set_xticks([0.5, 0.75, 1.0])
        axes.set_xlabel("pattern density in the test (training: 0.5)")
        axes.set_title("E6: out of distribution")

        axes = panels[1, 2]
        for label, run, name in there(_BASELINES["demos"]):
            found = {n: runs[run].final.get(f"{name}_demos_{n}_accuracy") for n in _DEMONSTRATIONS}
            values = {n: value for n, value in found.items() if value is not None}
            report.draw_percent(axes, list(values), np.stack(list(values.values())), label)
        axes.set_xticks(_DEMONSTRATIONS)
        axes.set_xlabel("demonstrations in the test (training: 3)")
        axes.set_title("E7: specification size")

        for axes in panels.ravel():
            axes.set_ylim(-2, 102)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=7)
        for axes in panels[:, 0]:
            axes.set_ylabel("exact match (%)")
        whole.tight_layout()
        report.save_figure(whole, path)


def run(command: cli.Command) -> None:
    """Trains what is missing, prints, draws."""
    if not command.flags["workdir"]:
        raise cli.UsageError("--workdir names no folder")
    folder, seeds = Path(command.flags["workdir"]), command.flags["seeds"]
    chosen = list(filter(None, command.flags["variants"].split(","))) or list(VARIANTS)
    for name in chosen:
        if name not in VARIANTS:
            raise cli.UsageError(f"--variants: {name!r} is unknown; they are {', '.join(VARIANTS)}")
    if "small" not in chosen:
        raise cli.UsageError("--variants must contain small, with which the others are compared")
    runs = {name: train(name, folder / name, seeds) for name in chosen}
    text = tables(runs)
    print(text)
    write_text(folder / "claims.txt", text + "\n")
    figure(runs, folder / "claims.png")
    print(f"\nfigure: {folder / 'claims.png'}; latent maps: {folder / 'map' / 'plots'}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; `arguments` as on the command line."""
    cli.tool(
        run,
        flags=(
            cli.define_string("workdir", "runs/lpn_claims", "where the runs go"),
            cli.define_number("seeds", between(2, 1_000, 3), "seeds per run"),
            cli.define_string("variants", "", "comma-separated runs, all when empty"),
        ),
        argv=arguments,
    )


if __name__ == "__main__":
    main()
