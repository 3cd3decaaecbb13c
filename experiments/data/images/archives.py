"""Sets in `.npz` files: both parts in one, or a file for each part.

What the images and labels may be is said in `checked`.
"""

from pathlib import Path

import numpy as np

from experiments.data.images.labelled import Images
from jaxtrain.host import arrays


def named(root: Path, name: str, split: str) -> Images | None:
    """`both` of `root/NAME.npz` or `root/NAME/NAME.npz`, if there is such a file."""
    files = (root / f"{name}.npz", root / name / f"{name}.npz")
    file = next((file for file in files if file.is_file()), None)
    return None if file is None else both(file, split, f"{name}/npz")


def named_part(root: Path, name: str, split: str) -> Images | None:
    """`part` of `root/NAME_SPLIT.npz`, if there is such a file."""
    file = root / f"{name}_{split}.npz"
    return part(file, f"{name}/npz") if file.is_file() else None


def both(file: Path, split: str, provenance: str) -> Images:
    """A part of a file with `x_train`, `y_train`, `x_test` and `y_test`.

    Raises:
      UsageError: a file that is not there, damaged or another one.
    """
    pixels, labels = arrays.read(file, (f"x_{split}", f"y_{split}")).values()
    return Images(pixels, labels, provenance)


def part(file: Path, provenance: str) -> Images:
    """A file with `images` and `labels`.

    Raises:
      UsageError: as in `both`.
    """
    pixels, labels = arrays.read(file, ("images", "labels")).values()
    return Images(pixels, labels, provenance)


def pictures(file: Path, provenance: str) -> Images:
    """A file with `images`, without labels.

    Raises:
      UsageError: as in `both`.
    """
    pixels = arrays.read(file, ("images",))["images"]
    return Images(pixels, np.full(pixels.shape[:1], -1), provenance)
