"""The four IDX files of the MNIST family, plain or `.gz`, as their authors publish them."""

import gzip
import math
from pathlib import Path

import numpy as np

from experiments.data.images.labelled import Images
from jaxtrain import npz
from jaxtrain.host import arrays

_STEMS = {"train": "train", "test": "t10k"}


def read(root: Path, name: str, split: str) -> Images | None:
    """The set in `root/name` (also with hyphens) or in `root` itself, if all four files are there.

    Raises:
      UsageError: a file that is cut short or no IDX file of bytes.
    """
    for folder in (root / name, root / name.replace("_", "-"), root):
        files = {
            (part, kind): sorted(folder.glob(f"{stem}-{kind}-idx{rank}-ubyte*"))
            for part, stem in _STEMS.items()
            for kind, rank in (("images", 3), ("labels", 1))
        }
        if all(files.values()):
            images, labels = (array(files[split, kind][0]) for kind in ("images", "labels"))
            return Images(images, labels, f"{name}/idx")
    return None


def array(file: Path) -> np.ndarray:
    """The array of bytes in an IDX file: two zeros, type 8, rank, sizes, content.

    Raises:
      UsageError: see `read`.
    """
    is_packed = file.suffix == ".gz"
    with (
        arrays.one_sentence(file, "IDX file of bytes"),
        gzip.open(file) if is_packed else file.open("rb") as content,
    ):
        head = content.read(4)
        if len(head) < 4 or head[:3] != b"\0\0\x08":
            raise ValueError("it does not begin like one")
        shape = np.frombuffer(content.read(4 * head[3]), ">u4", head[3]).tolist()
        size = math.prod(shape)
        npz.check_unpacked(size, file)
        found = content.read(size + 1) if is_packed or size < file.stat().st_size else b""
        if len(found) != size:
            raise ValueError(f"it says it has shape {shape}, but has not as many bytes")
        return np.frombuffer(found, np.uint8).reshape(shape)
