"""What methods of `tta_images` know about the source's training images, computed when needed."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments.data.images import loader
from experiments.images.methods import Denoiser, Source
from jaxtrain import trees
from jaxtrain.core import with_ema
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError
from jaxtrain.nets import Classified, UNet
from jaxtta import adaptation, streams
from jaxtta.images import denoising, entropy, label_shift
from jaxtta.images.cafa import ClassGaussians, class_gaussians
from jaxtta.images.itta import Chain, staged, training
from jaxtta.images.petal import Posterior, swag_diagonal
from jaxtta.images.rmt import class_prototypes
from jaxtta.images.sda import COMBINATIONS, Projection, diffusion_projection, tuned
from jaxtta.images.sda import synthetic as synthetic_domain_synthetic
from jaxtta.images.source_features import extracted


def training_images(config: ConfigDict, number: int) -> loader.Images:
    """The first `number` training images (0: all) of the classes that the network knows.

    Long-tailed if `source.imbalance` is above 1.
    """
    group = config.data
    data = loader.load(
        group.name, "train", group.data_dir, number, size=group.size, download=group.download
    )
    data = data.rows(data.labels < config.model.num_classes)
    if config.source.imbalance == 1:
        return data
    return data.rows(streams.long_tailed_subset(data.labels, config.source.imbalance))


def _batches(data: loader.Images, batch_size: int) -> np.ndarray:
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
    mean = functools.partial(class_prototypes, source.apply, num_classes=source.num_classes)
    return jax.jit(mean)(source.params, source.model_state, *_scaled(source))


def posterior(config: ConfigDict, source: Source) -> Posterior:
    """A Gaussian over the parameters from more source training on the `clean` images."""
    fit = jax.jit(functools.partial(swag_diagonal, source.apply, **config.posterior))
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


def gaussians(config: ConfigDict, source: Source) -> ClassGaussians:
    """Class Gaussians of the features of training images."""
    group = config.method.cafa
    found, labels = _features(config, source)
    fit = jax.jit(functools.partial(class_gaussians, tied=group.tied), static_argnums=2)
    return fit(found.features, labels, source.num_classes, ridge=group.ridge)


def consistency(config: ConfigDict, source: Source) -> Chain | None:
    """ITTA's measure of consistency, trained on training images with the network left as it is."""
    group = config.method.itta
    if not group.num_steps:
        return None
    data = training_images(config, config.features.num_images)
    assert source.module is not None
    core = training(
        staged(source.module),
        optax.set_to_zero(),
        optax.adam(group.learning_rate),
        data.images.shape[1:],
    )

    @jax.jit
    def run(key: jax.Array, params: Any, model_state: Any, x: Any, y: Any) -> Chain:
        def body(state: Any, step: jax.Array) -> Any:
            key_index, key_step = jax.random.split(jax.random.fold_in(key, step))
            index = jax.random.randint(key_index, (group.batch_size,), 0, len(x))
            batch = {"inputs": x[index] / jnp.float32(255), "labels": y[index]}
            return core.update(state, batch, key_step)[0], None

        steps = jnp.arange(group.num_steps)
        return jax.lax.scan(body, core.init(params, model_state), steps)[0].head

    key = jax.random.key(config.source.seed)
    return run(key, source.params, source.model_state, data.images, data.labels)


def unet(config: ConfigDict) -> UNet:
    """The network of the diffusion model."""
    return UNet(**config.diffusion.network, num_classes=config.model.num_classes)


def _abstract(network: UNet, size: int) -> Any:
    """Shapes of its parameters."""
    example = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    times = jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.eval_shape(network.init, jax.random.key(0), example, times)["params"]


def validate_diffusion(config: ConfigDict) -> None:
    """Raises UsageError for impossible networks, projections and synthetic sets."""
    group = config.method.sda
    try:
        _abstract(unet(config), config.data.size)
        _projection(config, lambda x, times: x)
        denoising.respaced(group.sampling_steps)
    except ValueError as error:
        raise UsageError(f"diffusion, projection or method.sda: {error}") from error
    kinds = {config.method[name].combination for name in ("dda", "sda")}
    if wrong := kinds - set(COMBINATIONS):
        raise UsageError(
            f"combination is {', '.join(wrong)}; it is one of {', '.join(COMBINATIONS)}"
        )
    if group.images not in ("synthetic", "training"):
        raise UsageError(f"method.sda.images is {group.images!r}; it is synthetic or training")
    if not 1 <= group.batch_size <= group.num_images:
        raise UsageError(
            f"method.sda.num_images={group.num_images} must fill a batch, "
            f"method.sda.batch_size={group.batch_size}"
        )


