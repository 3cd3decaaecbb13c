"""Image sets as standardised vectors, for learners that take a flat input.

The names are those of `loader`, with `:4-7` or `:0,2` behind them for some of the classes. Besides
there is `random` (as many images of noise as classes), and `synthetic` are blobs of any size here,
not the 32 x 32 waves of the loader.
"""

import re
from typing import NamedTuple

import numpy as np

from experiments.data.images import loader, made_up
from experiments.data.images.labelled import Images
from jaxtrain.host.config import UsageError

# Mean and standard deviation over all pixels, channels and training images, scaled to 0 .. 1.
# Fashion-MNIST has its own numbers; the official table repeats those of MNIST for it.
CONSTANTS = {
    "mnist": (0.1307, 0.3081),
    "fashion_mnist": (0.2860, 0.3530),
    "kmnist": (0.1918, 0.3483),
    "cifar10": (0.4734, 0.2516),
    "svhn_cropped": (0.4514, 0.1993),
}


class Vectors(NamedTuple):
    """A labelled set in two parts.

    Attributes:
      x_train: standardised pixels, `[n, size * size * channels]`, float32.
      y_train: classes 0 .. C - 1, `[n]`, int32.
      x_test: held-out images, likewise.
      y_test: their classes.
      num_classes: C.
      provenance: name of the set and where its bytes came from, such as `digits/UCI`.
      replace: whether sequences draw images with replacement (the set of ten random images).
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    provenance: str
    replace: bool = False


def load(
    spec: str, *, size: int, channels: int = 1, data_dir: str = "", download: bool = False
) -> Vectors:
    """Loads a set.

    Args:
      spec: a name of `loader.load`, or `random`; with `:4-7` or `:0,2` behind it, only those
        classes, renamed to 0, 1, ...
      size: side of the square images; larger ones are averaged down, smaller ones enlarged.
      channels: 1 (colour is averaged) or 3 (grey is repeated).
      data_dir: where to look first.
      download: lets TensorFlow Datasets fetch and prepare what is missing.

    Raises:
      UsageError: an unknown name, or data that are not there; the message says what to do.
    """
    name, classes = parse(spec)
    if channels not in (1, 3):
        raise UsageError(f"data.channels={channels} must be 1 or 3")
    if name == "random":
        train = test = made_up.noise(size, channels, len(classes) or 10)
        classes = ()
    elif name == "synthetic":
        train, test = made_up.blobs(size, channels)
    else:
        train, test = (
            loader.read(name, split, data_dir, size=size, download=download)
            for split in ("train", "test")
        )
    if missing := sorted(set(classes) - {*train.labels.tolist()}):
        raise UsageError(f"{spec!r} names class {missing[0]}, of which {name} has no images")
    train, test = (_of_classes(part, classes) for part in (train, test))
    if unknown := sorted({*test.labels.tolist()} - {*train.labels.tolist()}):
        raise UsageError(
            f"{test.provenance}: the test images have class {unknown[0]}, which no training image "
            "has"
        )
    x_train, x_test = (_resized(_scaled(part.images), size, channels) for part in (train, test))
    mean, std = CONSTANTS.get(name, (x_train.mean(), x_train.std()))
    x_train, x_test = (
        ((x - mean) / std).reshape(len(x), -1).astype(np.float32) for x in (x_train, x_test)
    )
    y_train, y_test = (part.labels.astype(np.int32) for part in (train, test))
    chosen = f":{','.join(map(str, classes))}" if classes else ""
    provenance = " and ".join(dict.fromkeys((train.provenance, test.provenance))) + chosen
    num_classes = len(classes) or int(y_train.max()) + 1
    return Vectors(x_train, y_train, x_test, y_test, num_classes, provenance, name == "random")


def parse(spec: str) -> tuple[str, tuple[int, ...]]:
    """Splits `"digits:4-7"` into the name and the classes (none means all)."""
    name, colon, text = spec.rpartition(":")
    if not colon or (loader.is_known(spec) and not re.fullmatch("[0-9,-]+", text)):
        name, colon, text = spec, "", ""
    if name != "random" and not loader.is_known(name):
        raise UsageError(f"unknown data set {name!r}; known are {loader.KNOWN}, random")
    try:
        if "-" in text:
            low, high = (int(part) for part in text.split("-"))
            classes = list(range(low, high + 1))
        else:
            classes = sorted(int(part) for part in text.split(",")) if colon else []
    except ValueError:
        classes = []
    if colon and not classes:
        raise UsageError(f"cannot read the classes of {spec!r}; write them like digits:4-7")
    return name, tuple(classes)


def _of_classes(part: Images, classes: tuple[int, ...]) -> Images:
    if not classes:
        return part
    part = part.rows(np.isin(part.labels, classes))
    return part._replace(labels=np.searchsorted(classes, part.labels))


def _scaled(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) / 255 if x.dtype == np.uint8 else x


def _resized(x: np.ndarray, size: int, channels: int) -> np.ndarray:
    """`[n, h, w(, c)]` -> `[n, size, size, channels]`: whole blocks are averaged, other sizes are
    resampled linearly."""
    x = x[..., None] if x.ndim == 3 else x
    if x.shape[-1] != channels:
        x = x.mean(-1, keepdims=True)
        x = np.repeat(x, channels, axis=-1)
    n, height, width, _ = x.shape
    if height == width and height % size == 0:
        k = height // size
        return x.reshape(n, size, k, size, k, channels).mean(axis=(2, 4))
    import jax

    shape = (size, size, channels)
    resize = lambda part: np.asarray(jax.image.resize(part, (len(part), *shape), "linear"))
    return np.concatenate([resize(x[i : i + 4096]) for i in range(0, n, 4096)])
