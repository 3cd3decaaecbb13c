"""Solves sets of ARC tasks with a trained Latent Program Network and writes down what came out.

Tasks of similar size are searched together, many at once, sharded over the devices. A task's result
depends on its id, its demonstrations and the seed, not on what it was grouped with.
"""

import functools
import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.data.arc import buckets, scoring
from experiments.data.arc.parsing import Task
from experiments.data.arc.tasks import Fault
from jaxtrain.host.costs import matmul_flops
from jaxtrain.host.files import finite, write_text
from jaxtrain.host.proportions import Interval, percent
from jaxtrain.host.report import grid as text_table
from jaxtrain.parallel import place
from jaxtta.lpn import (
    LPN,
    Grid,
    Method,
    Pairs,
    Solution,
    execute_tasks,
    in_context_loss,
    in_context_solve_tasks,
    prefix_best,
    scorer,
    search_task,
    solve_tasks,
    test_time_training,
)

Predictions = dict[str, list[list[np.ndarray]]]


class Solved(NamedTuple):
    """Results of one method on a set of tasks, in the order of the tasks.

    Attributes:
      predictions: attempts by task id, per test input.
      scores: scores of the two latents on the demonstrations, `[tasks, 2]`.
      steps_used: search steps, `[tasks]`.
      exact: whether the best latent reproduces all demonstrations, `[tasks]`, bool.
      trajectory: best score after every step, `[tasks, K + 1]`.
      trail: iterates that led to the best latent, `[tasks, K + 1, H]`.
      trail_scores: their scores, `[tasks, K + 1]`.
      distance: of the best latent from the start of the search, `[tasks]`.
      programs: number of programs that were compiled.
      seconds: wall time, compilation included.
    """

    predictions: Predictions
    scores: np.ndarray
    steps_used: np.ndarray
    exact: np.ndarray
    trajectory: np.ndarray
    trail: np.ndarray
    trail_scores: np.ndarray
    distance: np.ndarray
    programs: int
    seconds: float


def fitting(
    tasks: Sequence[Task],
    lengths: Sequence[int],
    source: str,
    most_demonstrations: int | None = None,
) -> tuple[list[Task], list[Fault]]:
    """Separates the tasks that fit into the buckets, and the model, from those that do not."""
    kept, faults = [], []
    for task in tasks:
        try:
            buckets.smallest_room(buckets.longest(task), lengths, "it has a grid of", "cells")
            most = (most_demonstrations or len(task.train),)
            buckets.smallest_room(len(task.train), most, "it has", "demonstrations")
            kept.append(task)
        except ValueError as error:
            message = f"{source}: task {task.id}: {error}"
            has_answers = all(output is not None for _, output in task.test)
            faults.append(Fault(task.id, source, message, len(task.test), has_answers))
    return kept, faults


def task_keys(key: Array, tasks: Sequence[Task], positions: np.ndarray) -> Array:
    """One key per row of a group, from the ids of its tasks."""
    ids = [zlib.crc32(tasks[i].id.encode()) if i >= 0 else 0 for i in positions]
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(ids, jnp.uint32))


Solver = Callable[[Any, Array, Pairs, Grid], Solution]


def searching(lpn: LPN, method: Method) -> Solver:
    """Solves tasks by latent search."""
    return functools.partial(solve_tasks, lpn, method=method)


def in_context(lpn: LPN, ttt_steps: int = 0, learning_rate: float = 1e-4) -> Solver:
    """Solves tasks with the baseline: in context, after `ttt_steps` of test-time training.

    Both attempts are the same grid. The score of a task is its leave-one-out log-likelihood (the
    negative training loss) after adaptation, and 0 where a single demonstration leaves nothing to
    compare.
    """
    adapt = test_time_training(lpn, ttt_steps, learning_rate)

    def solver(params: Any, keys: Array, demos: Pairs, inputs: Grid) -> Solution:
        grids = in_context_solve_tasks(lpn, params, demos, inputs, adapt if ttt_steps else None)
        attempts = jax.tree.map(lambda x: jnp.stack([x, x], axis=2), grids)

        def check(pairs):
            adapted = adapt(params, pairs) if ttt_steps else params
            loss, metrics = in_context_loss(lpn, adapted, pairs, jax.random.key(0))
            return -loss, metrics["teacher_forced_accuracy"] == 1.0

        score, exact = jax.lax.map(check, demos)
        steps = jnp.full(score.shape, ttt_steps, jnp.int32)
        latents = jnp.zeros((*score.shape, 2, 0))
        return Solution(
            attempts,
            latents,
            jnp.stack([score, score], -1),
            steps,
            exact,
            score[:, None],
            latents[:, :1],
            score[:, None],
            jnp.zeros_like(score),
            jnp.broadcast_to(score[:, None, None], attempts.shape.shape[:-1]),
        )

    return solver


def solve_set(
    solver: Solver,
    params: Any,
    key: Array,
    tasks: Sequence[Task],
    mesh: Mesh,
    **grouping: Any,
) -> Solved:
    """Two attempts for every test input of every task.

    Args:
      solver: from `searching` or `in_context`.
      params: parameters.
      key: of the evaluation.
      tasks: tasks that fit (see `fitting`).
      mesh: devices; groups are sharded over its axis `data`.
      **grouping: of `buckets.group`.
    """
    began = time.perf_counter()
    groups = buckets.group(tasks, **grouping)
    program = jax.jit(solver, out_shardings=NamedSharding(mesh, P()))
    params = place(params, mesh)
    results: list[Solution] = []
    for group in groups:
        keys = task_keys(key, tasks, group.positions)
        args = place((keys, group.demos, group.queries), mesh, P("data"))
        results.append(jax.device_get(program(params, *args)))
    rows: list[Solution] = buckets.restore(groups, results)
    predictions = {
        task.id: [
            [grid_array(row.attempts, (q, a)) for a in range(2)] for q in range(len(task.test))
        ]
        for task, row in zip(tasks, rows, strict=True)
    }
    return Solved(
        predictions,
        np.stack([row.scores for row in rows]),
        np.stack([row.steps_used for row in rows]),
        np.stack([row.exact for row in rows]),
        np.stack([row.trajectory for row in rows]),
        np.stack([row.trail for row in rows]),
        np.stack([row.trail_scores for row in rows]),
        np.stack([row.distance for row in rows]),
        program._cache_size(),
        time.perf_counter() - began,
    )


