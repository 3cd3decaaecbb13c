"""General-purpose in-context learning: meta-train a sequence model on random tasks, then measure
how it learns inside its activations.

Accuracy along the sequence is measured on seen and unseen tasks, on the raw and on foreign data
sets, with shuffled labels and with an untrained model as controls. With --sweep, seeds, numbers of
tasks, biases and rates are trials of one program; `grid` in the config adds structural variants
(widths, models), one program each.
"""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from experiments.in_context import figures
from experiments.in_context.settings import (
    SWEEPABLE,
    Sets,
    build_core,
    build_learner,
    meta_tester,
    probes,
    projection_of,
    schedule_of,
)
from jaxtrain import trees
from jaxtrain.host import arrays, cli, experiment, files, report, schedules, workdir
from jaxtrain.host.config import UsageError, plain, set_value, split_items
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.host.settings import check, unrecorded
from jaxtta import in_context as icl
from jaxtta.in_context import Learner

Curves = dict[str, icl.Curve]
ENDS = ("first", "last", "improvement", "loss")  # the numbers of a curve


def variants(config: ConfigDict) -> dict[str, ConfigDict]:
    """The config of every entry of `grid`, by that entry; the config itself without a grid."""
    found = {}
    for entry in config.grid or ("",):
        changed = config.copy_and_resolve_references()
        with changed.unlocked():
            changed.grid = ()
        for item in split_items(entry):
            path, equals, text = item.partition("=")
            if not equals or path.split(".")[0] not in (
                "model",
                "tasks",
                "batch_size",
                "num_steps",
            ):
                raise UsageError(
                    f"grid entry {entry!r} must list settings of model, tasks, batch_size or "
                    "num_steps, such as model.transformer.width=32"
                )
            set_value(changed, path, text)
        check(changed)
        found[entry] = changed
    if len(found) < len(config.grid):
        raise UsageError("grid lists an entry twice")
    return found


def learner_of(config: ConfigDict, sets: Sets) -> Learner:
    """The learner of the config for these data sets."""
    return build_learner(config, projection_of(config, sets).num_outputs, sets.base.num_classes)


def build(config: ConfigDict, setup: cli.Setup) -> Training | cli.Work:
    """One training, or one for every entry of the grid."""
    sets = Sets(config)
    if not config.grid:
        return training_of(config, setup, sets)
    return grid_of(config, setup, sets)


# --- One training ---------------------------------------------------------------------------------


def training_of(config: ConfigDict, setup: cli.Setup, sets: Sets) -> Training:
    """Meta-trains one program's worth of trials, meta-tests them, draws figures."""
    learner = learner_of(config, sets)
    tested_on, axes = probes(config, sets, learner), setup.sweep
    test_one = meta_tester(config, sets, learner, tested_on)
    test_data = {name: probe.data for name, probe in tested_on.items()}
    options, num_steps = config.evaluation, config.num_steps
    numbers = functools.partial(both_ends, first=options.first, last=options.last)
    untrained, smoothing = options.untrained, options.smoothing

    @jax.jit
    def curves_of(params: Any, key: Array, data: Any) -> Curves:
        if axes is None:
            return test_one(params, key, {}, data)
        values = jax.tree.map(jax.numpy.asarray, axes.values)
        one = lambda trial: test_one(trial[0], key, trial[1], data)
        return jax.lax.map(one, (params, values))

    def watch(state: Any, step: int, key: Array) -> Results:
        return numbers(jax.device_get(curves_of(state.params, key, test_data)))

    def evaluate(run: Finished) -> Results:
        curves = jax.device_get(curves_of(run.state.params, run.key, test_data))
        results = numbers(curves)
        if untrained:
            initial = jax.jit(lambda: run.initial().params)()
            before = jax.device_get(curves_of(initial, run.key, test_data))
            control = {f"{name}_untrained": before[name] for name in ("seen", "unseen")}
            curves |= control
            results |= numbers(control)
        if jax.process_index() == 0:
            save_curves(curves, run.workdir / "curves.npz")
            draw(curves, run, 1 / learner.num_classes, options.num_sequences)
        results["state_size"] = learner.state_size
        shapes = jax.eval_shape(learner.init, jax.random.key(0))
        about = {"num_parameters": trees.size(shapes), "provenance": sets.provenance}
        return results | about

    def show(run: Finished, results: Results) -> Results:
        found = plateau(run.workdir, learner.num_classes, num_steps, smoothing)
        found["regime"] = regimes(results, learner.num_classes)
        experiment.show(results | found, digits=3)
        return found

    return Training(
        core=lambda config, axis_name: build_core(config, sets, learner, axis_name),
        arrays=(sets.training,),
        show=("loss", "accuracy_first", "accuracy_last", "learning_rate"),
        watch=watch,
        watched=tuple(f"{name}_{end}" for name in tested_on for end in ENDS),
        evaluate=evaluate,
        report=show,
    )


def both_ends(curves: Mapping[str, icl.Curve], *, first: int, last: int) -> Results:
    """Accuracy at both ends of each curve and the improvement between them, one per trial."""
    found = {}
    for name, curve in curves.items():
        start, end = icl.ends(curve.accuracy, first, last)
        loss = np.asarray(curve.loss).mean(-1)
        values = zip(ENDS, (start, end, end - start, loss), strict=True)
        found |= {f"{name}_{which}": value for which, value in values}
    return found


