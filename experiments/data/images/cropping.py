"""Pictures of any size as square arrays: the usual transform of ImageNet's evaluation."""

from collections.abc import Iterable
from typing import IO, Any

import numpy as np

from jaxtrain.host.extras import import_extra


def pixels(file: Any) -> np.ndarray:
    """A picture file as it is, uint8: grey `[H, W]`, all others `[H, W, 3]`."""
    Image = import_extra("PIL.Image", "experiments")
    with Image.open(file) as picture:
        return np.asarray(picture.convert("L" if picture.mode == "L" else "RGB"))


def opened(file: Any, size: int) -> np.ndarray:
    """A picture file as `[size, size, 3]`, uint8, see `fitted`.

    Args:
      file: a path, or a binary file.
      size: of the result.
    """
    found = pixels(file)
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


def stacked(files: Iterable[str | IO[bytes] | Any], number: int, size: int) -> np.ndarray:
    """The first `number` picture files as `[number, size, size, 3]`, uint8, read one by one."""
    pixels = np.empty((number, size, size, 3), np.uint8)
    for row, file in zip(pixels, files, strict=True):
        row[:] = opened(file, size)
    return pixels
