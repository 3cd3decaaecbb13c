"""Pictures with a class for every pixel: files of one's own beside masks of the same name.

A mask is a picture of numbers, grey or with a palette; its pixel is the number of the class, and
one number may say that the pixel has none.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.images import cropping
from experiments.data.images.folders import KINDS
from experiments.data.images.labelled import roots
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError
from jaxtrain.host.extras import import_extra


class Masked(NamedTuple):
    """Pictures and the classes of their pixels.

    Attributes:
      images: `[N, H, W, 3]`, uint8.
      labels: `[N, H, W]`, int32; -1 for pixels without a class.
      about: set and source, to be printed with every result.
    """

    images: np.ndarray
    labels: np.ndarray
    about: str


def read(
    pictures: str,
    masks: str,
    size: tuple[int, int],
    num_classes: int,
    *,
    void: int = 255,
    data_dir: str = "",
) -> Masked:
    """Reads pictures and their masks, and resizes them: masks to the nearest pixel.

    Args:
      pictures: a folder, or a pattern of files in one, such as `camvid/train/0001*.jpg`.
      masks: folder with `<name of the picture>.png`.
      size: height and width of the result.
      num_classes: K.
      void: number in the masks of pixels without a class.
      data_dir: where to look first.

    Raises:
      UsageError: no such pictures, a picture without its mask, masks of other sizes or classes.
    """
    files = _pictures(pictures, data_dir)
    folder = _below(masks, data_dir)
    images = np.empty((len(files), *size, 3), np.uint8)
    labels = np.empty((len(files), *size), np.int32)
    for file, image, label in zip(files, images, labels, strict=True):
        image[:], label[:] = _pair(file, folder / f"{file.stem}.png", size)
    wrong = (labels != void) & (labels >= num_classes)
    if wrong.any():
        file = files[int(wrong.any((1, 2)).argmax())]
        raise UsageError(
            f"the mask of {file.name} has the class {labels[wrong].max()}, but there are "
            f"{num_classes} classes and data.void={void}"
        )
    labels[labels == void] = -1
    return Masked(images, labels, f"{len(files)} pictures {pictures}")


def _pair(picture: Path, mask: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    Image = import_extra("PIL.Image", "experiments")
    pixels = cropping.pixels(picture)
    if not mask.is_file():
        raise UsageError(f"{picture} has no mask {mask}")
    with arrays.one_sentence(mask, "mask"), Image.open(mask) as opened:
        numbers = np.asarray(opened)
        if numbers.ndim != 2 or numbers.dtype.kind not in "biu":
            raise ValueError("its pixels are colours; it must hold one number for each")
        nearest = opened.resize(size[::-1], Image.Resampling.NEAREST)
        labels = np.asarray(nearest).astype(np.int32)
    if numbers.shape != pixels.shape[:2]:
        raise UsageError(
            f"{picture} has {pixels.shape[0]} x {pixels.shape[1]} pixels and its mask "
            f"{numbers.shape[0]} x {numbers.shape[1]}"
        )
    rgb = Image.fromarray(pixels).convert("RGB")
    return np.asarray(rgb.resize(size[::-1], Image.Resampling.BILINEAR)), labels


def _below(folder: str, data_dir: str) -> Path:
    """The folder itself, or below one of the data folders."""
    tries = [Path(folder).expanduser(), *(root / folder for root in roots(data_dir))]
    return next((path for path in tries if path.is_dir()), tries[0])


def _pictures(pattern: str, data_dir: str) -> list[Path]:
    folder = _below(pattern, data_dir)
    name = "*"
    if not folder.is_dir():
        folder, name = _below(str(Path(pattern).parent), data_dir), Path(pattern).name
    found = sorted(file for file in folder.glob(name) if file.suffix.lower() in KINDS)
    if not found:
        raise UsageError(
            f"no picture ({', '.join(KINDS)}) is called {pattern}, here or in the data folder of "
            "the config or of JAXTTA_DATA"
        )
    return found