def denoiser(config: ConfigDict, source: Source) -> Denoiser:
    """A diffusion model of the training images: read, or trained here in one scan."""
    group, network = config.diffusion, unet(config)
    if group.weights:
        expected = _abstract(network, config.data.size)
        return Denoiser(network.apply, read_denoiser(group.weights, config.data.data_dir, expected))
    data = training_images(config, group.num_images)
    core = with_ema(
        denoising.training(network, optax.adam(group.learning_rate), drop_labels=group.drop_labels),
        group.ema_decay,
    )

    @jax.jit
    def run(key: jax.Array, x: jax.Array, y: jax.Array) -> Any:
        def batch_of(index: jax.Array) -> dict[str, jax.Array]:
            return {"inputs": x[index] / jnp.float32(255), "labels": y[index]}

        def body(state: Any, step: jax.Array) -> Any:
            key_index, key_step = jax.random.split(jax.random.fold_in(key, step))
            index = jax.random.randint(key_index, (group.batch_size,), 0, len(x))
            state, out = core.update(state, batch_of(index), key_step)
            return state, out.metrics["loss"]

        start = core.init(key, batch_of(jnp.arange(1)))
        state, losses = jax.lax.scan(body, start, jnp.arange(group.num_steps))
        return state.ema, losses[-(group.num_steps // 10 + 1) :].mean()

    params, loss = run(jax.random.key(config.source.seed), data.images, data.labels)
    print(f"diffusion model: {trees.size(params)} parameters, loss {loss:.4f}", flush=True)
    return Denoiser(network.apply, params)


def save_denoiser(path: Path, found: Denoiser) -> None:
    """Writes the parameters by name, for `config.diffusion.weights`."""
    leaves = map(np.asarray, jax.tree.leaves(found.params))
    arrays.write(path, dict(zip(trees.path_names(found.params), leaves, strict=True)))


def read_denoiser(name: str, data_dir: str, expected: Any) -> Any:
    """Parameters that `save_denoiser` wrote, in the shapes of `expected`.

    Raises:
      UsageError: there is no such file, or it is of another network.
    """
    path = loader.find(name, data_dir)
    if path is None:
        raise UsageError(
            f"diffusion.weights={name!r} was not found; diffusion.weights='' trains a model first"
        )
    given = arrays.read(path)
    if trees.describe(expected) != {k: (v.shape, str(v.dtype)) for k, v in given.items()}:
        raise UsageError(f"{path.name} holds another network than diffusion.network describes")
    leaves = [jnp.asarray(given[k]) for k in trees.path_names(expected)]
    return jax.tree.unflatten(jax.tree.structure(expected), leaves)


def _projection(config: ConfigDict, predict_noise: denoising.NoiseFn) -> Projection:
    group = config.projection
    return diffusion_projection(
        predict_noise,
        diffusion=denoising.respaced(group.num_steps),
        start=group.start,
        factor=group.factor,
        strength=group.strength,
    )


def project(config: ConfigDict, source: Source) -> Projection:
    """DDA's projection by the diffusion model, without labels."""
    assert source.denoiser is not None
    return _projection(config, source.denoiser)


def synthetic(config: ConfigDict, source: Source) -> tuple[Any, Any]:
    """The source model tuned to projected images of the diffusion model, as many of each class.

    With `method.sda.images=training` to projected training images, which tells what tuning does
    from what the diffusion model makes.
    """
    group, draw, move = config.method.sda, source.denoiser, source.project
    assert draw is not None and move is not None
    number = group.num_images // group.batch_size * group.batch_size
    cut = lambda x: x.reshape(-1, group.batch_size, *x.shape[1:])
    labels, pixels = cut(np.arange(number) % source.num_classes), None
    if group.images == "training":
        data = training_images(config, number)
        if len(data.labels) < number:
            raise UsageError(
                f"method.sda.images=training finds {len(data.labels)} known images among "
                f"the first {number}; lower method.sda.num_images or source.imbalance"
            )
        labels, pixels = cut(data.labels), cut(data.images)

    def predict(x: jax.Array, times: jax.Array, labels: jax.Array) -> jax.Array:
        conditional = lambda x, times: draw(x, times, labels)
        if group.guidance == 1.0:
            return conditional(x, times)
        return denoising.guided(conditional, draw, group.guidance)(x, times)

    optimizer = optax.chain(
        optax.add_decayed_weights(group.weight_decay), optax.sgd(group.learning_rate, momentum=0.9)
    )

    @jax.jit
    def run(key: jax.Array, params: Any, model_state: Any) -> Any:
        key_images, key_steps = jax.random.split(key)
        if pixels is None:
            found = synthetic_domain_synthetic(
                predict,
                move,
                jnp.asarray(labels),
                key_images,
                source.image_shape,
                diffusion=denoising.respaced(group.sampling_steps),
            )
        else:
            keys = adaptation.row_keys(key_images, number, None)
            batches = (jnp.asarray(pixels), keys.reshape(labels.shape))
            found = jax.lax.map(lambda b: move(b[0] / jnp.float32(255), b[1]), batches)
        return tuned(
            source.apply,
            params,
            model_state,
            found.reshape(-1, *found.shape[2:]),
            jnp.asarray(labels.ravel()),
            key_steps,
            optimizer=optimizer,
            num_steps=group.num_steps,
            batch_size=group.batch_size,
        )

    weights, losses = run(jax.random.key(config.source.seed), source.params, source.model_state)
    print(
        f"tuned to projected {group.images} images: loss {losses[0]:.3f} to {losses[-1]:.3f}",
        flush=True,
    )
    return weights


DIFFUSION = ("projected", "dda", "sda")  # methods with a diffusion model
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
    "denoiser": (denoiser, DIFFUSION),
    "project": (project, DIFFUSION),
    "synthetic": (synthetic, ("sda",)),
}


def with_statistics(config: ConfigDict, source: Source) -> Source:
    """Adds what the chosen methods need and nothing else."""
    for field, (compute, methods) in STATISTICS.items():
        if set(methods) & set(config.methods):
            source = source._replace(**{field: compute(config, source)})
    return source