def grid_array(grids: Any, index: tuple[int, ...]) -> np.ndarray:
    """One grid of a batch as a `[rows, cols]` array."""
    rows, cols = np.asarray(grids.shape)[index].tolist()
    return np.asarray(grids.cells)[index][: rows * cols].reshape(rows, cols)


class Curve(NamedTuple):
    """Accuracy after different numbers of search steps.

    Attributes:
      steps: numbers of steps, `[S]`.
      accuracy: pass@2 per task (share of its outputs solved), `[S, tasks]`.
      flops: matrix-product FLOPs of encoding and searching, generation left out, for a task of
        three demonstrations in the largest bucket, `[S]`.
    """

    steps: tuple[int, ...]
    accuracy: np.ndarray
    flops: np.ndarray


def accuracy_curve(
    lpn: LPN, method: Method, steps: Sequence[int], mesh: Mesh
) -> Callable[..., Curve]:
    """One search of the method's full length scored at every number of steps in `steps`.

    Returns:
      `measure(params, key, tasks, **grouping) -> Curve`; calls share their compiled programs.
    """
    steps = tuple(steps)

    @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
    def program(params, keys, demos, queries):
        result = jax.vmap(lambda k, d: search_task(lpn, params, k, d, method))(keys, demos)
        latents, _ = jax.vmap(lambda r: prefix_best(r, steps, k=2))(result)
        contexts = latents.reshape(latents.shape[0], -1, latents.shape[-1])
        return execute_tasks(lpn, params, contexts, queries)

    def measure(params: Any, key: Array, tasks: Sequence[Task], **grouping: Any) -> Curve:
        groups = buckets.group(tasks, **grouping)
        params = place(params, mesh)
        results = []
        for group in groups:
            keys = task_keys(key, tasks, group.positions)
            args = place((keys, group.demos, group.queries), mesh, P("data"))
            results.append(jax.device_get(program(params, *args)))
        accuracy = np.zeros((len(steps), len(tasks)))
        solved = buckets.restore(groups, results)
        for t, (task, grids) in enumerate(zip(tasks, solved, strict=True)):
            for s in range(len(steps)):
                attempts = [
                    [grid_array(grids, (q, 2 * s + a)) for a in range(2)]
                    for q in range(len(task.test))
                ]
                accuracy[s, t] = scoring.score_task(task, attempts)[:, 1, 1].mean()
        return Curve(steps, accuracy, search_flops(lpn, steps, max(g.length for g in groups)))

    return measure


def search_flops(lpn: LPN, steps: Sequence[int], length: int, num_pairs: int = 3) -> np.ndarray:
    """Matrix-product FLOPs of encoding a task and searching from one start point,
    `[len(steps)]`."""
    pairs = buckets.pack([[]], length, num_pairs)
    pairs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), pairs)
    params = jax.eval_shape(lpn.init, jax.random.key(0))
    latents = jax.ShapeDtypeStruct((1, lpn.config.latent_dim), jnp.float32)

    def ascend(params, pairs, z):
        return jax.value_and_grad(lambda z: scorer(lpn, params, pairs)(z).score.sum())(z)

    encode = matmul_flops(jax.make_jaxpr(lpn.encode)(params, pairs))
    score = matmul_flops(
        jax.make_jaxpr(lambda p, d, z: scorer(lpn, p, d)(z))(params, pairs, latents)
    )
    step = matmul_flops(jax.make_jaxpr(ascend)(params, pairs, latents))
    return np.array([encode + score + n * step for n in steps], float)


def write_tasks(path: Path, tasks: Sequence[Task], faults: Sequence[Fault], solved: Solved) -> None:
    """One JSON line per task: attempts, scores, steps, whether it was solved; faulty tasks last."""
    lines = []
    for i, task in enumerate(tasks):
        attempts = solved.predictions[task.id]
        row: dict[str, Any] = {
            "id": task.id,
            "attempts": [[grid.tolist() for grid in one] for one in attempts],
            "scores": solved.scores[i].tolist(),
            "steps": int(solved.steps_used[i]),
            "distance": float(solved.distance[i]),
            "demonstrations_reproduced": bool(solved.exact[i]),
        }
        if all(output is not None for _, output in task.test):
            row["solved"] = scoring.score_task(task, attempts)[:, 1, 1].astype(bool).tolist()
        lines.append(row)
    lines += [{"id": fault.task_id, "fault": fault.message} for fault in faults]
    write_text(path, "".join(json.dumps(finite(line)) + "\n" for line in lines))


def score_table(scores: Mapping[str, Mapping[str, Interval]]) -> str:
    """Accuracy of every method under the three rules in %, as text."""
    head = ["method", *(f"{rule} {top}" for rule in scoring.RULES for top in scoring.TOPS)]
    rows = [head]
    for method, found in scores.items():
        names = [f"{rule}/accuracy/{top}" for rule in scoring.RULES for top in scoring.TOPS]
        rows.append([method, *(percent(found[name]) for name in names)])
    return text_table(rows)
