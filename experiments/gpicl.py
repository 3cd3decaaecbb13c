"""General-purpose in-context learning: meta-train a sequence model on random tasks, then measure
how it learns inside its activations.

Accuracy along the sequence is measured on seen and unseen tasks, on the raw and on foreign data
sets, with shuffled labels and with an untrained model as controls. With --sweep, seeds, numbers of
tasks, biases and rates are trials of one program; `grid` in the config adds structural variants
(widths, models), one program each.
"""

import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
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
from jaxtrain.core import Core
from jaxtrain.host import arrays, cli, report, schedules, sweep, workdir
from jaxtrain.host.begin import fit, started
from jaxtrain.host.config import UsageError, plain, set_value, split_items
from jaxtrain.host.data import Generated
from jaxtrain.parallel import compile_update
from jaxtta import in_context as icl
from jaxtta.in_context import Learner

Results = dict[str, Any]


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
        found[entry] = changed
    if len(found) < len(config.grid):
        raise UsageError("grid lists an entry twice")
    return found


def learner_of(config: ConfigDict, sets: Sets) -> Learner:
    return build_learner(config, projection_of(config, sets).num_outputs, sets.base.num_classes)


def run(config: ConfigDict, context: cli.Context) -> Results:
    """Runs every entry of the grid, each in its own folder and resumable by itself."""
    sets = Sets(config)
    if jax.process_index() == 0:
        print(f"data: {sets.provenance}", flush=True)
    found: dict[str, Results] = {}
    for entry, changed in variants(config).items():
        folder = entry_folder(entry, changed, context) if entry else context.workdir
        found[entry] = run_one(changed, context._replace(workdir=folder), sets)
    results: Results = {"provenance": sets.provenance}
    results |= found if config.grid else found[""]
    if jax.process_index() == 0 and config.grid:
        trials = context.sweep.values if context.sweep is not None else {}
        figures.maps(found, trials, 1 / sets.base.num_classes, context.workdir / "plots")
    return results


def entry_folder(entry: str, config: ConfigDict, context: cli.Context) -> Path:
    """Makes the folder of a grid entry, itself a run folder; refuses one of other settings."""
    name = entry.replace("=", "-").replace(",", "-")
    folder = context.workdir / name
    trials = context.sweep.values if context.sweep is not None else {}
    about = workdir.About(
        "gpicl",
        name,
        plain(config),
        context.flags["sweep"],
        {key: values.tolist() for key, values in trials.items()},
    )
    workdir.check(folder, about, ("evaluation",), context.flags["allow_config_change"])
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        workdir.write_json(folder / "config.json", about._asdict())
        print(f"grid entry {entry} in {folder}", flush=True)
    return folder


def build(
    config: ConfigDict, context: cli.Context, sets: Sets, learner: Learner
) -> tuple[Core, Generated]:
    """Core and data of a single run or a sweep; the core draws its own sequences."""
    places = Generated(
        lambda key, index, data: (data, index), config.batch_size, arrays=(sets.training,)
    )
    if context.sweep is None:
        return build_core(config, sets, learner, axis_name=context.execution.axis_name), places
    return sweep.swept(
        lambda hyper: build_core(config, sets, learner, hyper), context.sweep
    ), places


def run_one(config: ConfigDict, context: cli.Context, sets: Sets) -> Results:
    """Meta-trains one program's worth of trials, meta-tests them, draws figures."""
    learner = learner_of(config, sets)
    core, data = build(config, context, sets, learner)
    key_init, key_run, key_final = jax.random.split(jax.random.key(config.seed), 3)
    tested_on = probes(config, sets, learner)
    test_one = meta_tester(config, sets, learner, tested_on)
    test_data = {name: probe.data for name, probe in tested_on.items()}
    axes, folder = context.sweep, context.workdir

    @jax.jit
    def curves_of(params: Any, key: jax.Array, data: Any) -> dict[str, icl.Curve]:
        if axes is None:
            return test_one(params, key, {}, data)
        values = jax.tree.map(jnp.asarray, axes.values)
        one = lambda trial: test_one(trial[0], key, trial[1], data)
        return jax.lax.map(one, (params, values))

    def short(state: Any, step: int, key: jax.Array) -> dict[str, Any]:
        return numbers(config, learner, jax.device_get(curves_of(state.params, key, test_data)))

    with started(lambda: core.init(key_init), config, context) as begun:
        show = ("loss", "accuracy_first", "accuracy_last", "learning_rate")
        state = fit(begun, core, data, key_run, show=show, evaluate=short)
    curves = jax.device_get(curves_of(state.params, key_final, test_data))
    results = numbers(config, learner, curves)
    if config.evaluation.untrained:
        initial = jax.jit(lambda: core.init(key_init).params)()
        before = jax.device_get(curves_of(initial, key_final, test_data))
        curves |= {f"{name}_untrained": before[name] for name in ("seen", "unseen")}
        new = numbers(config, learner, {k: v for k, v in curves.items() if "untrained" in k})
        results |= {name: value for name, value in new.items() if "untrained" in name}
    results["state_size"] = learner.state_size
    results["num_parameters"] = trees.size(jax.eval_shape(learner.init, key_init))
    if jax.process_index() == 0:
        results |= plateau(config, folder, learner.num_classes)
        results["regime"] = regimes(results, learner.num_classes)
        save_curves(curves, folder / "curves.npz")
        for name, value in results.items():
            print(f"{name:<32} {_show(value)}")
        chance = 1 / learner.num_classes
        figures.learning_curves(curves, chance, folder / "plots" / "in_context.png")
        if axes is not None and set(axes.names) - {"seed"}:
            for name in ("seen", "unseen"):
                file = folder / "plots" / f"in_context_by_trial_{name}.png"
                figures.by_setting(curves[name], axes.values, chance, file)
    return results


