"""Test-time adaptation of image classifiers: methods over one stream of corrupted images.

Every result names its setting, data and source model, and stands beside the unadapted model and
beside adaptation with regular resets. Figures and tables are in plots/ and evaluation/.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from experiments.data.images import corruptions, loader, published
from experiments.images import methods, report, statistics
from experiments.images.compiled import compiled
from experiments.images.methods import BASELINES, Source
from jaxtrain import core as core_
from jaxtrain import nets
from jaxtrain.host import arrays, cli, workdir
from jaxtrain.host.config import UsageError
from jaxtrain.nets import torch_weights
from jaxtta import evaluation, scores, streams

NETWORKS = {
    "cifar_resnet": (nets.cifar_resnet, torch_weights.CIFAR_RESNET),
    "wide_resnet": (nets.wide_resnet, torch_weights.WIDE_RESNET),
    "resnet26_gn": (nets.resnet26_gn, torch_weights.RESNET26_GN),
    "resnext29": (nets.resnext29, torch_weights.RESNEXT29),
    "vit": (nets.ViT, torch_weights.TIMM_VIT),
    "resnet18": (nets.resnet18, torch_weights.TORCHVISION_RESNET),
    "resnet50": (nets.resnet50, torch_weights.TORCHVISION_RESNET),
    "vit_small": (nets.vit_small, torch_weights.TIMM_VIT),
    "vit_base": (nets.vit_base, torch_weights.TIMM_VIT),
}
TRANSFORMERS = ("vit", "vit_small", "vit_base")
SETTINGS = (
    "reset_each_shift",
    "continual",
    "gradual",
    "mixed_domains",
    "correlated",
    "label_shift",
    "long_tailed",
    "open_set",
)


# --- Source model ---------------------------------------------------------------------------------


def trained(config: ConfigDict, module: nets.ResNet, data: loader.Images) -> tuple[Any, Any]:
    """A source model trained here for `source.num_steps` steps of Adam, in one scan."""

    def loss(outputs: Any, batch: Any) -> Any:
        labels = batch["labels"]
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
        return losses.mean(), {}

    options = config.source
    optimizer = optax.adam(optax.cosine_decay_schedule(options.learning_rate, options.num_steps))
    core = core_.supervised(nets.from_linen(module), loss, optimizer)

    @jax.jit
    def run(key: jax.Array, x: jax.Array, y: jax.Array) -> Any:
        key_init, key_run = jax.random.split(key)
        example = {"inputs": jnp.zeros((1, *x.shape[1:]))}

        def body(state: Any, step: jax.Array) -> Any:
            key = jax.random.fold_in(key_run, step)
            index = jax.random.randint(key, (options.batch_size,), 0, len(x))
            batch = {"inputs": x[index] / jnp.float32(255), "labels": y[index]}
            return core.update(state, batch, key)[0], None

        state, _ = jax.lax.scan(body, core.init(key_init, example), jnp.arange(options.num_steps))
        return state.params, state.model_state

    return run(jax.random.key(options.seed), data.images, data.labels)


def build_source(config: ConfigDict) -> tuple[Source, str]:
    """The source model and its fingerprint.

    Raises:
      UsageError: the weights are missing or do not fit.
    """
    group = config.model
    make, naming = NETWORKS[group.name]
    module = make(**group[group.name].to_dict(), num_classes=group.num_classes)
    if group.weights:
        path = loader.find(group.weights, config.data.data_dir)
        if path is None:
            raise UsageError(
                f"model.weights={group.weights!r} was not found; give the path of an npz or "
                "safetensors file with a PyTorch state_dict, or model.weights='' to train a source "
                "model first"
            )
        example = jax.ShapeDtypeStruct((1, config.data.size, config.data.size, 3), jnp.float32)
        expected = jax.eval_shape(nets.from_linen(module).init, jax.random.key(0), example)
        given = arrays.read(path)
        try:
            weights = nets.import_torch(given, *expected, naming)
        except ValueError as error:
            raise UsageError(f"{path.name}: {error}") from error
    else:
        data = statistics.training_images(config, config.source.num_images)
        weights = trained(config, module, data)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(weights):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    source = Source(
        nets.classifier(module),
        *weights,
        group.num_classes,
        module=module,
        size=config.data.size,
    )
    return source, digest.hexdigest()[:16]


# --- Test data ------------------------------------------------------------------------------------


def severities(config: ConfigDict) -> list[int]:
    """Severity levels the stream visits."""
    return [1, 2, 3, 4, 5] if config.stream.setting == "gradual" else [config.data.severity]


def test_images(config: ConfigDict) -> loader.Images:
    """Test images of the classes the network knows; in open-set streams others after them.

    Their label is -1. They are those of the set that the network has no class for, or, with
    `stream.unknown`, another set.

    Raises:
      UsageError: an open-set stream without images of unknown classes.
    """
    group = config.data
    options = {"size": group.size, "download": group.download}
    data = loader.load(group.name, "test", group.data_dir, group.num_images, **options)
    is_known = data.labels < config.model.num_classes
    if group.corrupted_dir and not is_known.all():
        raise UsageError(
            f"data.corrupted_dir holds images of all classes, but model.num_classes="
            f"{config.model.num_classes} are fewer than {data.provenance} has"
        )
    known = data.rows(is_known)
    if config.stream.setting != "open_set":
        return known
    if config.stream.unknown:
        other = loader.load(
            config.stream.unknown, "test", group.data_dir, group.num_images, **options
        )
        unknown, source = other.images, other.provenance
    else:
        unknown, source = data.images[~is_known], "the same set"
    if not len(unknown):
        raise UsageError(
            "stream.setting=open_set but there is no image of an unknown class; lower "
            "model.num_classes, or name another set in stream.unknown"
        )
    labels = np.concatenate([known.labels, np.full(len(unknown), -1)])
    about = f"{known.provenance}, unknown classes from {source}"
    return loader.Images(np.concatenate([known.images, unknown]), labels, about)


def domains_of(config: ConfigDict) -> list[tuple[str, int]]:
    """Corruption and severity of every domain: corruption by corruption, severities inside."""
    return [(name, severity) for name in config.data.corruptions for severity in severities(config)]


def corrupted(
    config: ConfigDict, clean: loader.Images, seed: int, domains: Sequence[tuple[str, int]]
) -> np.ndarray:
    """The images of these domains, `[domains, N, size, size, 3]`."""
    group = config.data

    def one(name: str, severity: int) -> np.ndarray:
        if not severity:
            return clean.images
        if group.corrupted_dir:
            return published.read(
                group.corrupted_dir, name, severity, clean, group.name, group.data_dir,
                download=group.download,
            )  # fmt: skip
        return corruptions.corrupt(clean.images, name, severity, seed)

    return np.stack([one(*domain) for domain in domains])


def parts(config: ConfigDict, clean: loader.Images, stream: streams.Stream) -> list[streams.Stream]:
    """The stream in parts whose images fit `data.memory_gb` at a time: whole, or domain by domain.

    Raises:
      UsageError: not even one domain fits, or batches mix domains.
    """
    one, limit = clean.images.nbytes / 1e9, config.data.memory_gb
    number = len(domains_of(config))
    if number * one <= limit:
        return [stream]
    if one > limit:
        raise UsageError(
            f"{len(clean.images)} images of {config.data.size} pixels take {one:.1f} GB; lower "
            f"data.num_images or raise data.memory_gb={limit}"
        )
    first = stream.domain[:, :1]
    if (stream.mask & (stream.domain != first)).any():
        raise UsageError(
            f"batches of stream.setting={config.stream.setting} mix {number} domains, which take "
            f"{number * one:.1f} GB together; lower data.num_images or raise "
            f"data.memory_gb={limit}"
        )
    cuts = np.flatnonzero(np.diff(first[:, 0])) + 1
    pieces = [np.split(x, cuts) for x in stream]
    return [streams.Stream(*piece) for piece in zip(*pieces, strict=True)]


def build_stream(config: ConfigDict, labels: np.ndarray, seed: int) -> streams.Stream:
    """The stream of `config.stream` for one seed."""
    group, number = config.stream, len(labels)
    shifts = list(range(len(config.data.corruptions)))
    if group.order >= 0:
        shifts = list(streams.ORDERS[group.order])
    size = config.batch_size
    if group.setting == "gradual":
        stream = streams.gradual(shifts, number, size, seed, first_falls=group.first_falls)
    elif group.setting == "mixed_domains":
        stream = streams.mixed_domains(shifts, number, size, seed)
    elif group.setting == "correlated":
        concentration = group.concentration
        stream = streams.correlated(labels, shifts, size, seed, concentration=concentration)
    elif group.setting == "label_shift":
        stream = streams.label_shift(labels, shifts, size, seed, ratio=group.ratio)
    elif group.setting == "open_set":
        known = int((labels >= 0).sum())
        stream = streams.open_set(known, number - known, shifts, size, seed)
    elif group.setting == "long_tailed":
        stream = streams.long_tailed(
            labels, shifts, size, seed, factor=group.imbalance, backward=group.backward
        )
    else:
        reset = group.setting == "reset_each_shift"
        stream = streams.continual(shifts, number, size, seed, reset=reset)
    return streams.rounds(stream, group.rounds)


# --- Run ------------------------------------------------------------------------------------------


def validate(config: ConfigDict) -> None:
    """Raises UsageError for impossible settings."""
    if config.model.name not in NETWORKS:
        raise UsageError(f"model.name={config.model.name!r}; known are {', '.join(NETWORKS)}")
    for field, name in (("data.name", config.data.name), ("stream.unknown", config.stream.unknown)):
        if name and not loader.is_known(name):
            raise UsageError(f"{field}={name!r}; known are {loader.KNOWN}")
    if config.stream.setting not in SETTINGS:
        raise UsageError(
            f"stream.setting={config.stream.setting!r}; the settings are {', '.join(SETTINGS)}"
        )
    unknown = set(config.data.corruptions) - corruptions.CORRUPTIONS.keys()
    if unknown or not config.data.corruptions:
        raise UsageError(
            f"data.corruptions={tuple(config.data.corruptions)} must be some of "
            f"{', '.join(corruptions.CORRUPTIONS)}"
        )
    if config.data.corrupted_dir and config.stream.setting == "open_set":
        raise UsageError(
            "data.corrupted_dir holds no images of unknown classes; with an open-set stream leave "
            "it empty"
        )
    if not config.data.corrupted_dir and config.data.size != 32 and any(severities(config)):
        raise UsageError(
            f"corruptions made here have the constants of 32 x 32 images; for "
            f"data.size={config.data.size} name the folder of published ones in "
            "data.corrupted_dir, or choose data.severity=0"
        )
    if not 0 <= config.data.severity <= 5:
        raise UsageError(f"data.severity={config.data.severity} must be 0 (clean) to 5")
    if config.stream.order >= 0 and tuple(config.data.corruptions) != corruptions.STANDARD:
        raise UsageError("stream.order needs the 15 standard corruptions in their usual order")
    if config.stream.order >= len(streams.ORDERS):
        raise UsageError(f"stream.order={config.stream.order} must be below {len(streams.ORDERS)}")
    if config.num_seeds < 1 or config.stream.rounds < 1:
        raise UsageError("num_seeds and stream.rounds must be at least 1")
    if config.stream.setting == "open_set" and config.batch_size % 2:
        raise UsageError(
            f"open-set batches are half and half; batch_size={config.batch_size} is odd"
        )
    if config.stream.window < 0 or (config.stream.window and config.batch_size != 1):
        raise UsageError(
            f"stream.window={config.stream.window} must be 0, or the size of a window over single "
            "images with batch_size=1"
        )
    if min(config.source.imbalance, config.stream.imbalance) < 1:
        raise UsageError("source.imbalance and stream.imbalance must be at least 1 (balanced)")
    if "label_shift_adapter" in config.methods and config.source.imbalance == 1:
        raise UsageError(
            "label_shift_adapter needs a source model trained on a long-tailed set; say how long "
            "the tail is with source.imbalance"
        )
    for name in (*config.methods, *config.rescored):
        if name not in methods.METHODS:
            raise UsageError(f"unknown method {name!r}; known are {', '.join(methods.METHODS)}")
    is_transformer = config.model.name in TRANSFORMERS
    if is_transformer and (wrong := {"nhl", "itta"} & set(config.methods)):
        raise UsageError(
            f"methods holds {', '.join(sorted(wrong))}, which need the stages of a residual "
            f"network, but model.name is {config.model.name}"
        )
    network = config.model[config.model.name]
    if is_transformer and config.data.size % network.patch:
        raise UsageError(
            f"data.size={config.data.size} does not divide into patches of "
            f"model.{config.model.name}.patch={network.patch}"
        )
    groups = network.get("groups", 0)
    channels = 64 if config.model.name in ("resnet18", "resnet50") else 16
    if groups < 0 or (groups and channels % groups):
        raise UsageError(
            f"model.{config.model.name}.groups={groups} must divide the {channels} channels of the "
            "first layer"
        )
    if (groups or is_transformer) and (wrong := set(methods.STATISTICS_ONLY) & set(config.methods)):
        raise UsageError(
            f"methods holds {', '.join(sorted(wrong))}, which choose the statistics of batch norm, "
            f"but this {config.model.name} has none: they would be the source model"
        )
    if "adanpc" in config.methods and 0 < config.method.adanpc.growth < config.batch_size:
        raise UsageError("method.adanpc.growth must be 0 or at least batch_size")
    if wrong := set(config.rescored) - set(methods.RESCORED):
        raise UsageError(
            f"rescored holds {', '.join(sorted(wrong))}, but a second pass makes sense for "
            f"{', '.join(methods.RESCORED)}"
        )
    if set(statistics.DIFFUSION) & set(config.methods):
        statistics.validate_diffusion(config)
    for group in config.method.values():
        if "optimizer" in group:
            methods.build_optimizer(group)


def run(config: ConfigDict, context: cli.Context) -> dict[str, Any]:
    """Evaluates all methods on all seeds; returns errors and calibration, one value per seed."""
    if context.execution.mode != "jit":
        raise UsageError(
            "tta_images runs with --parallel=jit, which splits every batch over the devices; the "
            "methods themselves also run under pmap and shard_map"
        )
    mesh = context.execution.mesh
    window = config.stream.window
    if window and mesh.size > 1:
        raise UsageError("single images cannot be split over devices; use --config.mesh.data=1")
    clean = test_images(config)
    source, fingerprint = build_source(config)
    source = statistics.with_statistics(config, source)
    if source.denoiser is not None and jax.process_index() == 0:
        statistics.save_denoiser(context.workdir / "diffusion.npz", source.denoiser)
    whole = NamedSharding(mesh, P())
    split = NamedSharding(mesh, P(None, "data"))
    shards = streams.Stream(split, split, split, whole)
    names = list(dict.fromkeys((*BASELINES, *config.methods)))
    about = {
        "setting": config.stream.setting + (f", window {window}" if window else ""),
        "data": clean.provenance,
        "frost": "photographs" if corruptions.frost_pictures() else "synthetic texture",
        "corruptions": config.data.corrupted_dir or "made here",
        "source_fingerprint": fingerprint,
        "batch_size": config.batch_size,
        "severity": severities(config),
        "seeds": list(range(config.seed, config.seed + config.num_seeds)),
    }
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)

    weights = jax.device_put((source.params, source.model_state), whole)
    cores = {name: methods.build(config, name, source) for name in names}
    streamed = {
        name: methods.over_window(core, window, config.data.size) for name, core in cores.items()
    }
    starts = {name: compiled(core.init, whole) for name, core in streamed.items()}
    evaluators = {
        name: compiled(functools.partial(evaluation.continued, core), whole)
        for name, core in streamed.items()
    }
    predictors = {
        name: compiled(functools.partial(evaluation.predict, core), whole)
        for name, core in cores.items()
    }
    found: list[report.Row] = []
    for seed in about["seeds"]:
        stream = build_stream(config, clean.labels, seed)
        num_known = int((clean.labels >= 0).sum())
        whole_set = streams.continual([0], num_known, window or config.batch_size, seed)
        key = jax.random.key(seed)
        place = lambda pixels, part: (jax.device_put(pixels, whole), jax.device_put(part, shards))
        start = lambda name: starts[name](*weights)
        proceed = lambda name, state, data, first, key=key: evaluators[name](
            weights, state, *data, key, first
        )
        for name, done in evaluations(config, names, clean, seed, stream, place, start, proceed):
            after = metrics_after(
                predictors[name],
                done.state.state if window else done.state,
                clean,
                whole_set,
                key,
                shards,
                whole,
            )
            found.append(report.row_of(name, seed, done, clean, stream, config, after))
        if jax.process_index() == 0:
            report.print_seed(found, seed)
    results = report.summary(found)
    if jax.process_index() == 0:
        folder = context.workdir
        workdir.write_json(
            folder / "evaluation" / "results.json",
            {"about": about, "rows": [r._asdict() for r in found]},
        )
        table = report.table(found, about)
        (folder / "evaluation" / "table.txt").write_text(table + "\n")
        print(table)
        report.bar_chart(found, about, folder / "plots" / "errors.png")
    return results


def evaluations(
    config: ConfigDict,
    names: Sequence[str],
    clean: loader.Images,
    seed: int,
    stream: streams.Stream,
    place: Callable[[np.ndarray, streams.Stream], Any],
    start: Callable[[str], Any],
    proceed: Callable[[str, Any, Any, int], evaluation.Evaluation],
) -> Iterator[tuple[str, evaluation.Evaluation]]:
    """Every method over the whole stream, whose images are there part by part.

    Args:
      config, names, clean, seed, stream: what to evaluate.
      place: brings images and a part of the stream to the devices.
      start: first state of a method.
      proceed: evaluates `(name, state, what place returned, number of batches before)`.
    """
    scored: dict[str, list[evaluation.Evaluation]] = {name: [] for name in names}
    states: dict[str, Any] = {}
    pieces, num_batches = parts(config, clean, stream), 0
    for number, piece in enumerate(pieces, 1):
        domains = domains_of(config)
        if len(pieces) > 1:
            domains = [domains[piece.domain[0, 0]]]
            piece = piece._replace(domain=np.zeros_like(piece.domain))
        pixels = corrupted(config, clean, seed, domains)
        evaluation.check_images(pixels)
        data = place(pixels, piece)
        for name in names:
            state = states.pop(name) if name in states else start(name)
            done = proceed(name, state, data, num_batches)
            scored[name].append(jax.device_get(done._replace(state=None)))
            if number < len(pieces):
                states[name] = done.state
            else:
                together = jax.tree.map(lambda *x: np.concatenate(x), *scored.pop(name))
                yield name, together._replace(state=done.state)
        num_batches += len(piece.reset)


def metrics_after(
    predict: Any,
    state: Any,
    clean: loader.Images,
    stream: streams.Stream,
    key: jax.Array,
    shards: Any,
    whole: NamedSharding,
) -> float:
    """Error on the clean images with the state after the stream, left as it is."""
    pixels = jax.device_put(clean.images[None], whole)
    logits = np.asarray(predict(state, pixels, jax.device_put(stream, shards), key))
    return scores.scores_by_domain(logits, clean.labels, stream)[0]["error"]


main = functools.partial(cli.main, cli.unbound(run), validate=validate)

if __name__ == "__main__":
    main()
