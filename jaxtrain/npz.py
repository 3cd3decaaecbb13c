"""Reads `.npz` and `.npy` files that may come from strangers.

Nothing is unpickled, and what a file says of its sizes is compared with its length before memory is
taken.
"""

import contextlib
import math
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO

import numpy as np

# A file that unpacks to more than this many bytes and to more than this many times its length
# holds no weights and no pictures.
LARGE, PACKED = 2**30, 200
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Collection[str], Callable[[str], np.ndarray]]]:
    """Names of the arrays of an `.npz` file, and the array of a name.

    Raises:
      Exception: of any class, here or while an array is read: the file is damaged or another one.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            is_npy = file.read(6) == b"\x93NUMPY"
        raise ValueError("it is no archive" + ", but a single array" * is_npy)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("two of its arrays have one name")
        sizes: dict[str, int] = {}

        def get(name: str) -> np.ndarray:
            sizes[name] = members[name].file_size
            check_unpacked(sum(sizes.values()), path)
            return _member(archive, members[name])

        yield members, get


def single(path: Path) -> np.ndarray:
    """The array of an `.npy` file, left on disk and read as it is used.

    Raises:
      Exception: as in `opened`.
    """
    with path.open("rb") as file:
        _check_header(file, path.stat().st_size, "it")
    return np.lib.format.open_memmap(path, mode="r")


def check_unpacked(size: int, path: Path) -> None:
    """Refuses a file that would fill the memory, before it is unpacked.

    Args:
      size: bytes after unpacking, as the file says.
      path: the file.

    Raises:
      ValueError: it is too large for so short a file.
    """
    length = path.stat().st_size
    if size > LARGE and size > PACKED * length:
        raise ValueError(f"its {length} bytes would unpack to {size}, which no honest file does")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename} is packed in a way that NumPy does not write")
    with archive.open(info) as file:
        _check_header(file, info.file_size, info.filename)
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_header(file: IO[bytes], size: int, name: str) -> None:
    """Raises ValueError unless an `.npy` file of this size has the shape that it says."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"{name} has the unknown version {version}")
    shape, _, dtype = _HEADERS[version](file)
    rest = size - file.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which are not read")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != rest:
        raise ValueError(
            f"{name} says it has shape {str(shape)[:80]} of {dtype}, but {rest} bytes follow"
        )
