"""Pairs of towers of `tta_clip`: what they are, and how they are trained on captions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array
from ml_collections import ConfigDict

from experiments.data.images.labelled import Images
from jaxtrain import nets
from jaxtrain.core import supervised
from jaxtrain.host import scans
from jaxtrain.nets import ClassifierFn, classifier, from_linen
from jaxtrain.nets.two_tower import TextTower, contrastive_loss
from jaxtrain.protocol import Model
from jaxtta.vision_language.towers import Pair, embedded, resized, texts_of

NUM_CONTEXT = 4  # "a photo of a"


def captions(num_classes: int) -> np.ndarray:
    """Words of "a photo of a NAME" with begin and end, `[C, 7]`; class c is word 5 + c."""
    names = 5 + np.arange(num_classes)
    columns = [np.full(num_classes, i) for i in range(1 + NUM_CONTEXT)]
    end = np.full(num_classes, 5 + num_classes)
    return np.stack([*columns, names, end], 1).astype(np.int32)


class Towers(NamedTuple):
    """Networks of a pair: `image` with its module, and `text`."""

    image: ClassifierFn
    module: nn.Module
    text: TextTower
    side: int


def towers_of(group: ConfigDict, num_words: int, length: int) -> Towers:
    """The networks that a group of the config describes."""
    if group.network == "vit":
        names = ("patch", "width", "depth", "num_heads")
        shape = {name: group[name] for name in names}
        module: nn.Module = nets.ViT(num_classes=group.embedding, clip=True, **shape)
    else:
        module = nets.cifar_resnet(group.depth, num_classes=group.embedding)
    sizes = {name: group.text[name] for name in ("width", "depth", "num_heads")}
    text = TextTower(num_words=num_words, length=length, size=group.embedding, **sizes)
    return Towers(resized(classifier(module), group.side), module, text, group.side)


def started(towers: Towers, words: np.ndarray, key: Array) -> Pair:
    """A pair before it is trained."""
    key_image, key_text = jax.random.split(key)
    example = jnp.zeros((1, towers.side, towers.side, 3))
    image, state = from_linen(towers.module).init(key_image, example)
    text = towers.text.init(key_text, jnp.asarray(words[:1]))["params"]
    return Pair(image, state, text, jnp.log(1 / 0.07))


def hardened(images: Array, key: Array, strength: float) -> Array:
    """Mirrored by chance, with less contrast and more noise, each image by its own draws."""
    keys = jax.random.split(key, 4)
    rows = (len(images), 1, 1, 1)
    x = jnp.where(jax.random.bernoulli(keys[0], shape=rows), images[:, :, ::-1], images)
    mean = x.mean((1, 2, 3), keepdims=True)
    x = mean + (x - mean) * (1 - strength * jax.random.uniform(keys[1], rows))
    deviation = 0.2 * strength * jax.random.uniform(keys[2], rows)
    return x + deviation * jax.random.normal(keys[3], x.shape)


def training(
    group: ConfigDict, towers: Towers, words: np.ndarray, given: tuple[Any, Any] | None
) -> Callable[[Images, Array, Path], Pair]:
    """`(images, key, folder) -> Pair`, trained contrastively on images and their captions.

    Args:
      group: of the config.
      towers: the networks.
      words: of the captions, `[C, T]`.
      given: weights of the image tower, which then stays as it is but for its head.
    """
    numbers = group.num_steps, group.batch_size, group.learning_rate, group.hardened
    num_steps, batch_size, rate, strength = numbers

    def init(key: Array, inputs: Any) -> tuple[Pair, Any]:
        pair = started(towers, words, key)
        if given is not None:
            image = {**given[0], "head": pair.image["head"]}
            pair = pair._replace(image=image, image_state=given[1])
        return pair, ()

    def apply(pair: Pair, state: Any, inputs: Any, *, key: Array, train: bool) -> tuple[Any, Any]:
        images = hardened(inputs[0], key, strength)
        seen = embedded(towers.image, pair.image, pair.image_state, images)
        said = texts_of(towers.text, pair.text, inputs[1])
        return (seen, said, jnp.exp(pair.log_scale)), state

    def loss(found: Any, batch: Any) -> tuple[Array, dict[str, Array]]:
        right = (found[0] @ found[1].T).argmax(1)
        right = batch["texts"][right] == batch["texts"]
        return contrastive_loss(*found, batch["texts"]), {"accuracy": right.mean()}

    def kinds(pair: Pair) -> Any:
        def kind(path: Any, x: Any) -> str:
            name = jax.tree_util.keystr(path)
            stays = name.startswith(".image_state")
            stays |= given is not None and name.startswith(".image[") and "'head'" not in name
            return "stays" if stays else "learns"

        return jax.tree_util.tree_map_with_path(kind, pair)

    adam = optax.adam(optax.cosine_decay_schedule(rate, num_steps))
    optimizer = optax.partition({"learns": adam, "stays": optax.set_to_zero()}, kinds)
    core = supervised(Model(init, apply), loss, optimizer)
    texts = jnp.asarray(words)

    def prepare(rows: Any) -> Any:
        images = rows["images"].astype(jnp.float32) / 255
        return {"inputs": (images, texts[rows["labels"]]), "texts": rows["labels"]}

    def run(data: Images, key: Array, folder: Path) -> Pair:
        key_init, key_run = jax.random.split(key)
        arrays = {"images": data.images, "labels": data.labels.astype(np.int32)}
        example = prepare(jax.tree.map(lambda x: jnp.asarray(x[:1]), arrays))
        start = lambda key: core.init(key, example)
        options: Any = dict(num_steps=num_steps, batch_size=batch_size, prepare=prepare)
        names: Any = dict(name=f"the pair {folder.name}", folder=folder)
        state, _ = scans.trained(core, start, (key_init,), arrays, key_run, **names, **options)
        return state.params

    return run
