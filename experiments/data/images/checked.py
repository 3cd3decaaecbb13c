"""The one set of checks of labelled images, whatever files they came from.

What has one meaning is converted: pixels of 16 bits, bytes in a wider type, labels `[N, 1]`,
one-hot rows, and whole numbers stored as real ones. The rest is refused by name.
"""

import numpy as np

from experiments.data.images.labelled import Images
from jaxtrain.host.config import UsageError


def checked(found: Images, split: str, *, is_labelled: bool = True) -> Images:
    """Images of bytes or float32 from 0 to 1, `[N, H, W]` or `[N, H, W, 1 or 3]`, and labels `[N]`.

    Args:
      found: as a file holds it.
      split: its part, for messages.
      is_labelled: whether the labels must say something.

    Raises:
      UsageError: names the set, the part and what is wrong.
    """
    where = f"{found.provenance}: the {split}"
    labels = _class_numbers(np.asarray(found.labels), where)
    shape = found.images.shape
    if len(shape) not in (3, 4) or labels.shape != shape[:1]:
        raise UsageError(
            f"{where} images have shape {shape} and the labels {found.labels.shape}; expected "
            "[N, H, W] or [N, H, W, C] and as many labels"
        )
    if 0 in shape:
        raise UsageError(f"{where} images have shape {shape}, which holds no pixels")
    if len(shape) == 4 and shape[-1] not in (1, 3):
        if shape[1] in (1, 3):
            raise UsageError(
                f"{where} images have shape {shape}, channels first; store them as [N, H, W, C]"
            )
        raise UsageError(f"{found.provenance} has {shape[-1]} channels; 1 or 3 are needed")
    if is_labelled:
        _check_labels(labels, where)
    return found._replace(images=_pixels(found.images, where), labels=labels.astype(np.int64))


def of_16_bits(pixels: np.ndarray) -> np.ndarray:
    """Pixels from 0 to 65,535 as bytes, each the nearest."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _pixels(x: np.ndarray, where: str) -> np.ndarray:
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind not in "biuf":
        raise UsageError(f"{where} images are of type {x.dtype}; bytes are expected")
    if x.dtype.kind == "f" and (bad := x.size - np.count_nonzero(np.isfinite(x))):
        raise UsageError(f"{where} images hold {bad} pixels that are not finite")
    low, high = x.min(), x.max()
    if x.dtype == np.uint16:
        if high <= 255:
            raise UsageError(
                f"{where} images are uint16 but none of their pixels is above 255; store bytes as "
                "uint8, or pixels of 16 bits up to 65535"
            )
        return of_16_bits(x)
    if x.dtype.kind in "iu" and low >= 0 and 1 < high <= 255:
        return x.astype(np.uint8)
    if not (low >= 0 and high <= 1):
        raise UsageError(
            f"{where[: where.rindex(':')]}: pixels that are no bytes must lie from 0 to 1, but are "
            f"{low:.3g} to {high:.3g}"
        )
    return x.astype(np.float32)


def _class_numbers(labels: np.ndarray, where: str) -> np.ndarray:
    """Labels `[N]` from `[N]`, `[N, 1]` or one-hot rows `[N, C]`."""
    if labels.dtype.kind not in "biuf":
        raise UsageError(
            f"{where} labels are of type {labels.dtype}; expected the numbers 0, 1, ... of classes"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    if labels.ndim == 2 and labels.shape[1]:
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all()):
            raise UsageError(
                f"{where} labels have shape {labels.shape} and are not one-hot; expected [N], "
                "[N, 1] or rows with a single 1"
            )
        return labels.argmax(1)
    return labels


def _check_labels(labels: np.ndarray, where: str) -> None:
    good = np.isfinite(labels) & (labels == np.floor(labels)) & (labels >= 0)
    if not good.all():
        row = int(np.argmin(good))
        raise UsageError(
            f"{where} labels hold {labels[row]} in row {row} and {np.count_nonzero(~good)} such in "
            "all; the classes are 0, 1, ..."
        )