def numbers(config: ConfigDict, learner: Learner, curves: dict[str, icl.Curve]) -> Results:
    """Accuracy at both ends of each curve and the improvement between them, one per trial."""
    found = {}
    for name, curve in curves.items():
        first, last = icl.ends(curve.accuracy, config.evaluation.first, config.evaluation.last)
        found |= {f"{name}_first": first, f"{name}_last": last, f"{name}_improvement": last - first}
        found[f"{name}_loss"] = np.asarray(curve.loss).mean(-1)
    return found


def plateau(config: ConfigDict, folder: Path, num_classes: int) -> Results:
    """Steps until the training loss leaves ln C, and whether it did before the end."""
    curve = report.read_metrics(folder)["loss"]
    steps = [
        icl.plateau_length(curve.steps, losses, num_classes, smoothing=config.evaluation.smoothing)
        for losses in curve.values.T
    ]
    ended = [math.isfinite(step) for step in steps]
    bounded = np.array([min(step, config.num_steps) for step in steps])
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


def _show(value: Any) -> str:
    if isinstance(value, (str, int)):
        return f"{value}"
    if isinstance(value, list):
        return " ".join(value)
    values = np.atleast_1d(value)
    listed = " ".join(f"{v:.3f}" for v in values)
    return listed if len(values) == 1 else f"mean {values.mean():.3f} of {listed}"


def validate(config: ConfigDict) -> None:
    """Refuses impossible settings before anything is made.

    Raises:
      UsageError: names the setting.
    """
    tasks, options = config.tasks, config.evaluation
    if not 1 <= tasks.num_tasks <= icl.MAX_TASKS - 1:
        raise UsageError(f"tasks.num_tasks={tasks.num_tasks} must be between 1 and 2^31 - 1")
    for name in ("bias", "single_task"):
        if not 0 <= tasks[name] <= 1:
            raise UsageError(f"tasks.{name}={tasks[name]} must be a probability")
    if tasks.length < 2:
        raise UsageError(f"tasks.length={tasks.length} must be at least 2")
    for name in ("first", "last"):
        if not 1 <= options[name] <= tasks.length:
            raise UsageError(
                f"evaluation.{name}={options[name]} must be between 1 and the {tasks.length} "
                "positions of tasks.length"
            )
    if options.num_sequences % options.batch_size:
        raise UsageError(
            f"evaluation.num_sequences={options.num_sequences} must be a multiple of "
            f"evaluation.batch_size={options.batch_size}"
        )
    if config.optimizer.accumulate < 1 or config.optimizer.clip_norm < 0:
        raise UsageError("optimizer.accumulate must be at least 1 and clip_norm at least 0")
    if schedules.autolrs_config(config) is None:
        schedule_of(config)
    for changed in variants(config).values():
        if changed.batch_size % changed.tasks.sequences_per_task:
            raise UsageError(
                f"batch_size={changed.batch_size} must be a multiple of "
                f"tasks.sequences_per_task={changed.tasks.sequences_per_task}"
            )
        build_learner(changed, 4, 2)


def plan(config: ConfigDict, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    """Compiled training step and abstract arguments, for `python -m experiments.plan`."""
    sets = Sets(config)
    core = build_core(config, sets, learner_of(config, sets))
    key = jax.random.key(0)
    state = jax.eval_shape(core.init, key)
    index = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
    data = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), sets.training)
    update = lambda state, places, key, data: core.update(state, (data, places), key)
    return compile_update(update, mode="jit", mesh=mesh), (state, index, key, data)


main = functools.partial(
    cli.main, cli.unbound(run), sweepable=SWEEPABLE, validate=validate, may_change=("evaluation",)
)

if __name__ == "__main__":
    main()
