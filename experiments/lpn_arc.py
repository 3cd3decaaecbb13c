"""Latent Program Network on ARC-AGI: train on Re-ARC, search latents at test time, score, submit.

Training draws pairs from the Re-ARC generators (or a cache of them); the evaluation solves ARC
tasks with two attempts per test input, scores them and writes a submission.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from experiments.data.arc.rearc import Sample
from experiments.data.arc.task_batches import TaskBatches
from experiments.lpn import training_sets
from experiments.lpn.arc_evaluation import (
    evaluate_trials,
    evaluation,
    is_leader,
    watching,
)
from experiments.lpn.micro_batches import num_micro_batches, settled
from experiments.lpn.prediction import folder_of, prediction
from experiments.lpn.settings import (
    SWEEPABLE,
    build_core,
    build_model,
    check_demonstrations,
)
from experiments.lpn.task_sets import held_out
from experiments.lpn.weights import read_params
from jaxtrain.core import Core
from jaxtrain.host import arrays, cli, experiment, schedules, sweep
from jaxtrain.host.begin import Run
from jaxtrain.host.config import UsageError
from jaxtrain.host.data import Pipeline
from jaxtrain.host.experiment import Finished, Training
from jaxtrain.parallel import AxisName, num_shards
from jaxtrain.schedules import repositioned
from jaxtta import lpn as lpn_
from jaxtta.lpn import LPN
from jaxtta.lpn.import_weights import to_flat

PLANNED_BATCHES = 2  # drawn for a plan

FLAGS = (
    experiment.MODE,
    cli.define_string(
        "predict",
        "",
        "JSON file of one task of yours: solve it instead of a set; what comes out goes to "
        "predictions/<name of the file>/ in the work folder",
    ),
)


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """Trains, evaluates or predicts, as `--mode` and `--predict` say."""
    lpn, task_file = build_model(config), setup.flags["predict"]
    if task_file:
        evaluate = prediction(config, lpn, task_file)
    else:
        evaluate = functools.partial(evaluate_trials, evaluation(config, lpn))
    tasks = watch = None
    if config.eval_every:
        tasks = functools.cache(held_out(config))
        watch = watching(config, lpn, setup.sweep, setup.execution.mesh, tasks)
    return Training(
        core=lambda config, axis_name: core_of(config, lpn, axis_name),
        data=training_data(config, first=tasks),
        batch=abstract_batch,
        passes=typical_passes,
        show=("loss", "teacher_forced_accuracy", "grad_norm", "learning_rate"),
        watch=watch,
        save=write_weights,
        evaluate=evaluate,
        read_params=functools.partial(read_params, lpn),
        trains=not task_file,
    )


def evaluates(flags: Mapping[str, Any]) -> str:
    """Where a run that trains nothing writes its numbers; a prediction has a folder of its own."""
    if flags["predict"]:
        return str(folder_of(flags["predict"]) / "summary.json")
    return experiment.evaluates(flags)


# --- Training -------------------------------------------------------------------------------------


def core_of(config: ConfigDict, lpn: LPN, axis_name: AxisName | None = None) -> Core:
    """Training core with the augmentation of the paper in front of the loss."""
    searches_rates = schedules.autolrs_config(config) is not None
    if not config.data.augment:
        return build_core(config, lpn, axis_name=axis_name)
    augment = augmentation(flip=config.data.flip)
    if searches_rates:  # candidates share their augmentation
        return build_core(config, lpn, axis_name=axis_name, sample=augment)
    core = build_core(config, lpn, axis_name=axis_name)

    def update(state: Any, batch: Any, key: Array) -> Any:
        key_augment, key_update = jax.random.split(key)
        return core.update(state, augment(key_augment, batch), key_update)

    return Core(core.init, update)


def augmentation(*, flip: bool) -> Callable[[Array, Any], Any]:
    """`(key, batch) -> batch` with rotated and recoloured grids; a task's change depends on its
    place in the batch."""
    change = functools.partial(lpn_.augment, flip=flip)

    def augment(key: Array, batch: tuple[lpn_.Tasks, ...]) -> tuple[lpn_.Tasks, ...]:
        def augmented(tasks: lpn_.Tasks) -> lpn_.Tasks:
            keys = jax.vmap(jax.vmap(lambda i: jax.random.fold_in(key, i)))(tasks.index)
            return tasks._replace(pairs=jax.vmap(jax.vmap(change))(keys, tasks.pairs))

        return tuple(map(augmented, batch))

    return augment


def training_data(
    config: ConfigDict, first: Callable[[], Any] | None
) -> Callable[[Run], contextlib.AbstractContextManager[Pipeline]]:
    """Opens the batches of a run; `first` is called before, so that it fails early if it must."""
    sets, search = training_sets.mixed(config), schedules.autolrs_config(config)
    draw = training_sets.generators(config) if sets.has_generators else None
    batches = functools.partial(batches_of, config.batch_size, **batching(config))

    @contextlib.contextmanager
    def opened(begun: Run) -> Iterator[Pipeline]:
        if first is not None:
            first()
        for message in sets.messages if is_leader() else ():
            print(f"not trained on: {message}")
        given = dict(
            seed=begun.config.seed,
            batch_size=begun.config.batch_size,
            shard=(jax.process_index(), jax.process_count()),
        )
        drawn = draw and draw(begun.context.workdir / "rearc", **given)
        with training_sets.joined(sets, drawn, **given) as samples:
            made = batches(samples, given["shard"], num_shards(begun.context.execution.mesh))
            yield made if search is None else repositioned(made, search)

    return opened


def batching(config: ConfigDict) -> dict[str, Any]:
    """How training tasks are put into batches, for `TaskBatches`."""
    data = config.data
    return dict(num_pairs=data.num_pairs, lengths=data.lengths, micro_batch=config.micro_batch)


def batches_of(
    batch_size: int, samples: Any, shard: tuple[int, int], devices: int, **settings: Any
) -> TaskBatches:
    """Batches of samples for one process."""
    return TaskBatches(samples, batch_size=batch_size, shard=shard, devices=devices, **settings)


def abstract_batch(config: ConfigDict, devices: int) -> Any:
    """Shapes of a training batch, for plans."""

    class Nothing:
        def samples(self, step: int) -> list[Sample]:
            return []

    batches = batches_of(config.batch_size, Nothing(), (0, 1), devices, **batching(config))
    return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, batches.batch(0)))


def typical_passes(config: ConfigDict, devices: int) -> dict[str, float]:
    """Micro-batches of every bucket, the mean over a few batches of the training data.

    Raises:
      UsageError: there is no data.
    """
    sets, shard = training_sets.mixed(config), (0, 1)
    given = dict(seed=config.seed, batch_size=config.batch_size, shard=shard)
    drawn = training_sets.generators(config)(None, **given) if sets.has_generators else None
    with training_sets.joined(sets, drawn, **given) as samples:
        batches = batches_of(config.batch_size, samples, shard, devices, **batching(config))
        found = [batches.passes(batches.batch(step)) for step in range(PLANNED_BATCHES)]
    return {name: sum(one[name] for one in found) / len(found) for name in found[0]}


def write_weights(run: Finished) -> None:
    """Writes the parameters of every trial under the names of the authors' checkpoints."""
    folders, every = (
        sweep.folders(run.workdir, run.sweep),
        sweep.trials(run.state.params, run.sweep),
    )
    for folder, params in zip(folders, every, strict=True):
        if is_leader():
            folder.mkdir(exist_ok=True)
            arrays.write(folder / "weights.npz", jax.device_get(to_flat(params)))


