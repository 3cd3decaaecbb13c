"""The four IDX files of the MNIST family, plain or `.gz`, as their authors publish them."""

import gzip
from pathlib import Path

import numpy as np

from experiments.data.images.labelled import Images
from jaxtrain.host.config import UsageError

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
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        if content[:3] != b"\0\0\x08":
            raise ValueError("it does not begin like one")
        rank = content[3]
        shape = np.frombuffer(content, ">i4", rank, 4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (EOFError, OSError, ValueError) as error:
        raise UsageError(f"{file} is damaged or no IDX file of bytes: {error}") from error
