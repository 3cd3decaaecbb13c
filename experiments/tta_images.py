"""Test-time adaptation of image classifiers: methods over one stream of corrupted images.

Every result names its setting, data and source model, and stands beside the unadapted model, beside
adaptation with regular resets and beside the controls of its method. Figures and tables are in
plots/ and evaluation/.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.data.images import classes, corruptions, loader
from experiments.images import diffusion, methods, own_network, report
from experiments.images.checks import validate
from experiments.images.controls import with_controls
from experiments.images.evaluate import Evaluator, over_stream, placed
from experiments.images.known import Known
from experiments.images.settings import own_settings
from experiments.images.source import Source, build_source, fingerprint
from experiments.images.stream import build_stream, severities, test_images, with_images
from experiments.images.target import target_images
from experiments.images.trials import SWEEPABLE, Trial, read_row, save_row, trials_of
from jaxtrain.host import cli, files
from jaxtrain.host.config import UsageError
from jaxtrain.host.loop import Preempted
from jaxtrain.host.signals import stop_signals
from jaxtta import streams


def build(config: ConfigDict, setup: cli.Setup) -> cli.Work:
    """The work, with the settings that it reads.

    Raises:
      UsageError: a mode, a mesh or a sweep that this experiment cannot use.
    """
    if setup.execution.mode != "jit":
        raise UsageError(
            "tta_images runs with --parallel=jit, which splits every batch over the devices; the "
            "methods themselves also run under pmap and shard_map"
        )
    if jax.process_count() > 1:
        raise UsageError("tta_images runs in one process; start one")
    if config.stream.window and setup.execution.mesh.size > 1:
        raise UsageError("single images cannot be split over devices; use --config.mesh.data=1")
    config = own_settings(config)
    return functools.partial(run, config, trials_of(config, setup.sweep))


def run(config: ConfigDict, trials: list[Trial], context: cli.Context) -> dict[str, Any]:
    """Evaluates all methods in all trials; returns errors and calibration, one value per seed, or
    in a sweep one per trial, the mean over its seeds.

    What was trained and the rows that are done lie in `checkpoints` for a later start of the run.
    """
    saved = context.workdir / "checkpoints"
    clean = test_images(config)
    source = build_source(config, saved)
    if own_network.is_own(config.model.name):
        needed = [name for name in methods.STATISTICS_ONLY if name in config.methods]
        own_network.check_own(config, source.apply, source.weights, clean.images, needed)
    shown = target_images(config) if config.data.target else clean
    about = description(config, shown, source)
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)

    known, every = Known(config, source, saved), {}
    for settings in {id(trial.config): trial.config for trial in trials}.values():
        build = functools.cache(
            functools.partial(build_evaluators, settings, source, known, context)
        )
        for trial in (trial for trial in trials if trial.config is settings):
            if trial.about:
                print(
                    ", ".join(f"{name}={value}" for name, value in trial.about.items()), flush=True
                )
            rows: list[report.Row] = []
            for seed in trial.seeds:
                folder = saved / "rows" / trial.folder / str(seed)
                mesh = context.execution.mesh
                rows += evaluated(settings, build, clean, shown, mesh, seed=seed, folder=folder)
                report.print_seed(rows, seed)
            write(
                context.workdir / trial.folder, rows, about | {"seeds": trial.seeds} | trial.about
            )
            every[trial.folder] = report.summary(rows)
    if not trials[0].about:
        return every[""]
    return over_seeds([every[trial.folder] for trial in trials])


def over_seeds(trials: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One value per trial, the mean over its seeds."""
    return {name: np.array([np.mean(trial[name]) for trial in trials]) for name in trials[0]}