# --- What goes together ---------------------------------------------------------------------------


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    model, data, options = config.model, config.data, config.evaluation
    largest = model.max_rows * model.max_cols
    for name, lengths in (("data", data.lengths), ("evaluation", options.lengths)):
        if max(lengths) > largest:
            raise UsageError(
                f"{name}.lengths={tuple(lengths)} must name none above "
                f"model.max_rows * model.max_cols = {largest}"
            )
    if steps := [n for n in options.curve_steps if n > options.search.num_steps]:
        raise UsageError(
            f"evaluation.curve_steps asks for {steps} but evaluation.search.num_steps is "
            f"{options.search.num_steps}"
        )
    if options.search.gradient_ascent.lr_schedule and set(options.curve_steps) - {
        0,
        options.search.num_steps,
    }:
        raise UsageError(
            f"evaluation.curve_steps={tuple(options.curve_steps)} is read from one search, but "
            "with lr_schedule a shorter search is another one; use evaluation.curve_steps=()"
        )
    turned = options.augmentations > 1 and {"rotate", "transpose"} & set(options.augment_by)
    if turned and model.max_rows != model.max_cols:
        raise UsageError(
            f"evaluation.augment_by={tuple(options.augment_by)} exchanges rows and columns, but "
            f"the model reads grids of at most {model.max_rows} x {model.max_cols}; use ('colors',)"
        )
    check_demonstrations(config, max(data.num_pairs - 1, *options.pair_counts))
    num_micro_batches(config, 1)


main = functools.partial(
    cli.main,
    build,
    sweepable=SWEEPABLE,
    settled=settled,
    validate=validate,
    flags=FLAGS,
    may_change=("evaluation", "micro_batch"),
    evaluates=evaluates,
)

if __name__ == "__main__":
    main()
