"""Latent Program Network on ARC-AGI: train on Re-ARC, search latents at test time, score, submit.

Training draws pairs from the Re-ARC generators (or a cache of them); `lpn.arc_evaluation` solves
ARC tasks with two attempts per test input, scores them and writes a submission.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.data.arc import rearc, rearc_cache
from experiments.data.arc.pool import Pool
from experiments.data.arc.rearc_samples import RearcSamples
from experiments.data.arc.task_batches import TaskBatches
from experiments.lpn import settings
from experiments.lpn.arc_evaluation import (
    HELD_OUT,
    evaluate,
    evaluation_in_training,
    predict,
    rearc_options,
    solvers,
    trials,
)
from experiments.lpn.settings import (
    MODE,
    SWEEPABLE,
    build_core,
    build_model,
    check_at_least,
    check_demonstrations,
    num_micro_batches,
)
from experiments.lpn.weights import read_params
from jaxtrain.core import Core
from jaxtrain.host import arrays, cli, experiment, schedules, sweep
from jaxtrain.host.begin import Run, fit, started
from jaxtrain.host.config import UsageError
from jaxtrain.parallel import AxisName, compile_update
from jaxtrain.schedules.autolrs import repositioned
from jaxtta import lpn as lpn_
from jaxtta.lpn import LPN
from jaxtta.lpn.import_weights import to_flat

FLAGS = (
    MODE,
    cli.define_string(
        "predict",
        "",
        "JSON file of one task of yours: solve it instead of a set; the numbers go to "
        "evaluation/summary-predict-<name of the file>.json",
    ),
)


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


def run(config: ConfigDict, context: cli.Context) -> dict[str, Any]:
    """Trains, evaluates or predicts, as `--mode` and `--predict` say."""
    lpn = build_model(config)
    mode, task_file = context.flags["mode"], context.flags["predict"]
    trains = not experiment.evaluates(context.flags)
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
            arrays.write(folder / "weights.npz", jax.device_get(to_flat(params)))
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
        stream = RearcSamples(
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
    found = settings.unused(config, [*searches, *curve] or ["no search"])
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


main = functools.partial(
    cli.main,
    cli.unbound(run),
    sweepable=SWEEPABLE,
    validate=validate,
    flags=FLAGS,
    may_change=("evaluation",),
    evaluates=experiment.evaluates,
)

if __name__ == "__main__":
    main()
