"""Pictures of any size as square arrays: the usual transform of ImageNet's evaluation."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments.data.images.checked import of_16_bits
from jaxtrain.host import arrays
from jaxtrain.host.extras import import_extra


def pixels(file: Any, name: str = "") -> np.ndarray:
    """A picture file as it is, uint8: grey `[H, W]`, all others `[H, W, 3]`.

    Grey pictures of 16 bits become bytes.

    Args:
      file: a path, or a binary file.
      name: of the file, for messages; a path needs none.

    Raises:
      UsageError: it is damaged, no picture, larger than Pillow's limit, or of real numbers.
    """
    Image = import_extra("PIL.Image", "experiments")
    with arrays.one_sentence(name or file, "picture"), Image.open(file) as picture:
        limit = Image.MAX_IMAGE_PIXELS
        if limit and picture.width * picture.height > limit:
            raise ValueError(
                f"it has {picture.width} x {picture.height} pixels, above Pillow's limit of {limit}"
            )
        if picture.mode.startswith("I"):
            found = np.asarray(picture)
            if found.min() < 0 or found.max() > 65_535:
                raise ValueError("its pixels have more than 16 bits")
            return of_16_bits(found)
        if picture.mode == "F":
            raise ValueError("its pixels are real numbers, whose range is not known")
        return np.asarray(picture.convert("L" if picture.mode == "L" else "RGB"))


def opened(file: Any, size: int, name: str = "") -> np.ndarray:
    """A picture file as `[size, size, 3]`, uint8, see `fitted`.

    Args:
      file: a path, or a binary file.
      size: of the result.
      name: as in `pixels`.
    """
    found = pixels(file, name)
    if found.ndim == 2:
        found = np.repeat(found[..., None], 3, axis=-1)
    return fitted(found, size)


def fitted(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resizes the shorter side to `size * 256 / 224` and crops the centre, as torchvision does.

    The filter is linear and antialiased. Pictures of `size` x `size` are returned as they are.

    Args:
      pixels: `[H, W, 3]`, uint8.
      size: of the result.

    Returns:
      `[size, size, 3]`, uint8.
    """
    Image = import_extra("PIL.Image", "experiments")
    if pixels.shape[:2] == (size, size):
        return pixels
    sides, shorter = pixels.shape[:2], round(size * 256 / 224)
    height, width = (int(shorter * side / min(sides)) for side in sides)
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.asarray(resized)[top : top + size, left : left + size]


def stacked(files: Iterable[tuple[Any, str]], number: int, size: int) -> np.ndarray:
    """The first `number` picture files as `[number, size, size, 3]`, uint8, read one by one.

    Args:
      files: each with its name for messages, as in `pixels`.
      number: of files.
      size: of the pictures.
    """
    pixels = np.empty((number, size, size, 3), np.uint8)
    for row, (file, name) in zip(pixels, files, strict=True):
        row[:] = opened(file, size, name)
    return pixels