def plateau(folder: Path, num_classes: int, num_steps: int, smoothing: int) -> Results:
    """Steps until the training loss leaves ln C, and whether it did before the end."""
    curve = report.read_metrics(folder)["loss"]
    steps = [
        icl.plateau_length(curve.steps, losses, num_classes, smoothing=smoothing)
        for losses in curve.values.T
    ]
    ended = [math.isfinite(step) for step in steps]
    bounded = np.array([min(step, num_steps) for step in steps])
    found = {"plateau_steps": bounded, "plateau_ended": np.array(ended, float)}
    return found if len(steps) > 1 else {name: value[0] for name, value in found.items()}


def regimes(results: Results, num_classes: int) -> Any:
    """Regime of each trial."""
    columns = [results[f"{n}"] for n in ("seen_first", "seen_improvement", "unseen_improvement")]
    found = [
        icl.classify_run(*(float(value) for value in trial), 1 / num_classes)
        for trial in zip(*map(np.atleast_1d, columns), strict=True)
    ]
    return found if len(found) > 1 else found[0]


def save_curves(curves: dict[str, icl.Curve], file: Path) -> None:
    """Every curve as `<probe>/<field>`, `[trials, T]` in a sweep."""
    flat = {
        f"{name}/{field}": np.asarray(value)
        for name, curve in curves.items()
        for field, value in curve._asdict().items()
    }
    arrays.write(file, flat)


def draw(curves: Curves, run: Finished, chance: float, num_sequences: int) -> None:
    """Accuracy along the sequence, in a sweep also by trial; controls are in all of them."""
    plots, axes = run.workdir / "plots", run.sweep
    figures.learning_curves(curves, chance, plots / "in_context.png", num_sequences=num_sequences)
    if axes is not None and set(axes.names) - {"seed"}:
        for name in ("seen", "unseen"):
            file = plots / f"in_context_by_trial_{name}.png"
            beside = ("shuffled", f"{name}_untrained")
            controls = {name: curves[name] for name in beside if name in curves}
            figures.by_setting(curves[name], axes.values, chance, file, controls)


# --- A grid of them -------------------------------------------------------------------------------


def grid_of(config: ConfigDict, setup: cli.Setup, sets: Sets) -> cli.Work:
    """Every entry of the grid, each in its own folder and resumable by itself."""
    made = {}
    for entry, changed in variants(config).items():
        training = training_of(changed, setup, sets)
        made[entry] = experiment.prepared(training, changed, setup), plain(unrecorded(changed))

    def work(context: cli.Context) -> Results:
        if jax.process_index() == 0:
            print(f"data: {sets.provenance}", flush=True)
        found: dict[str, Results] = {}
        for entry, (run, settings) in made.items():
            folder = entry_folder(entry, settings, context)
            found[entry] = dict(run(context._replace(workdir=folder)) or {})
        if jax.process_index() == 0:
            trials = context.sweep.values if context.sweep is not None else {}
            figures.maps(found, trials, 1 / sets.base.num_classes, context.workdir / "plots")
        return {"provenance": sets.provenance, **found}

    return work


def entry_folder(entry: str, settings: dict[str, Any], context: cli.Context) -> Path:
    """Makes the folder of a grid entry, itself a run folder; refuses one of other settings."""
    name = entry.replace("=", "-").replace(",", "-")
    folder = context.workdir / name
    trials = context.sweep.values if context.sweep is not None else {}
    about = workdir.About(
        "gpicl",
        name,
        settings,
        context.flags["sweep"],
        {key: values.tolist() for key, values in trials.items()},
    )
    workdir.check(folder, about, ("evaluation",), context.flags["allow_config_change"])
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / "config.json", about._asdict())
        print(f"grid entry {entry} in {folder}", flush=True)
    return folder


# --- What goes together ---------------------------------------------------------------------------


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    options = config.evaluation
    for name in ("first", "last"):
        if options[name] > config.tasks.length:
            raise UsageError(
                f"evaluation.{name}={options[name]} must be between 1 and the "
                f"{config.tasks.length} positions of tasks.length"
            )
    if options.num_sequences % options.batch_size:
        raise UsageError(
            f"evaluation.num_sequences={options.num_sequences} must be a multiple of "
            f"evaluation.batch_size={options.batch_size}"
        )
    if left := config.num_steps % config.optimizer.accumulate:
        raise UsageError(
            f"num_steps={config.num_steps} is no multiple of optimizer.accumulate="
            f"{config.optimizer.accumulate}, so the last {left} batches would change nothing"
        )
    if schedules.autolrs_config(config) is None:
        schedule_of(config)
    for changed in variants(config).values():
        if changed.batch_size % changed.tasks.sequences_per_task:
            raise UsageError(
                f"batch_size={changed.batch_size} must be a multiple of "
                f"tasks.sequences_per_task={changed.tasks.sequences_per_task}"
            )
        build_learner(changed, 4, 2)


main = functools.partial(
    cli.main,
    build,
    sweepable=SWEEPABLE,
    validate=validate,
    flags=(experiment.MODE,),
    may_change=("evaluation",),
    evaluates=experiment.evaluates,
)

if __name__ == "__main__":
    main()
