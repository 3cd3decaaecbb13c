"""OVOR: classes learned task after task with one prompt and virtual outliers, and its controls.

A transformer is read from a file or learns other images, and stays as it is. Then its prompts and a
head learn the classes of one task after the other, and after every task all test images of classes
seen so far are classified. Rows of the table: `one_prompt` has prompts and head trained for all
epochs, `pool` the same with a prompt per task (DualPrompt). The others train the head alone in the
last epochs: `head_only` without outliers, `ovor` with them, and the controls `on_data`, with
outliers on top of boundary points, and `released`, around the origin as the released code has them.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.data.images import loader
from experiments.data.images.labelled import Images
from experiments.images.source import imported, trained
from experiments.incremental.learning import SECOND, Stage, Tasks, begin, in_tasks, learning
from experiments.incremental.scores import (
    Found,
    comparisons,
    draw,
    measured,
    said,
    summary,
    table,
)
from jaxtrain.host import arrays, cli
from jaxtrain.host.config import UsageError
from jaxtrain.nets import ViT
from jaxtrain.nets.torch_weights import TIMM_VIT


def source_of(config: ConfigDict) -> tuple[ViT, Callable[[int, Path], Any]]:
    """The transformer, and `(seed, folder) -> weights`, read once or learned for each seed.

    Raises:
      UsageError: weights that are not there or do not fit, or no such images.
    """
    model, size, source = config.model, config.data.size, config.source
    shape = {name: model[name] for name in ("patch", "width", "depth", "num_heads")}
    if model.weights:
        path = loader.find(model.weights, config.data.data_dir)
        if path is None:
            raise UsageError(
                f"model.weights={model.weights!r} was not found; give the path of an npz or "
                "safetensors file of timm's weights, or model.weights='' to train a network first"
            )
        module = ViT(num_classes=model.num_classes, **shape)
        weights = imported(module, TIMM_VIT, path, size)[0]
        return module, lambda seed, folder: weights
    options: Any = dict(size=size, number_key="source.num_images")
    data = loader.load(source.name, "train", config.data.data_dir, source.num_images, **options)
    data = data._replace(images=np.rot90(data.images, source.quarter_turns, axes=(1, 2)).copy())
    module = ViT(num_classes=int(data.labels.max()) + 1, **shape)
    training: Any = {name: source[name] for name in ("num_steps", "batch_size", "learning_rate")}
    example = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    like = jax.eval_shape(module.init, jax.random.key(0), example)["params"]

    def learned(seed: int, folder: Path) -> Any:
        make = lambda: trained(module, data, seed=seed, folder=folder / "source", **training)[0]
        return arrays.kept(folder / "model.npz", like, make)

    return module, learned


def read(config: ConfigDict) -> tuple[Images, Images, int]:
    """Training and test images, and the number of classes of a task.

    Raises:
      UsageError: classes that do not make so many tasks, or that are missing in a part.
    """
    data, parts = config.data, []
    for split, key in (("train", "num_train"), ("test", "num_test")):
        options: Any = dict(size=data.size, number_key=f"data.{key}")
        parts.append(loader.load(data.name, split, data.data_dir, data[key], **options))
    train, test = parts
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    if not train.has_labels or num_classes % data.num_tasks:
        raise UsageError(
            f"data.num_tasks={data.num_tasks} does not divide the {num_classes} classes of "
            f"{train.provenance}"
        )
    for name, part in (("training", train), ("test", test)):
        if missing := set(range(num_classes)) - set(part.labels.tolist()):
            raise UsageError(f"class {min(missing)} of {part.provenance} has no {name} images")
    return train, test, num_classes // data.num_tasks


def build(config: ConfigDict, setup: cli.Setup) -> cli.Work:
    """Learns all tasks for every row and seed, measures, and draws."""
    if setup.execution.axis_name is not None:
        raise UsageError("continual runs under --parallel=jit")
    train, test, classes = read(config)
    outliers, num_tasks, rows = config.outliers, config.data.num_tasks, config.rows
    if classes * outliers.per_class > outliers.num_boundary * outliers.num_offsets:
        raise UsageError(
            f"outliers.per_class={outliers.per_class} of {classes} classes are more than the "
            f"{outliers.num_boundary} x {outliers.num_offsets} candidates"
        )
    module, weights_of = source_of(config)
    shared = tuple(row for row in rows if row in SECOND)
    groups = [group for group in (shared, *((r,) for r in rows if r not in SECOND)) if group]
    number = classes * int(np.bincount(train.labels).min())
    starts = [begin(config, group, classes * num_tasks, len(test.labels)) for group in groups]
    programs = [learning(config, module, group, classes, number) for group in groups]
    seeds = range(config.seed, config.seed + config.num_seeds)

    def learned(i: int, tasks: Tasks, weights: Any, seed: int, folder: Path) -> list[Stage]:
        key_start, key = jax.random.split(jax.random.key(seed))
        stage, stages = starts[i](key_start), []
        for task in range(num_tasks):
            given = tasks.images[task], tasks.labels[task], tasks.test
            own = jax.random.fold_in(key, task)
            make = functools.partial(programs[i], weights, stage, jnp.int32(task), *given, own)
            stage = arrays.kept(folder / f"{groups[i][0]}_{task}.npz", stage, make)
            stages.append(stage)
        return stages

    def work(context: cli.Context) -> dict[str, Any]:
        print(f"{train.provenance}, {num_tasks} tasks of {classes} classes", flush=True)
        found: dict[str, list[Found]] = {row: [] for row in rows}
        for seed in seeds:
            folder = context.workdir / "checkpoints" / str(seed)
            tasks, weights = in_tasks(train, test, num_tasks, seed), weights_of(seed, folder)
            for i, group in enumerate(groups):
                stages = learned(i, tasks, weights, seed, folder)
                for row in group:
                    predicted = np.stack([stage.predicted[row] for stage in stages])
                    found[row].append(measured(predicted, tasks.test_labels, classes))
                    print(f"seed {seed}, {row}: {said(found[row][-1])}", flush=True)
        results = summary(found)
        print(f"\n{table(found)}\n\n{comparisons(results['differences'])}", flush=True)
        draw(found, context.workdir / "plots" / "tasks.png")
        return results

    return work


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    model, lengths = config.model, config.prompts.lengths
    if len(lengths) > model.depth:
        raise UsageError(f"prompts.lengths={lengths} are more than model.depth={model.depth}")
    if "pool" in config.rows and len(lengths) < 2:
        raise UsageError("the row pool needs prompts.lengths of two blocks, one with own prompts")
    if model.width % model.num_heads:
        raise UsageError(
            f"model.num_heads={model.num_heads} does not divide model.width={model.width}"
        )
    if config.data.size % model.patch:
        raise UsageError(f"model.patch={model.patch} does not divide data.size={config.data.size}")
    if config.outliers.num_epochs >= config.num_epochs:
        raise UsageError(
            f"outliers.num_epochs={config.outliers.num_epochs} must be below "
            f"num_epochs={config.num_epochs}, whose last ones they are"
        )


main = functools.partial(
    cli.main,
    build,
    validate=validate,
    without=cli.one_process("it learns in one process")
    | {
        "sweep": "its seeds share one program; set num_seeds",
        "profile": "it has no training steps of a loop",
    },
)

if __name__ == "__main__":
    main()
