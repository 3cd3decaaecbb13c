"""Segmentation networks that go on learning from pictures without labels: FST beside its peers.

A network is trained on labelled pictures of one domain. Every row of the table adapts it to
pictures of another one, for equally many steps unless its name says otherwise, and is scored by its
labels of those pictures and by other pictures of their domain. Differences have bootstrap intervals
over pictures and seeds.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.data.images import masks, scenes
from experiments.data.images.masks import Masked
from experiments.dense import figures
from experiments.dense.rows import Row, chosen
from experiments.dense.training import Scores, adapting, mean_iou, scored, source_model
from jaxtrain import trees
from jaxtrain.host import arrays, cli, report, schedules
from jaxtrain.host.bootstrap import resampled
from jaxtrain.host.config import UsageError
from jaxtrain.host.proportions import Interval, over_trials, percent
from jaxtrain.nets import Segmenter, classifier, from_linen

# First row minus second row; the first pair is the claim, the others are what it is held against.
PAIRS = (
    ("fst_d", "mean_teacher"),
    ("fst_d1", "mean_teacher"),
    ("fst_w", "mean_teacher"),
    ("random_future", "mean_teacher"),
    ("fst_d", "random_future"),
    ("fst_d", "faster_teacher"),
    ("fst_d", "longer_teacher"),
)


class Data(NamedTuple):
    """Labelled pictures, those to adapt to, whose masks are read by scores only, and others."""

    source: Masked
    target: Masked
    test: Masked


class Done(NamedTuple):
    """A row of one seed: scores on the target and on the test pictures, right labels by step."""

    target: Scores
    test: Scores
    right: np.ndarray


def read_data(config: ConfigDict) -> Data:
    """The pictures, read or made up.

    Raises:
      UsageError: some are named and others are not, or as `masks.read`.
    """
    data = config.data
    parts = ("source", "target", "test")
    named = {key: data[key] for part in parts for key in (part, f"{part}_masks")}
    size, num_classes = tuple(data.size), len(data.classes)
    if not any(named.values()):
        if tuple(data.classes) != scenes.CLASSES:
            raise UsageError(f"made-up streets have data.classes={scenes.CLASSES}")
        times = {"source": False, "target": True, "test": True}
        made = {
            part: scenes.streets(data[f"num_{part}"], size, seed, dusk=times[part])
            for seed, part in enumerate(parts)
        }
        return Data(**made)
    if missing := sorted(key for key, value in named.items() if not value):
        raise UsageError(f"data.{missing[0]} is not named; name pictures and masks of every part")
    options: Any = dict(void=data.void, data_dir=data.data_dir)
    read = lambda part: masks.read(
        named[part], named[f"{part}_masks"], size, num_classes, **options
    )
    return Data(*map(read, parts))


def build(config: ConfigDict, setup: cli.Setup) -> cli.Work:
    """A source model per seed, adapted by every row, scored, and drawn before and after."""
    if setup.execution.axis_name is not None:
        raise UsageError("tta_dense runs under --parallel=jit")
    data, names = read_data(config), tuple(config.data.classes)
    module = Segmenter(num_classes=len(names), **config.model.to_dict())
    network, model = classifier(module), from_linen(module)
    example = jax.ShapeDtypeStruct((1, *data.source.images.shape[1:]), np.float32)
    jax.eval_shape(model.init, jax.random.key(0), example)  # sides that do not fit are named here
    rows, training = chosen(config, network), config.source.to_dict()
    batch_size, size = config.batch_size, config.evaluation.batch_size
    seeds, num_steps = range(config.seed, config.seed + config.num_seeds), config.num_steps
    programs = {name: adapting(row, batch_size) for name, row in rows.items()}

    def started(key: jax.Array, folder: Path) -> tuple[Any, Any]:
        shapes = jax.eval_shape(model.init, key, example)
        leaves, structure = jax.tree.flatten(shapes)
        held = folder / "model.npz"
        if not held.is_file():
            found = source_model(model, data.source, key, **training)
            named = zip(trees.path_names(shapes), jax.tree.leaves(found), strict=True)
            arrays.write(held, dict(named))
        found = arrays.read(held, trees.path_names(shapes))
        return jax.tree.unflatten(structure, [found[name] for name in trees.path_names(shapes)])

    def done(name: str, row: Row, start: tuple[Any, Any], key: jax.Array, folder: Path) -> Done:
        file = folder / f"{name}.npz"
        if not file.is_file():
            after = programs[name](*start, data.source, data.target, key)
            score = functools.partial(
                scored,
                network,
                after.params,
                after.model_state,
                norm=row.norm,
                num_classes=len(names),
                batch_size=size,
            )
            parts = {"target": score(data.target), "test": score(data.test)}
            flat = {f"{p}_{k}": x for p, one in parts.items() for k, x in one._asdict().items()}
            arrays.write(file, flat | {"right": after.right})
        held = arrays.read(file)
        part = lambda p: Scores(*(held[f"{p}_{k}"] for k in Scores._fields))
        return Done(part("target"), part("test"), held["right"])

    def work(context: cli.Context) -> dict[str, Any]:
        print(", ".join(one.about for one in data), flush=True)
        found: dict[str, list[Done]] = {name: [] for name in rows}
        for seed in seeds:
            folder = context.workdir / "checkpoints" / str(seed)
            key_source, key = jax.random.split(jax.random.key(seed))
            start = started(key_source, folder)
            for name, row in rows.items():
                found[name].append(done(name, row, start, key, folder))
                print(f"seed {seed}, {name}: {shown(found[name][-1])}", flush=True)
        results, plots = summary(found), context.workdir / "plots"
        print(f"\n{table(found, rows)}\n\n{comparisons(results['differences'])}", flush=True)
        after = next(name for name in ("fst_d", *reversed(rows)) if name in rows)
        if "source" in rows:
            before, now = (found[name][0].test.shown for name in ("source", after))
            pictures = {"before": before, f"after, {after}": now}
            figures.pictures(data.test, pictures, names, plots / "pictures.png")
        curves = {name: np.stack([one.right for one in each]) for name, each in found.items()}
        same = {name: x for name, x in curves.items() if x.shape[1] == num_steps}
        figures.curves(same, plots / "pseudo_labels.png")
        return results

    return work


def accuracy(scores: Scores) -> float:
    """Share of the pixels with a class that are right."""
    return float(scores.right.sum() / scores.known.sum())


def shown(one: Done) -> str:
    """The numbers of a row."""
    return (
        f"labels of the target {100 * accuracy(one.target):.1f} %, test "
        f"{100 * accuracy(one.test):.1f} %, mean IoU {100 * mean_iou(one.test.confusion):.1f} %"
    )


NUMBERS = {
    "target_accuracy": lambda one: accuracy(one.target),
    "test_accuracy": lambda one: accuracy(one.test),
    "test_iou": lambda one: mean_iou(one.test.confusion),
}


def difference(first: list[Done], second: list[Done], part: str) -> Interval:
    """Accuracy of the first minus that of the second on the same pictures and seeds."""
    of = lambda each, name: np.stack([getattr(getattr(one, part), name) for one in each])
    return resampled(of(first, "right") - of(second, "right"), of(first, "known"))


def summary(found: dict[str, list[Done]]) -> dict[str, Any]:
    """Numbers of every row, a value per seed; differences with intervals."""
    numbers: dict[str, Any] = {
        f"{row}_{name}": np.array([number(one) for one in each])
        for row, each in found.items()
        for name, number in NUMBERS.items()
    }
    pairs = [pair for pair in PAIRS if set(pair) <= found.keys()]
    differences = {
        f"{first} over {second}": {
            part: difference(found[first], found[second], part)._asdict()
            for part in ("target", "test")
        }
        for first, second in pairs
    }
    return numbers | {"differences": differences}


def table(found: dict[str, list[Done]], rows: dict[str, Row]) -> str:
    """A line for every row: means over seeds with intervals, and what it costs."""
    lines = [["row", "labels of the target, %", "test, %", "mean IoU, %", "steps", "cost"]]
    for name, each in found.items():
        cells = [percent(over_trials([number(one) for one in each])) for number in NUMBERS.values()]
        row = rows[name]
        cost = str(row.passes * row.num_steps) if row.passes else ""
        lines.append([name, *cells, str(row.num_steps), cost])
    return report.grid(lines)


def comparisons(differences: dict[str, Any]) -> str:
    """A line for every difference, in points."""
    lines = [["difference", "labels of the target, points", "test, points"]]
    for name, parts in differences.items():
        cells = [percent(Interval(**parts[part]), 2) for part in ("target", "test")]
        lines.append([name, *cells])
    return report.grid(lines)


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    schedules.check_own_batches(config)
    schedules.from_config(config)


main = functools.partial(
    cli.main,
    build,
    validate=validate,
    without=cli.one_process("it runs in one process")
    | {
        "sweep": "its seeds share one program; set num_seeds",
        "profile": "it trains in passing only",
    },
)

if __name__ == "__main__":
    main()
