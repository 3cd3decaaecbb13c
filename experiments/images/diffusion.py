"""The diffusion model of DDA and SDA in `tta_images`: trained or read, and what is made with it."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments.data.images import loader
from experiments.images.source import Source, scaled, training_images
from jaxtrain import diffusion, trees
from jaxtrain.core import with_ema
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError
from jaxtrain.host.scans import trained as trained_on
from jaxtrain.nets import UNet
from jaxtrain.protocol import Scan
from jaxtta import adaptation
from jaxtta.images import denoising
from jaxtta.images.sda import COMBINATIONS, Projection, diffusion_projection, tuned
from jaxtta.images.sda import synthetic as synthetic_images

NEEDED_BY = ("projected", "dda", "sda")


class Denoiser(NamedTuple):
    """A trained diffusion model: the network, and its parameters."""

    network: UNet
    params: Any


def predict(
    network: UNet, params: Any, x: jax.Array, times: jax.Array, labels: jax.Array | None = None
) -> jax.Array:
    """The noise in x, of these classes or of any."""
    return network.apply({"params": params}, x, times, labels)


def shapes(network: UNet, size: int) -> Any:
    """Shapes of its parameters."""
    example = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    times = jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.eval_shape(network.init, jax.random.key(0), example, times)["params"]


def validate(config: ConfigDict) -> None:
    """Raises UsageError for impossible networks, projections and synthetic sets."""
    group = config.method.sda
    try:
        shapes(unet(config), config.data.size)
        projection(unet(config), **config.projection)
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


def unet(config: ConfigDict) -> UNet:
    """The network of `config.diffusion`."""
    return UNet(**config.diffusion.network, num_classes=config.model.num_classes)


def denoiser(config: ConfigDict, folder: Path | None = None) -> Denoiser:
    """A diffusion model of the training images: read, or trained here with checkpoints in
    `folder`."""
    group, network = config.diffusion.to_dict(), unet(config)
    del group["network"]
    if weights := group.pop("weights"):
        expected = shapes(network, config.data.size)
        return Denoiser(network, read_denoiser(weights, config.data.data_dir, expected))
    data = training_images(config, group.pop("num_images"), "diffusion.num_images")
    key = jax.random.key(config.source.seed)
    return trained(network, data, key, folder=folder and folder / "denoiser", **group)


def trained(
    network: UNet,
    data: loader.Images,
    key: jax.Array,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    ema_decay: float,
    drop_labels: float,
    folder: Path | None = None,
) -> Denoiser:
    """Averaged parameters after `num_steps` steps of Adam."""
    core = with_ema(
        denoising.training(network, optax.adam(learning_rate), drop_labels=drop_labels), ema_decay
    )

    examples = {"inputs": data.images, "labels": data.labels}
    state, metrics = trained_on(
        core,
        lambda key, one: core.init(key, scaled(one)),
        (key, {name: x[:1] for name, x in examples.items()}),
        examples,
        key,
        name="the diffusion model",
        folder=folder,
        batch_size=batch_size,
        num_steps=num_steps,
        prepare=scaled,
    )
    size, loss = trees.size(state.ema), metrics["loss"]
    print(f"diffusion model: {size} parameters, loss {loss:.4f}", flush=True)
    return Denoiser(network, state.ema)


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
    given = arrays.read(path, finite=True)
    if trees.describe(expected) != {k: (v.shape, str(v.dtype)) for k, v in given.items()}:
        raise UsageError(f"{path.name} holds another network than diffusion.network describes")
    leaves = [jnp.asarray(given[k]) for k in trees.path_names(expected)]
    return jax.tree.unflatten(jax.tree.structure(expected), leaves)


def projection(
    network: UNet, *, num_steps: int, start: int, factor: int, strength: float
) -> Projection:
    """DDA's projection by a diffusion model whose parameters it takes, without labels."""
    return diffusion_projection(
        functools.partial(predict, network),
        diffusion=denoising.respaced(num_steps),
        start=start,
        factor=factor,
        strength=strength,
    )


class Examples(NamedTuple):
    """Labels `[N, B]` of the images to tune on, and images `[N, B, ...]`; `()`: to be drawn."""

    labels: np.ndarray
    pixels: np.ndarray | tuple[()]


def examples(
    config: ConfigDict, num_classes: int, *, images: str, num_images: int, batch_size: int
) -> Examples:
    """As many of each class, to be drawn by the diffusion model, or the first training images.

    Raises:
      UsageError: there are not so many training images.
    """
    number = num_images // batch_size * batch_size
    cut = lambda x: x.reshape(-1, batch_size, *x.shape[1:])
    if images == "synthetic":
        return Examples(cut(np.arange(number) % num_classes), ())
    data = training_images(config, number, "method.sda.num_images")
    if len(data.labels) < number:
        raise UsageError(
            f"method.sda.images=training finds {len(data.labels)} known images among "
            f"the first {number}; lower method.sda.num_images or source.imbalance"
        )
    return Examples(cut(data.labels), cut(data.images))


def tuned_to(
    found: Examples,
    source: Source,
    model: Denoiser,
    project: Projection,
    key: jax.Array,
    *,
    sampling_steps: int,
    guidance: float,
    num_steps: int,
    learning_rate: float,
    weight_decay: float,
    scan_of: Callable[..., Scan],
) -> tuple[Any, Any]:
    """The source model tuned to projected images: parameters and statistics.

    `scan_of(what, name, *settings)` saves the two parts of it, each in a folder of that name, which
    depend on these of the settings.
    """
    batch_size = found.labels.shape[1]
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=0.9)
    )

    key_images, key_steps = jax.random.split(key)
    noise = functools.partial(predict, model.network, model.params)
    move = functools.partial(project, model.params)

    def guided(x: jax.Array, times: jax.Array, labels: jax.Array) -> jax.Array:
        conditional = lambda x, times: noise(x, times, labels)
        if guidance == 1.0:
            return conditional(x, times)
        return diffusion.guided(conditional, noise, guidance)(x, times)

    found = jax.tree.map(jnp.asarray, found)
    drawing = scan_of("the images to tune on", "images", "sampling_steps", "guidance")
    if isinstance(found.pixels, tuple):
        process, shape = denoising.respaced(sampling_steps), source.image_shape
        given = (guided, move, found.labels, key_images, shape)
        images = synthetic_images(*given, diffusion=process, scan=drawing)
    else:
        keys = adaptation.row_keys(key_images, found.labels.size, None)
        batches = (found.pixels, keys.reshape(found.labels.shape))
        moved = lambda carry, b: (carry, move(b[0] / jnp.float32(255), b[1]))
        _, images = drawing(moved, (), batches)
    about = ("sampling_steps", "guidance", "num_steps", "learning_rate", "weight_decay")
    weights, losses = tuned(
        source.apply,
        *source.weights,
        images.reshape(-1, *images.shape[2:]),
        found.labels.ravel(),
        key_steps,
        optimizer=optimizer,
        num_steps=num_steps,
        batch_size=batch_size,
        scan=scan_of("the tuning to projected images", "tuning", *about),
    )
    kind = "synthetic" if isinstance(found.pixels, tuple) else "training"
    print(f"tuned to projected {kind} images: loss {losses[0]:.3f} to {losses[-1]:.3f}", flush=True)
    return weights
