"""Test-time adaptation of image classifiers: methods over one stream of corrupted images.

Every result names its setting, data and source model, and stands beside the unadapted model and
beside adaptation with regular resets. Figures and tables are in plots/ and evaluation/.
"""

import functools
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.data.images import classes, corruptions, loader
from experiments.images import diffusion, methods, own_network, report
from experiments.images.checks import validate
from experiments.images.evaluate import Evaluator, over_stream, placed
from experiments.images.known import Known
from experiments.images.settings import own_settings
from experiments.images.source import Source, build_source, fingerprint
from experiments.images.stream import build_stream, severities, test_images, with_images
from experiments.images.target import target_images
from jaxtrain.host import cli, workdir
from jaxtrain.host.config import UsageError
from jaxtta import streams


def build(config: ConfigDict, setup: cli.Setup) -> cli.Work:
    """The work, with the settings that it reads.

    Raises:
      UsageError: a mode or a mesh that this experiment cannot use.
    """
    if setup.execution.mode != "jit":
        raise UsageError(
            "tta_images runs with --parallel=jit, which splits every batch over the devices; the "
            "methods themselves also run under pmap and shard_map"
        )
    if setup.sweep is not None:
        raise UsageError("tta_images has no --sweep; set num_seeds, or start one run per value")
    if config.stream.window and setup.execution.mesh.size > 1:
        raise UsageError("single images cannot be split over devices; use --config.mesh.data=1")
    return functools.partial(run, own_settings(config))


def run(config: ConfigDict, context: cli.Context) -> dict[str, Any]:
    """Evaluates all methods on all seeds; returns errors and calibration, one value per seed."""
    mesh, builders = context.execution.mesh, methods.chosen(config)

    clean = test_images(config)
    source = build_source(config)
    if own_network.is_own(config.model.name):
        needed = [name for name in methods.STATISTICS_ONLY if name in config.methods]
        own_network.check_own(config, source.apply, source.weights, clean.images, needed)
    shown = target_images(config) if config.data.target else clean
    about = description(config, shown, source)
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)

    known = Known(config, source)
    options = dict(window=config.stream.window, image_shape=source.image_shape)
    evaluators = {
        name: Evaluator(method, mesh, **options)
        for name, method in methods.build_all(builders, source, known).items()
    }
    if set(diffusion.NEEDED_BY) & set(builders) and jax.process_index() == 0:
        diffusion.save_denoiser(context.workdir / "diffusion.npz", known.denoiser)

    rows: list[report.Row] = []
    for seed in about["seeds"]:
        rows += evaluated(config, evaluators, clean, shown, mesh, seed=seed)
        if jax.process_index() == 0:
            report.print_seed(rows, seed)
    if jax.process_index() == 0:
        write(context, rows, about)
    return report.summary(rows)


def description(config: ConfigDict, shown: loader.Images, source: Source) -> dict[str, Any]:
    """What the results are results of."""
    window = config.stream.window
    return {
        "setting": config.stream.setting + (f", window {window}" if window else ""),
        "data": shown.provenance,
        "classes": classes.shown(shown),
        "frost": "photographs" if corruptions.frost_pictures() else "synthetic texture",
        "corruptions": "none" if config.data.target else config.data.corrupted_dir or "made here",
        "source_fingerprint": fingerprint(source),
        "batch_size": config.batch_size,
        "severity": severities(config),
        "seeds": list(range(config.seed, config.seed + config.num_seeds)),
    }


def evaluated(
    config: ConfigDict,
    evaluators: dict[str, Evaluator],
    clean: loader.Images,
    shown: loader.Images,
    mesh: Mesh,
    *,
    seed: int,
) -> list[report.Row]:
    """The row of every method on the stream of one seed, and on the clean images after it."""
    stream, key = build_stream(config, shown.labels, seed), jax.random.key(seed)
    num_known = int((clean.labels >= 0).sum())
    batch_size = config.stream.window or config.batch_size
    once = streams.continual([0], num_known, batch_size, seed)
    parts = (placed(part, mesh) for part in with_images(config, shown, stream, seed))
    rows = []
    for name, done in over_stream(evaluators, parts, key):
        error = evaluators[name].error(done.state, clean, once, key)
        about = dict(data=shown, stream=stream, config=config, clean_error=error)
        rows.append(report.row_of(name, seed, done, **about))
    return rows


def write(context: cli.Context, rows: list[report.Row], about: dict[str, Any]) -> None:
    """Numbers, table and figure of a run."""
    folder = context.workdir
    results = {"about": about, "rows": [row._asdict() for row in rows]}
    workdir.write_json(folder / "evaluation" / "results.json", results)
    table = report.table(rows, about)
    (folder / "evaluation" / "table.txt").write_text(table + "\n")
    print(table)
    report.bar_chart(rows, about, folder / "plots" / "errors.png")


main = functools.partial(cli.main, build, validate=validate)

if __name__ == "__main__":
    main()
