"""What methods of `tta_images` know about the source's training images, computed when needed."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments.data import images
from experiments.tta_methods import Source
from jaxtrain.host.config import UsageError
from jaxtrain.nets import Classified
from jaxtta import entropy, feature_alignment, itta, label_shift, petal, rmt, streams
from jaxtta.source_features import extracted


def training_images(config: ConfigDict, number: int) -> images.Images:
    """The first `number` training images (0: all) of the classes that the network knows.

    Long-tailed if `source.imbalance` is above 1.
    """
    group = config.data
    data = images.load(
        group.name, "train", group.data_dir, number, size=group.size, download=group.download
    )
    data = data.rows(data.labels < config.model.num_classes)
    if config.source.imbalance == 1:
        return data
    return data.rows(streams.long_tailed_subset(data.labels, config.source.imbalance))


def _batches(data: images.Images, batch_size: int) -> np.ndarray:
    """Images in [0, 1] `[N, B, H, W, C]`; those that fill no batch are left out."""
    size = min(batch_size, len(data.images))
    clean = data.images[: len(data.images) // size * size] / np.float32(255)
    return clean.reshape(-1, size, *clean.shape[1:])


def _features(config: ConfigDict, source: Source) -> tuple[Classified, np.ndarray]:
    """Features and true labels of training images, as `config.features` says."""
    group = config.features
    data = training_images(config, group.num_images)
    batches = _batches(data, group.batch_size)
    found = jax.jit(functools.partial(extracted, source.apply))(
        source.params, source.model_state, batches
    )
    return found, data.labels[: len(found.logits)]


def clean(config: ConfigDict, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Labelled training images in batches, `[N, B, H, W, C]` uint8 and `[N, B]`."""
    group = config.clean
    data = training_images(config, group.num_images)
    size = min(group.batch_size, len(data.images))
    cut = lambda x: x[: len(x) // size * size].reshape(-1, size, *x.shape[1:])
    return cut(data.images), cut(data.labels)


def _scaled(source: Source) -> tuple[np.ndarray, np.ndarray]:
    assert source.clean is not None
    x, y = source.clean
    return x / np.float32(255), y


def prototypes(config: ConfigDict, source: Source) -> jax.Array:
    """Mean feature of every class over the `clean` images, `[C, D]`."""
    mean = functools.partial(rmt.class_prototypes, source.apply, num_classes=source.num_classes)
    return jax.jit(mean)(source.params, source.model_state, *_scaled(source))


def posterior(config: ConfigDict, source: Source) -> petal.Posterior:
    """A Gaussian over the parameters from more source training on the `clean` images."""
    fit = jax.jit(functools.partial(petal.swag_diagonal, source.apply, **config.posterior))
    key = jax.random.key(config.source.seed)
    return fit(source.params, source.model_state, *_scaled(source), key)


def fisher(config: ConfigDict, source: Source) -> Any:
    """The Fisher diagonal from clean training images."""
    group = config.fisher
    data = training_images(config, group.num_images)
    diagonal = jax.jit(functools.partial(entropy.fisher_diagonal, source.apply))
    return diagonal(source.params, source.model_state, _batches(data, group.batch_size))


def label_shift_adapter(config: ConfigDict, source: Source) -> label_shift.Adapter:
    """An adapter of the head, trained on long-tailed training images."""
    group = config.method.label_shift_adapter
    found, labels = _features(config, source)
    try:
        prior = label_shift.prior_of(labels, source.num_classes)
    except ValueError as error:
        raise UsageError(
            f"label_shift_adapter: {error} Raise source.imbalance, or features.num_images."
        ) from error
    fit = jax.jit(
        functools.partial(label_shift.fit, num_steps=group.num_steps, batch_size=group.batch_size)
    )
    key = jax.random.key(config.source.seed)
    return fit(label_shift.head_of(source.params), prior, found.features, labels, key)[0]


def memory(config: ConfigDict, source: Source) -> tuple[jax.Array, np.ndarray]:
    """Features of training images and their true labels."""
    found, labels = _features(config, source)
    return found.features, labels


def gaussians(config: ConfigDict, source: Source) -> feature_alignment.ClassGaussians:
    """Class Gaussians of the features of training images."""
    group = config.method.cafa
    found, labels = _features(config, source)
    fit = jax.jit(
        functools.partial(feature_alignment.class_gaussians, tied=group.tied), static_argnums=2
    )
    return fit(found.features, labels, source.num_classes, ridge=group.ridge)


def consistency(config: ConfigDict, source: Source) -> itta.Chain | None:
    """ITTA's measure of consistency, trained on training images with the network left as it is."""
    group = config.method.itta
    if not group.num_steps:
        return None
    data = training_images(config, config.features.num_images)
    assert source.module is not None
    core = itta.training(
        itta.staged(source.module),
        optax.set_to_zero(),
        optax.adam(group.learning_rate),
        data.images.shape[1:],
    )

    @jax.jit
    def run(key: jax.Array, params: Any, model_state: Any, x: Any, y: Any) -> itta.Chain:
        def body(state: Any, step: jax.Array) -> Any:
            key_index, key_step = jax.random.split(jax.random.fold_in(key, step))
            index = jax.random.randint(key_index, (group.batch_size,), 0, len(x))
            batch = {"inputs": x[index] / jnp.float32(255), "labels": y[index]}
            return core.update(state, batch, key_step)[0], None

        steps = jnp.arange(group.num_steps)
        return jax.lax.scan(body, core.init(params, model_state), steps)[0].head

    key = jax.random.key(config.source.seed)
    return run(key, source.params, source.model_state, data.images, data.labels)


# Field of `Source` -> how it is computed, and for which methods.
STATISTICS: dict[str, tuple[Callable[[ConfigDict, Source], Any], tuple[str, ...]]] = {
    "fisher": (fisher, ("eata",)),
    "clean": (clean, ("rmt", "petal", "vida")),  # before those made from it
    "prototypes": (prototypes, ("rmt",)),
    "posterior": (posterior, ("petal",)),
    "memory": (memory, ("adanpc",)),
    "gaussians": (gaussians, ("cafa",)),
    "consistency": (consistency, ("itta",)),
    "label_shift": (label_shift_adapter, ("label_shift_adapter",)),
}


def with_statistics(config: ConfigDict, source: Source) -> Source:
    """Adds what the chosen methods need and nothing else."""
    for field, (compute, methods) in STATISTICS.items():
        if set(methods) & set(config.methods):
            source = source._replace(**{field: compute(config, source)})
    return source
