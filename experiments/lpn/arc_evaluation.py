"""Evaluation of a Latent Program Network on ARC-AGI: solve, score, draw, submit.

`evaluation` binds what is compared to its settings. Every set of tasks gives a table under the
three scoring rules in use, a JSON line per task, a submission file and figures.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.data.arc import buckets, scoring
from experiments.data.arc.parsing import Task
from experiments.data.arc.tasks import Fault
from experiments.lpn import arc_solving, figures, task_sets, training_sets
from experiments.lpn.arc_solving import Solver
from experiments.lpn.evaluation import latent_report
from experiments.lpn.gains import gain_table, gains_over
from experiments.lpn.searches import AGGREGATES, ATTEMPTS, CELLS, LATENTS, build_method
from jaxtrain.host.config import UsageError
from jaxtrain.host.experiment import Finished, Results
from jaxtrain.host.files import write_json, write_text
from jaxtrain.host.proportions import Interval
from jaxtrain.host.sweep import Axes, folders, trials
from jaxtta.lpn import LPN, Method, in_views


class Evaluation(NamedTuple):
    """What is compared on which tasks.

    Attributes:
      lpn: the model.
      sets: task sets by name, read when called.
      solvers: what to compare, by name: searches, or the baseline with and without test-time
        training.
      grouping: how tasks are batched, for `buckets.group`.
      curve: gradient ascent whose accuracy is followed over its steps; None for none.
      curve_steps: numbers of steps of it.
      shuffled: whether every solver also gets the demonstrations of other tasks, as a control.
      num_drawn: tasks drawn.
      trained_on: reads the ARC tasks that are trained on, or whose generators are.
    """

    lpn: LPN
    sets: dict[str, Callable[[], task_sets.TaskSet]]
    solvers: dict[str, Solver]
    grouping: dict[str, Any]
    curve: Method | None
    curve_steps: tuple[int, ...]
    shuffled: bool
    num_drawn: int
    trained_on: Callable[[], list[Task]] = lambda: []


def evaluation(config: ConfigDict, lpn: LPN) -> Evaluation:
    """The evaluation that `config.evaluation` describes."""
    options = config.evaluation
    steps = () if config.train.mode == "in_context" else tuple(options.curve_steps)
    return Evaluation(
        lpn=lpn,
        sets=task_sets.task_sets(config),
        solvers=solvers(config, lpn),
        grouping=grouping(config),
        curve=ascent(config, max(steps)) if steps else None,
        curve_steps=steps,
        shuffled=options.shuffled,
        num_drawn=options.figures,
        trained_on=training_sets.trained_on(config),
    )


def grouping(config: ConfigDict) -> dict[str, Any]:
    """How tasks are batched for a search, for `buckets.group`."""
    return task_sets.sizes(config) | {"group_size": config.evaluation.group_size}


def solvers(config: ConfigDict, lpn: LPN) -> dict[str, Solver]:
    """What to compare, by name; each in as many views of a task as asked."""
    options, found = config.evaluation, solvers_of_one_view(config, lpn)
    if options.augmentations < 2:
        return found
    kinds = {kind: kind in options.augment_by for kind in ("rotate", "transpose", "colors")}
    number = options.augmentations
    try:
        return {name: in_views(solver, number, **kinds) for name, solver in found.items()}
    except ValueError as error:
        raise UsageError(f"evaluation.augmentations, evaluation.augment_by: {error}") from error


def solvers_of_one_view(config: ConfigDict, lpn: LPN) -> dict[str, Solver]:
    """What to compare, by name, on tasks as they are."""
    options = config.evaluation
    if config.train.mode == "in_context":
        rate = options.ttt_learning_rate
        return {
            f"ttt_{n}" if n else "in_context": arc_solving.in_context(lpn, n, rate)
            for n in (0, *options.ttt_steps)
        }
    found = {}
    for name in options.methods:
        changes = scores_of(config) | dict(scan_pairs=options.scan_pairs)
        if name not in ("mean", "first"):
            patience = options.patience if options.early_exit else 0
            changes |= dict(
                aggregate=AGGREGATES[options.aggregate],
                early_exit=options.early_exit,
                patience=patience or None,
                attempts=ATTEMPTS[options.attempts],
                num_candidates=options.num_candidates,
            )
        method = build_method(options.search, name, **changes)
        found[name] = arc_solving.searching(lpn, method)
    return found


def scores_of(config: ConfigDict) -> dict[str, Any]:
    """Where latents come from and how they are scored, for `build_method`."""
    options = config.evaluation
    return dict(latents=LATENTS[options.latent_source], cells=CELLS[options.score])


def ascent(config: ConfigDict, num_steps: int) -> Method:
    """Gradient ascent of some steps, to follow its accuracy."""
    search = config.evaluation.search
    return build_method(search, "gradient_ascent", num_steps=num_steps, **scores_of(config))


# --- One run --------------------------------------------------------------------------------------


def evaluate_trials(what: Evaluation, run: Finished) -> Results:
    """The evaluation of every trial of a run, each in its own folder if there are several."""
    where = folders(run.workdir, run.sweep)
    every = trials(run.state.params, run.sweep)
    results = [
        evaluate(what, params, run.key, folder, run.mesh)
        for folder, params in zip(where, every, strict=True)
    ]
    if run.sweep is None:
        return dict(results[0])
    return {name: np.array([result[name] for result in results]) for name in results[0]}


def evaluate(
    what: Evaluation, params: Any, key: Array, folder: Path, mesh: Mesh
) -> dict[str, float]:
    """Solves every set with every method; writes tables, figures and submissions into `folder`."""
    if is_leader():
        for name in ("evaluation", "plots"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    results: dict[str, float] = {}
    names = labels(tuple(what.sets))
    for name, read in what.sets.items():
        tasks, faults = read()
        for fault in faults if is_leader() else ():
            print(f"left out: {fault.message}")
        if not tasks:
            raise UsageError(f"evaluation.sets: no task of {name} can be used")
        one = Subject(what, name, names[name], tasks, faults, folder, mesh)
        describe_latents(one, params)
        results |= compare(one, params, key)
        follow_ascent(one, params, key)
    return results


def is_leader() -> bool:
    """Whether this process prints and writes."""
    return jax.process_index() == 0


class Subject(NamedTuple):
    """One set under evaluation, and where its results go; `label` is its name in those of files."""

    what: Evaluation
    name: str
    label: str
    tasks: list[Task]
    faults: list[Fault]
    folder: Path
    mesh: Mesh

    @property
    def scorable(self) -> list[Task]:
        """Tasks whose answers are known."""
        return [t for t in self.tasks if all(output is not None for _, output in t.test)]

    @property
    def unsolved(self) -> list[Fault]:
        """Tasks that were left out although their answers are known: they count as unsolved."""
        return [fault for fault in self.faults if fault.has_answers]


def labels(names: Sequence[str]) -> dict[str, str]:
    """A name for the files of each set: the last part of its own, and as many parts before it as
    tell it from the others."""
    parts = {name: Path(name.replace(":", "-")).parts for name in names}
    longest = max(map(len, parts.values()))
    found: dict[str, str] = {}
    for depth in range(1, longest + 1):
        shown = {name: "-".join(parts[name][-depth:]).replace("/", "") for name in names}
        once = [name for name in names if list(shown.values()).count(shown[name]) == 1]
        found = {name: shown[name] for name in once} | found
    rest = [name for name in names if name not in found]
    return found | {name: f"{shown[name]}-{i}" for i, name in enumerate(rest, 1)}


def describe_latents(one: Subject, params: Any) -> None:
    """Writes how the encoder uses the latent dimensions on the smallest grids of the set."""
    what = one.what
    if not what.lpn.config.variational:
        return
    few = buckets.group(one.tasks, **what.grouping)[0].demos
    report = latent_report(what.lpn, params, few)  # by every process
    if is_leader():
        print(f"{one.name}: {report.pop('text')}")
        write_json(one.folder / f"evaluation/{one.label}-latents.json", report)


def compare(one: Subject, params: Any, key: Array) -> dict[str, float]:
    """Every solver on the set, with its control; `<set>/<solver>/<rule>` -> score."""
    what, known = one.what, one.scorable
    control = exchanged(one.tasks) if what.shuffled else None
    if what.shuffled and control is None and is_leader():
        print(f"{one.name}: all tasks are of one generator, so there is nothing to shuffle")
    scored: dict[str, dict[str, Interval]] = {}
    right: dict[str, np.ndarray] = {}
    once = {}
    for solver_name, solver in what.solvers.items():
        runs = {solver_name: one.tasks} | ({f"{solver_name}_shuffled": control} if control else {})
        for run_name, shown in runs.items():
            solved = arc_solving.solve_set(solver, params, key, shown, one.mesh, **what.grouping)
            if is_leader():
                print(
                    f"{one.name} {run_name}: {len(one.tasks)} tasks, {solved.programs} programs "
                    f"compiled, {solved.exact.mean():.0%} with all demonstrations reproduced, "
                    f"{solved.steps_used.mean():.1f} steps on average, {solved.seconds:.0f} s",
                    flush=True,
                )
                if shown is one.tasks:
                    once[run_name] = scoring.with_one_attempt(solved.predictions)
                    write_solved(one, run_name, solved)
            if known:
                scored[run_name] = scoring.score(known, solved.predictions, one.unsolved)
                right[run_name] = scoring.solved(known, solved.predictions)
    gains = gains_over(next(iter(what.solvers)), right)
    if scored and is_leader():
        write_tables(one, scored, gains, once)
    results = {
        f"{one.label}/{run_name}/{metric}": score.value
        for run_name, scores in scored.items()
        for metric, score in scores.items()
    }
    for run_name, found in gains.items():
        for top, one_gain in zip(scoring.TOPS, found, strict=True):
            results[f"{one.label}/{run_name}/gain/{top}"] = one_gain.value
    return results


def write_tables(
    one: Subject,
    scored: dict[str, dict[str, Interval]],
    gains: dict[str, list[Interval]],
    once: dict[str, int],
) -> None:
    """Prints the scores of a set, the gains, and for how many test inputs there was no second
    attempt, and writes them to a file."""
    text = arc_solving.score_table(scored)
    if gains:
        text += f"\n\n{gain_table(gains, next(iter(one.what.solvers)))}"
    number = sum(len(task.test) for task in one.tasks)
    shares = ", ".join(f"{name} {found} of {number}" for name, found in once.items())
    text += f"\nno different grid for a second attempt: {shares}\n{counted(one)}"
    print(f"\n{one.name}: accuracy in % with 95 % intervals over tasks (Wilson's)\n{text}\n")
    write_text(one.folder / "evaluation" / f"{one.label}-table.txt", text + "\n")


def counted(one: Subject) -> str:
    """What the scores of a set are over, and which of its tasks training has seen."""
    tests = sum(len(task.test) for task in one.scorable)
    left_out = sum(fault.num_tests for fault in one.unsolved)
    number = len(one.scorable) + len(one.unsolved)
    lines = [f"counted: {number} tasks with {tests + left_out} test outputs"]
    if one.unsolved:
        lines[0] += f", of which {len(one.unsolved)} with {left_out} were left out and are unsolved"
    if unknown := len(one.tasks) + len(one.faults) - number:
        lines.append(f"not counted: {unknown} tasks without known answers")
    if one.name != task_sets.HELD_OUT:
        seen = task_sets.already_seen(one.scorable, one.what.trained_on())
        some = [f"{a} = {b}" if a != b else a for a, b in seen.items()]
        more = ", ..." * (len(some) > 8)
        if some:
            lines.append(
                f"warning: {len(some)} of these tasks have the pairs of tasks whose generators are "
                f"trained on: {', '.join(some[:8])}{more}"
            )
    return "\n".join(lines)


def follow_ascent(one: Subject, params: Any, key: Array) -> None:
    """Accuracy against steps and FLOPs of gradient ascent, as numbers and as a figure."""
    what, known = one.what, one.scorable
    if what.curve is None or not known:
        return
    measure = arc_solving.accuracy_curve(what.lpn, what.curve, what.curve_steps, one.mesh)
    curve = measure(params, key, known, **what.grouping)
    if is_leader():
        rows = [
            {"steps": n, "flops": flops, "accuracy": float(row.mean())}
            for n, flops, row in zip(curve.steps, curve.flops, curve.accuracy, strict=True)
        ]
        write_json(one.folder / "evaluation" / f"{one.label}-curve.json", rows)
        figures.accuracy_against_compute(curve, one.folder / f"plots/{one.label}-curve.png")


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


def write_solved(one: Subject, run_name: str, solved: arc_solving.Solved) -> None:
    """What one method made of one set: a JSON line per task, submission, figures."""
    tasks, faults, folder, label = one.tasks, one.faults, one.folder, f"{one.label}-{run_name}"
    arc_solving.write_tasks(folder / f"evaluation/{label}.jsonl", tasks, faults, solved)
    content = scoring.submission(tasks, solved.predictions, faults)
    counts = {t.id: len(t.test) for t in tasks} | {f.task_id: f.num_tests for f in faults}
    scoring.check_submission(content, counts)
    scoring.write_submission(folder / f"submission-{label}.json", content)
    plots, drawn = folder / "plots", tasks[: one.what.num_drawn]
    figures.task_strips(drawn, solved.predictions, plots / f"{label}-tasks.png")
    figures.pixel_heat_map(solved.predictions, tasks, plots / f"{label}-pixels.png")
    figures.search_trajectories(solved.trajectory, solved.exact, plots / f"{label}-search.png")
    figures.latent_trails(solved.trail, solved.trail_scores, plots / f"{label}-latents.png")


# --- While training -------------------------------------------------------------------------------


def watching(
    config: ConfigDict, lpn: LPN, axes: Axes | None, mesh: Mesh, tasks: Callable[[], list[Task]]
) -> Callable[[Any, int, Array], dict[str, Any]]:
    """Accuracy on held-out Re-ARC samples while training: from the mean latent and after a few
    ascent steps, or in context. `tasks` gives the samples."""
    grouped = grouping(config)
    if config.train.mode == "in_context":
        names, solver = ["rearc_in_context_accuracy"], arc_solving.in_context(lpn)

        def accuracy(params: Any, key: Array) -> np.ndarray:
            solved = arc_solving.solve_set(solver, params, key, tasks(), mesh, **grouped)
            scores = scoring.score(tasks(), solved.predictions)
            return np.array([scores["per_output/accuracy/top_1"].value])

    else:
        steps = (0, *config.evaluation.short_steps)
        names = ["rearc_mean_accuracy", *(f"rearc_ascent_{n}_accuracy" for n in steps[1:])]
        measure = arc_solving.accuracy_curve(lpn, ascent(config, max(steps)), steps, mesh)

        def accuracy(params: Any, key: Array) -> np.ndarray:
            return measure(params, key, tasks(), **grouped).accuracy.mean(-1)

    def watch(state: Any, step: int, key: Array) -> dict[str, Any]:
        found = np.stack([accuracy(params, key) for params in trials(state.params, axes)])
        return dict(zip(names, found[0] if axes is None else found.T, strict=True))

    return watch
