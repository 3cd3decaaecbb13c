"""Test images of `tta_images`, their corruptions, and the order in which a stream shows them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments.data.images import corruptions, loader, published
from experiments.images.source import check_classes
from jaxtrain.host.config import UsageError
from jaxtta import evaluation, streams

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


def severities(config: ConfigDict) -> list[int]:
    """Severity levels the stream visits."""
    if config.data.target:
        return [0]
    return [1, 2, 3, 4, 5] if config.stream.setting == "gradual" else [config.data.severity]


def shift_names(config: ConfigDict) -> tuple[str, ...]:
    """What distinguishes the domains of the stream: its corruptions, or the target that it is."""
    return ("target",) if config.data.target else tuple(config.data.corruptions)


def test_images(config: ConfigDict) -> loader.Images:
    """Test images of the classes the network knows; in open-set streams others after them.

    Their label is -1. They are those of the set that the network has no class for, or, with
    `stream.unknown`, another set.

    Raises:
      UsageError: an open-set stream without images of unknown classes.
    """
    group = config.data
    options = {"size": group.size, "download": group.download}
    data = loader.load(
        group.name,
        "test",
        group.data_dir,
        group.num_images,
        class_file=group.classes,
        **options,
    )
    check_classes(config, data)
    is_known = data.labels < config.model.num_classes
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
    return [(name, severity) for name in shift_names(config) for severity in severities(config)]


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
                group.corrupted_dir,
                name,
                severity,
                clean,
                of=group.name,
                data_dir=group.data_dir,
                download=group.download,
            )
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
    shifts = list(range(len(shift_names(config))))
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
            labels,
            shifts,
            size,
            seed,
            factor=max(group.imbalance, 1 / group.imbalance),
            backward=group.imbalance < 1,
        )
    else:
        reset = group.setting == "reset_each_shift"
        stream = streams.continual(shifts, number, size, seed, reset=reset)
    return streams.rounds(stream, group.rounds)


class Part(NamedTuple):
    """Successive batches of a stream whose images are in memory together.

    Attributes:
      images: `[domains, N, size, size, 3]`.
      stream: with domains counted within `images`.
      first: number of batches before.
      is_last: whether the stream ends with it.
    """

    images: np.ndarray
    stream: streams.Stream
    first: int
    is_last: bool


def with_images(
    config: ConfigDict, clean: loader.Images, stream: streams.Stream, seed: int
) -> Iterator[Part]:
    """The `parts` of a stream one after the other, each with its images."""
    pieces, num_batches = parts(config, clean, stream), 0
    for number, piece in enumerate(pieces, 1):
        domains = domains_of(config)
        if len(pieces) > 1:
            domains = [domains[piece.domain[0, 0]]]
            piece = piece._replace(domain=np.zeros_like(piece.domain))
        pixels = corrupted(config, clean, seed, domains)
        evaluation.check_images(pixels)
        yield Part(pixels, piece, num_batches, number == len(pieces))
        num_batches += len(piece.reset)
