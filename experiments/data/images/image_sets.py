"""Small labelled image sets as arrays, with a word on where their bytes came from.

A set is looked for, in this order, in `directory`, in the folder that the environment variable
`JAXTTA_DATA` names, and (digits only) inside the installed package scikit-learn. A folder may hold
`<name>.npz` (x_train, y_train, x_test, y_test), the four IDX files of the MNIST family (plain or
.gz), or prepared TensorFlow Datasets. Nothing is downloaded unless `download` is set.
"""

import gzip
import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

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
TFDS_NAMES = tuple(CONSTANTS)
NAMES = ("digits", *TFDS_NAMES, "random", "synthetic")
_IDX = {
    "x_train": "train-images*idx3-ubyte*",
    "y_train": "train-labels*idx1-ubyte*",
    "x_test": "t10k-images*idx3-ubyte*",
    "y_test": "t10k-labels*idx1-ubyte*",
}
Arrays = dict[str, np.ndarray]


class Images(NamedTuple):
    """A labelled image set.

    Attributes:
      x_train: standardised pixels, `[n, size * size * channels]`, float32.
      y_train: classes 0 .. C - 1, `[n]`, int32.
      x_test: held-out images, likewise.
      y_test: their classes.
      num_classes: C.
      provenance: name of the set and where its bytes came from, such as `digits/scikit-learn`.
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
    spec: str, *, size: int, channels: int = 1, directory: str = "", download: bool = False
) -> Images:
    """Loads a set.

    Args:
      spec: one of `NAMES`, or the path of an .npz file; with `:4-7` or `:0,2` behind it, only those
        classes, renamed to 0, 1, ...
      size: side of the square images; larger ones are averaged down, smaller ones enlarged.
      channels: 1 (colour is averaged) or 3 (grey is repeated).
      directory: where to look first.
      download: lets TensorFlow Datasets fetch and prepare what is missing.

    Raises:
      UsageError: an unknown name, or data that are not there; the message says what to do.
    """
    name, classes = parse(spec)
    if channels not in (1, 3):
        raise UsageError(f"data.channels={channels} must be 1 or 3")
    if name in ("random", "synthetic"):
        return (
            _random(size, channels, len(classes) or 10)
            if name == "random"
            else _synthetic(size, channels)
        )
    arrays, source = _find(name, directory, download)
    kept = {}
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"].astype(np.int64)
        if len(x) != len(y) or x.ndim not in (3, 4):
            raise UsageError(
                f"{source}: x_{part} has shape {x.shape} and y_{part} {y.shape}; expected images "
                "[n, height, width(, channels)] and as many labels"
            )
        if classes:
            rows = np.isin(y, classes)
            x, y = x[rows], np.searchsorted(classes, y[rows])
        kept[part] = (_resize(x, size, channels), y.astype(np.int32))
    num_classes = len(classes) or int(kept["train"][1].max()) + 1
    if not len(kept["train"][0]):
        raise UsageError(f"{spec!r} selects no images")
    pixels = kept["train"][0]
    mean, std = CONSTANTS.get(name, (pixels.mean(), pixels.std()))
    flat = [
        (((x - mean) / std).reshape(len(x), -1).astype(np.float32), y) for x, y in kept.values()
    ]
    chosen = f":{','.join(map(str, classes))}" if classes else ""
    return Images(*flat[0], *flat[1], num_classes, f"{source}{chosen}")


def parse(spec: str) -> tuple[str, tuple[int, ...]]:
    """Splits `"digits:4-7"` into the name and the classes (none means all)."""
    name, colon, text = spec.partition(":")
    if name not in NAMES and not name.endswith(".npz"):
        raise UsageError(
            f"unknown data set {name!r}; the sets are {', '.join(NAMES)}, or give an .npz file"
        )
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


def _find(name: str, directory: str, download: bool) -> tuple[Arrays, str]:
    """Raw arrays with pixels in 0 .. 1, and where they came from."""
    if name.endswith(".npz"):
        return _npz(Path(name)), name
    roots = [Path(root) for root in (directory, os.environ.get("JAXTTA_DATA", "")) if root]
    for root in roots:
        for file in (root / f"{name}.npz", root / name / f"{name}.npz"):
            if file.is_file():
                return _npz(file), f"{name}/npz"
        for folder in (root / name, root / name.replace("_", "-"), root):
            if name.endswith("mnist") and (files := _idx_files(folder)):
                return {part: _idx(file) for part, file in files.items()}, f"{name}/idx"
    if name == "digits":
        return scikit_learn_digits(), "digits/scikit-learn"
    return _tfds(name, roots, download), f"{name}/tfds"


def _scale(x: np.ndarray) -> np.ndarray:
    """Pixels as float32 in 0 .. 1; bytes are divided by 255."""
    return x.astype(np.float32) / 255 if x.dtype == np.uint8 else x.astype(np.float32)


def _npz(file: Path) -> Arrays:
    if not file.is_file():
        raise UsageError(f"{str(file)!r} does not exist")
    with np.load(file) as stored:
        missing = [part for part in _IDX if part not in stored]
        if missing:
            raise UsageError(
                f"{str(file)!r} lacks {', '.join(missing)}; it must hold {', '.join(_IDX)}"
            )
        arrays = {part: stored[part] for part in _IDX}
    return {part: _scale(a) if part[0] == "x" else a for part, a in arrays.items()}


def _idx_files(folder: Path) -> dict[str, Path]:
    found = {part: sorted(folder.glob(pattern)) for part, pattern in _IDX.items()}
    return {part: files[0] for part, files in found.items()} if all(found.values()) else {}


def _idx(file: Path) -> np.ndarray:
    content = gzip.open(file).read() if file.suffix == ".gz" else file.read_bytes()
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, 4)
    array = np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    return _scale(array) if rank == 3 else array


def scikit_learn_digits() -> Arrays:
    """1,797 digits of 8 x 8, read from the package's file without importing the package; three
    quarters, drawn once and for all, are for training."""
    spec = importlib.util.find_spec("sklearn")
    places = spec.submodule_search_locations if spec is not None else None
    file = Path(places[0]) / "datasets" / "data" / "digits.csv.gz" if places else None
    if file is None or not file.is_file():
        raise UsageError(
            "data set 'digits' is part of scikit-learn, which is not installed; pip install "
            "scikit-learn"
        )
    table = np.loadtxt(gzip.open(file), delimiter=",", dtype=np.float32)
    table = table[np.random.default_rng(0).permutation(len(table))]
    x, y = table[:, :-1].reshape(-1, 8, 8) / 16, table[:, -1].astype(np.int64)
    cut = 3 * len(x) // 4
    return {"x_train": x[:cut], "y_train": y[:cut], "x_test": x[cut:], "y_test": y[cut:]}


def _tfds(name: str, roots: list[Path], download: bool) -> Arrays:
    """Reads a prepared data set, or prepares it when downloading is allowed; no TensorFlow."""
    prepared = [root for root in roots if any((root / name).glob("*/dataset_info.json"))]
    if not prepared and not download:
        raise UsageError(
            f"data set {name!r} is in none of the folders "
            f"{', '.join(map(str, roots)) or '(none given)'}; put {name}.npz, the IDX files or a "
            "prepared TensorFlow data set there and name it with --config.data.directory, or allow "
            "fetching with --config.data.download=true"
        )
    import tensorflow_datasets as tfds

    root = str(prepared[0]) if prepared else (str(roots[0]) if roots else None)
    if not prepared:
        builder = tfds.builder(name, data_dir=root, file_format="array_record", try_gcs=False)
        builder.download_and_prepare()
    arrays = {}
    for part in ("train", "test"):
        source = tfds.data_source(name, split=part, data_dir=root, download=False)
        items = source.__getitems__(list(range(len(source))))
        arrays[f"x_{part}"] = _scale(np.stack([np.asarray(item["image"]) for item in items]))
        arrays[f"y_{part}"] = np.asarray([item["label"] for item in items])
    return arrays


def _resize(x: np.ndarray, size: int, channels: int) -> np.ndarray:
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

    resize = lambda part: np.asarray(jax.image.resize(part, (*part.shape[:1], *shape), "linear"))
    shape = (size, size, channels)
    return np.concatenate([resize(x[i : i + 4096]) for i in range(0, n, 4096)])


def _random(size: int, channels: int, count: int) -> Images:
    """As many images of uniform pixels as classes, image i with label i: a perfect learner reaches
    100 % once it has seen every image."""
    x = np.random.default_rng(0).uniform(size=(count, size * size * channels))
    x = ((x - x.mean()) / x.std()).astype(np.float32)
    y = np.arange(count, dtype=np.int32)
    return Images(x, y, x, y, count, "random/generated", replace=True)


def _synthetic(size: int, channels: int) -> Images:
    """Ten classes of blurred blobs with noise, for plumbing where no real images are at hand."""
    rng = np.random.default_rng(0)
    side = np.linspace(-1, 1, size)
    centres = rng.uniform(-0.8, 0.8, (10, 3, 2))
    shape = lambda c: sum(
        np.exp(-8 * ((side[:, None] - a) ** 2 + (side[None] - b) ** 2)) for a, b in c
    )
    classes = np.stack([shape(c) for c in centres])
    parts: list[np.ndarray] = []
    for count in (1500, 500):
        y = np.arange(count) % 10
        x = classes[y] * rng.uniform(0.7, 1.3, (count, 1, 1))
        x = x + 0.15 * rng.normal(size=x.shape)
        x = np.repeat(x[..., None], channels, axis=-1).reshape(count, -1)
        parts += [x, y.astype(np.int32)]
    mean, std = parts[0].mean(), parts[0].std()
    x_train, x_test = (((x - mean) / std).astype(np.float32) for x in (parts[0], parts[2]))
    return Images(x_train, parts[1], x_test, parts[3], 10, "synthetic/generated")
