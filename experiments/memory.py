"""Sparsey: items written once into a memory of sparse codes, which then knows them and their kin.

Presents images one by one, then measures: are stored items recognised by their own codes, do
similar items have similar codes, are stored items more familiar than new ones, and which label do
codes vote for. With --sweep, seeds (which images, in which order) and the numbers of the rule are
trials of one program; memory.chi=0 draws codes without regard to what is familiar, the control.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from experiments.data.images import loader, sparse
from experiments.lm.by_setting import over_trials, settings_of
from jaxtrain import parallel
from jaxtrain.core import Core, StepOutput
from jaxtrain.host import cli, experiment, report
from jaxtrain.host.config import UsageError
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.parallel import AxisName
from jaxtta.sparsey import (
    Memory,
    Rule,
    Sizes,
    label_of,
    overlap_correlation,
    recognise,
    similarity,
    sparsey,
)

_NUMBERS = ("chi", "threshold", "gamma", "slope", "centre", "freeze")
SWEEPABLE = tuple(f"memory.{name}" for name in _NUMBERS)
SHOWN = ("self_retrieval", "overlap_correlation", "accuracy", "nearest_accuracy", "fill")
FAMILIAR = ("familiarity_stored", "familiarity_novel")
BINS = 20


class Items(NamedTuple):
    """Images as rows of zeros and ones, `[I, N]`, bool, with labels `[I]`, int32."""

    inputs: np.ndarray
    labels: np.ndarray


class Kept(NamedTuple):
    """A memory, and the codes it gave to what it was presented, `[items, M, Q]`."""

    memory: Memory
    winners: Array


def front_end(config: ConfigDict) -> tuple[Items, Items, np.ndarray]:
    """Items to store, items that are new, and what each macrocolumn sees of them."""
    data, front = config.data, config.front
    read = functools.partial(loader.read, data.name, data_dir=data.data_dir)
    parts = [read("train"), read("test")]
    pixels = [_grey(part.images) for part in parts]
    if front.kind == "projection":
        options = {name: front[name] for name in ("num_units", "num_active", "seed")}
        rows = [sparse.projected(x, pixels[0].mean(0), **options) for x in pixels]
        fields = np.arange(front.num_units)[None]
    else:
        height, width, side = front.height, front.width, front.side
        rows = [sparse.strokes(x, height, width) for x in pixels]
        fields = sparse.windows(height, width, front.rows, front.columns, side)
    stored, novel = (
        Items(x, part.labels.astype(np.int32)) for x, part in zip(rows, parts, strict=True)
    )
    number = config.batch_size * config.num_steps
    if number > len(stored.labels):
        raise UsageError(
            f"batch_size={config.batch_size} x num_steps={config.num_steps} are {number} items, "
            f"but {parts[0].provenance} has {len(stored.labels)}"
        )
    few = slice(config.evaluation.num_novel or None)
    return stored, Items(novel.inputs[few], novel.labels[few]), fields


def _grey(images: np.ndarray) -> np.ndarray:
    x = images.mean(-1) if images.ndim == 4 else images
    return x.astype(np.float32) / (255 if images.dtype == np.uint8 else 1)


def rule_of(config: ConfigDict) -> Rule:
    """The rule of the config, whose numbers may be traced."""
    options = config.memory
    return Rule(**{name: options[name] for name in Rule._fields if name in options})


def chosen(seed: Any, available: int, number: int) -> Array:
    """Which items are stored, in their order, `[number]`."""
    return jax.random.permutation(jax.random.fold_in(jax.random.key(0), seed), available)[:number]


def build_core(
    config: ConfigDict, sizes: Sizes, available: int, axis_name: AxisName | None = None
) -> Core:
    """Presents the chosen items, those of a batch after those of the last one."""
    core = sparsey(sizes, rule=rule_of(config), axis_name=axis_name)
    number = config.batch_size * config.num_steps
    shape = number, len(sizes.fields), sizes.num_modules

    def init(key: Array) -> Kept:
        return Kept(core.init(key), jnp.full(shape, -1, jnp.int32))

    def update(state: Kept, batch: Any, key: Array) -> tuple[Kept, StepOutput]:
        inputs, labels, places = batch
        rows = chosen(config.seed, available, number)[state.memory.presented + places]
        given = {"inputs": inputs[rows], "labels": labels[rows]}
        memory, out = core.update(state.memory, given, key)
        codes = parallel.gather(out.outputs.winners, axis_name)
        start = (state.memory.presented, 0, 0)
        winners = jax.lax.dynamic_update_slice(state.winners, codes, start)
        return Kept(memory, winners), out

    return Core(init, update)


def nearest_of(stored: Array, new: Array) -> Array:
    """Which of the stored items `[S, N]` makes the smallest angle with each new one, `[M]`."""
    length = jnp.sqrt(jnp.maximum(stored.sum(1, dtype=jnp.float32), 1))
    return (new.astype(jnp.float32) @ (stored / length[:, None]).T).argmax(1)


def measured(
    state: Kept, config: ConfigDict, key: Array, stored: Items, novel: Items, sizes: Sizes
) -> dict[str, Array]:
    """What one memory knows."""
    memory, rule = state.memory, rule_of(config)
    number = len(state.winners)
    rows = chosen(config.seed, len(stored.labels), number)
    own, names = jnp.asarray(stored.inputs)[rows], jnp.asarray(stored.labels)[rows]
    new, truth = jnp.asarray(novel.inputs), jnp.asarray(novel.labels)

    def known(x: Array, key: Array) -> Any:
        one = lambda given: recognise(memory, sizes, rule, *given)
        return jax.lax.map(one, (x, jax.random.split(key, len(x))), batch_size=32)

    key_own, key_new = jax.random.split(key)
    again, other = known(own, key_own), known(new, key_new)
    votes = jax.vmap(functools.partial(label_of, memory))(other.winners)
    x = own.astype(jnp.float32)
    length = jnp.maximum(x.sum(1), 1)
    nearest = names[nearest_of(x, new)]
    near = (x @ x.T) / jnp.sqrt(length[:, None] * length[None])
    alike = jax.lax.map(lambda w: similarity(w[None], state.winners), state.winners)
    place = jnp.where(jnp.eye(number, dtype=bool), BINS, jnp.clip(near * BINS, 0, BINS - 1))
    count = lambda value: jax.ops.segment_sum(
        value.ravel(), place.astype(jnp.int32).ravel(), num_segments=BINS + 1
    )[:BINS]
    return {
        "self_retrieval": similarity(again.winners, state.winners).mean(),
        "overlap_correlation": overlap_correlation(own, state.winners),
        "accuracy": (votes == truth).mean(dtype=jnp.float32),
        "nearest_accuracy": (nearest == truth).mean(dtype=jnp.float32),
        "familiarity_stored": again.familiarity.mean(),
        "familiarity_novel": other.familiarity.mean(),
        "fill": memory.up.mean(),
        "curve": count(alike) / count(jnp.ones_like(alike)),
        "stored": again.familiarity.mean(-1),
        "novel": other.familiarity.mean(-1),
    }


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """Presents every item once and measures what is known of them, and of new ones."""
    stored, novel, fields = front_end(config)
    options = config.memory
    labels = int(max(stored.labels.max(), novel.labels.max())) + 1
    sizes = Sizes(options.num_modules, options.num_units, fields, labels)
    measure = functools.partial(measured, stored=stored, novel=novel, sizes=sizes)
    every = over_trials(measure, config, setup.sweep)

    def evaluate(run: Finished) -> Results:
        found = jax.device_get(every(run.state, run.key))
        if jax.process_index() == 0:
            draw(found, run)
        return {name: found[name] for name in (*SHOWN, *FAMILIAR)}

    def show(run: Finished, results: Results) -> None:
        rows = [["", *SHOWN, *FAMILIAR]]
        for setting, members in settings_of(run.sweep, "memory").items():
            of = lambda name, members=members: np.atleast_1d(results[name])[members]
            rows.append([setting, *(report.with_interval(of(n), n) for n in rows[0][1:])])
        print(f"\n{report.grid(rows)}", flush=True)

    return Training(
        core=lambda config, axis_name: build_core(config, sizes, len(stored.labels), axis_name),
        arrays=(jnp.asarray(stored.inputs), jnp.asarray(stored.labels)),
        show=("familiarity", "fill"),
        evaluate=evaluate,
        report=show,
    )


def draw(found: dict[str, Any], run: Finished) -> Path:
    """Overlap of codes over that of inputs, and how familiar stored and new items are."""
    stacked = {n: found[n] if run.sweep is not None else found[n][None] for n in found}
    settings = settings_of(run.sweep, "memory")
    with report.figure_style():
        figure = report.new_figure(9, 3.6)
        left, right = figure.subplots(1, 2)
        middle, highest = (np.arange(BINS) + 0.5) / BINS, 0.0
        for i, (setting, members) in enumerate(settings.items()):
            curves = stacked["curve"][members]
            seen = np.isfinite(curves).all(0)
            style = dict(label=setting, color=report.COLORS[i % len(report.COLORS)])
            report.draw_band(left, middle[seen], curves[:, seen].T, **style)
            edges = np.linspace(0, 1, 51)
            for name, fill in (("stored", 0.0), ("novel", 0.35)):
                values = stacked[name][members].ravel()
                look = dict(histtype="stepfilled" if fill else "step", alpha=fill or 1.0)
                label = f"{name}, {setting}"
                right.hist(values, edges, density=True, color=style["color"], label=label, **look)
            novel = np.histogram(stacked["novel"][members].ravel(), edges, density=True)[0]
            highest = max(highest, novel.max())
        left.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle=":")
        left.set(xlabel="share of active features in common", ylabel="share of winners in common")
        left.set_title("similar items, similar codes")
        right.set(xlabel="familiarity G", ylabel="density", title="stored and new items")
        right.set_ylim(0, 1.5 * highest)
        left.legend(fontsize=8)
        right.legend(fontsize=7)
        figure.tight_layout()
        return report.save_figure(figure, run.workdir / "plots" / "memory.png")


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    front, (least, most) = config.front, config.memory.band
    if front.kind == "projection" and front.num_active > front.num_units:
        raise UsageError(
            f"front.num_active={front.num_active} is more than front.num_units={front.num_units}"
        )
    if front.kind == "strokes" and front.side > min(front.height, front.width):
        raise UsageError(
            f"front.side={front.side} is larger than the image of {front.height} x {front.width} "
            "points"
        )
    if least > most:
        raise UsageError(f"memory.band=({least}, {most}) is empty; give the smaller share first")


main = functools.partial(
    cli.main,
    build,
    sweepable=SWEEPABLE,
    validate=validate,
    flags=(experiment.MODE,),
    evaluates=experiment.evaluates,
    may_change=("evaluation",),
)

if __name__ == "__main__":
    main()