def build_evaluators(
    config: ConfigDict, source: Source, known: Known, context: cli.Context
) -> dict[str, Evaluator]:
    """Every method of a trial, with what it needs to know of the source."""
    builders, mesh = with_controls(config), context.execution.mesh
    options = dict(window=config.stream.window, image_shape=source.image_shape)
    evaluators = {
        name: Evaluator(method, mesh, **options)
        for name, method in methods.build_all(builders, source, known).items()
    }
    if set(diffusion.NEEDED_BY) & set(builders):
        diffusion.save_denoiser(context.workdir / "diffusion.npz", known.denoiser)
    return evaluators


def description(config: ConfigDict, shown: loader.Images, source: Source) -> dict[str, Any]:
    """What the results are results of."""
    window = config.stream.window
    return {
        "setting": config.stream.setting + (f", window {window}" if window else ""),
        "data": shown.provenance,
        "classes": classes.shown(shown),
        **({} if shown.has_labels else {"labels": "none, so errors and calibration are missing"}),
        "frost": "photographs" if corruptions.frost_pictures() else "synthetic texture",
        "corruptions": "none" if config.data.target else config.data.corrupted_dir or "made here",
        "source_fingerprint": fingerprint(source),
        "batch_size": config.batch_size,
        "severity": severities(config),
        "seeds": list(range(config.seed, config.seed + config.num_seeds)),
    }


def evaluated(
    config: ConfigDict,
    build: Callable[[], dict[str, Evaluator]],
    clean: loader.Images,
    shown: loader.Images,
    mesh: Mesh,
    *,
    seed: int,
    folder: Path,
) -> list[report.Row]:
    """The row of every method on the stream of one seed, and on the clean images after it.

    Rows are kept in `folder`; those that are there are not computed again.

    Raises:
      Preempted: a signal asked to stop; the rows until then are kept.
    """
    names = list(with_controls(config))
    rows = {name: row for name in names if (row := read_row(folder / f"{name}.json"))}
    missing = [name for name in names if name not in rows]
    with stop_signals() as caught:
        for row in computed(config, build, clean, shown, mesh=mesh, seed=seed, names=missing):
            save_row(folder / f"{row.method}.json", row)
            rows[row.method] = row
            if caught:
                break
    if caught:
        raise Preempted(len(rows), saved=True, of=f"{len(names)} methods on seed {seed}")
    return [rows[name] for name in names]


def computed(
    config: ConfigDict,
    build: Callable[[], dict[str, Evaluator]],
    clean: loader.Images,
    shown: loader.Images,
    *,
    mesh: Mesh,
    seed: int,
    names: list[str],
) -> Iterator[report.Row]:
    """The rows of these methods."""
    if not names:
        return
    stream, key = build_stream(config, shown.labels, seed), jax.random.key(seed)
    num_known = int((clean.labels >= 0).sum())
    batch_size = config.stream.window or config.batch_size
    once = streams.continual([0], num_known, batch_size, seed)
    parts = (placed(part, mesh) for part in with_images(config, shown, stream, seed))
    evaluators = {name: build()[name] for name in names}
    for name, done in over_stream(evaluators, parts, key):
        error = evaluators[name].error(done.state, clean, once, key)
        about = dict(data=shown, stream=stream, config=config, clean_error=error)
        yield report.row_of(name, seed, done, **about)


def write(folder: Path, rows: list[report.Row], about: dict[str, Any]) -> None:
    """Numbers, table and figure of a trial."""
    results = {"about": about, "rows": [row._asdict() for row in rows]}
    files.write_json(folder / "evaluation" / "results.json", results)
    table = report.table(rows, about)
    files.write_text(folder / "evaluation" / "table.txt", table + "\n")
    print(table)
    if "labels" not in about:
        report.bar_chart(rows, about, folder / "plots" / "errors.png")


main = functools.partial(
    cli.main,
    build,
    sweepable=SWEEPABLE,
    validate=validate,
    without=cli.one_process("it runs in one process")
    | {
        "profile": "it trains in passing only; python -m benchmarks.tta times methods",
    },
)

if __name__ == "__main__":
    main()
