"""The source model of `tta_images`: read from a file, or trained here."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments.data.images import classes, loader
from experiments.images import own_network
from jaxtrain import core as core_
from jaxtrain import nets
from jaxtrain.host import arrays, scans
from jaxtrain.host.config import UsageError
from jaxtrain.nets import ClassifierFn, ResNet, torch_weights
from jaxtta import streams
from jaxtta.selection import Predicate, norm_layers, norm_parameters

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


class Source(NamedTuple):
    """A source model.

    Attributes:
      apply: the network.
      params, model_state: of the source.
      num_classes: C.
      module: the network again, for methods that look inside.
      size: side of the images.
      select: its normalisation parameters.
    """

    apply: ClassifierFn
    params: Any
    model_state: Any
    num_classes: int
    module: ResNet | None = None
    size: int = 32
    select: Predicate = norm_parameters

    @property
    def weights(self) -> tuple[Any, Any]:
        """What `init` of most adapters takes."""
        return self.params, self.model_state

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of one image."""
        return (self.size, self.size, 3)


def training_images(config: ConfigDict, number: int, key: str) -> loader.Images:
    """The first `number` training images (0: all) of the classes that the network knows.

    The config calls the number `key`. Long-tailed if `source.imbalance` is above 1.
    """
    group = config.data
    data = loader.load(
        group.name,
        "train",
        group.data_dir,
        number,
        size=group.size,
        download=group.download,
        class_file=group.classes,
        number_key=key,
    )
    check_classes(config, data)
    data = data.rows(data.labels < config.model.num_classes)
    if config.source.imbalance == 1:
        return data
    return data.rows(streams.long_tailed_subset(data.labels, config.source.imbalance))


def check_classes(config: ConfigDict, data: loader.Images) -> None:
    """Raises UsageError unless the classes of a set are those of the network, or some of an open
    set are."""
    is_open = config.stream.setting == "open_set"
    number, is_mapped = config.model.num_classes, bool(config.data.classes)
    classes.check(data, number, is_mapped=is_mapped, is_open=is_open)


def scaled(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The same batch with its pixels in [0, 1]."""
    return {**batch, "inputs": batch["inputs"] / jnp.float32(255)}


def trained(
    module: ResNet,
    data: loader.Images,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    folder: Path | None = None,
) -> tuple[Any, Any]:
    """Parameters and statistics after `num_steps` steps of Adam on these images; `folder` keeps
    what is done of them."""

    def loss(outputs: Any, batch: Any) -> Any:
        labels = batch["labels"]
        logits = outputs.logits if isinstance(outputs, nets.Classified) else outputs
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), {}

    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
    core = core_.supervised(nets.from_linen(module), loss, optimizer)

    key_init, key_run = jax.random.split(jax.random.key(seed))
    state, _ = scans.trained(
        core,
        lambda key: core.init(key, {"inputs": jnp.zeros((1, *data.images.shape[1:]))}),
        (key_init,),
        {"inputs": data.images, "labels": data.labels},
        key_run,
        name="the source model",
        folder=folder,
        batch_size=batch_size,
        num_steps=num_steps,
        prepare=scaled,
        draw=lambda key, n, size: (jax.random.randint(key, (size,), 0, n), key),
    )
    return state.params, state.model_state


def imported(module: ResNet, naming: Any, path: Path, size: int) -> tuple[Any, Any]:
    """Parameters and statistics of a PyTorch state_dict in a file.

    Raises:
      UsageError: they do not fit.
    """
    example = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    expected = jax.eval_shape(nets.from_linen(module).init, jax.random.key(0), example)
    given = arrays.read(path, finite=True)
    try:
        return nets.import_torch(given, *expected, naming)
    except ValueError as error:
        raise UsageError(f"{path.name}: {error}") from error


def build_source(config: ConfigDict, folder: Path | None = None) -> Source:
    """The source model of `config.model`, trained as `config.source` says if it has no weights;
    `folder` keeps the checkpoints of that.

    Raises:
      UsageError: the weights are missing or do not fit, or the user's network is none.
    """
    group, training = config.model, config.source.to_dict()
    if own := own_network.is_own(group.name):
        module = own_network.made(group.name, group.num_classes, config.data.size)
    else:
        make, naming = NETWORKS[group.name]
        module = make(**group[group.name].to_dict(), num_classes=group.num_classes)
    size = config.data.size
    if isinstance(module, tuple):
        if group.weights:
            raise UsageError(
                f"model.weights={group.weights!r} but {group.name} returns its weights itself; "
                "pass --config.model.weights="
            )
        return Source(*module, group.num_classes, size=size, select=norm_layers(module[1]))
    if group.weights and own:
        weights = own_network.stored_weights(module, group, config.data.data_dir, size)
    elif group.weights:
        path = loader.find(group.weights, config.data.data_dir)
        if path is None:
            raise UsageError(
                f"model.weights={group.weights!r} was not found; give the path of an npz or "
                "safetensors file with a PyTorch state_dict, or model.weights='' to train a source "
                "model first"
            )
        weights = imported(module, naming, path, size)
    else:
        del training["imbalance"]  # of the images
        data = training_images(config, training.pop("num_images"), "source.num_images")
        weights = trained(module, data, folder=folder and folder / "source", **training)
    found = Source(nets.classifier(module), *weights, group.num_classes, module, size)
    return found._replace(module=None, select=norm_layers(weights[0])) if own else found


def fingerprint(source: Source) -> str:
    """Sixteen digits that tell the weights of one source model from those of another."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(source.weights):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
