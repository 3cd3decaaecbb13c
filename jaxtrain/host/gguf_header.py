"""What the header of a `.gguf` file says of its sizes, compared with its length.

The package `gguf` believes the header: a list that claims 2^60 numbers in a file of a kilobyte
would keep it reading, and taking memory, for ever.
"""

import mmap
import struct
from pathlib import Path

_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # by type of number
_TEXT, _LIST = 8, 9
_ENTRY, _TENSOR = 13, 24  # bytes that the shortest of each takes
# In all lists together; those of the largest vocabularies are a million, and each value takes some
# 200 bytes of memory.
MOST_VALUES = 4_000_000


def check(path: Path) -> None:
    """Looks at the counts and lengths of the metadata of a `.gguf` file.

    Args:
      path: the file.

    Raises:
      ValueError: the file is too short for what it says, lists have too many values, or a type of
        value is unknown.
      OSError: there is no such file.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if len(data) < 24 or data[:4] != b"GGUF":
            raise ValueError("it does not begin as a .gguf file")
        (version,) = struct.unpack_from("<I", data, 4)
        _Header(data, "<" if version & 0xFFFF else ">").check()


class _Header:
    def __init__(self, data: mmap.mmap, order: str) -> None:
        self._data, self._order = data, order
        self._at, self._values = 8, 0

    def check(self) -> None:
        tensors, entries = self._number("Q"), self._number("Q")
        self._room(entries, _ENTRY, "entries")
        self._room(tensors, _TENSOR, "tensors")
        for _ in range(entries):
            self._skip(self._number("Q"), 1)
            self._value(self._number("I"))

    def _number(self, kind: str) -> int:
        self._room(1, struct.calcsize(kind), "number")
        (found,) = struct.unpack_from(self._order + kind, self._data, self._at)
        self._at += struct.calcsize(kind)
        return found

    def _room(self, count: int, width: int, kind: str) -> None:
        rest = len(self._data) - self._at
        if count * width > rest:
            raise ValueError(
                f"its header announces {count} {kind} of {width} bytes at least, but {rest} bytes "
                "follow"
            )

    def _skip(self, count: int, width: int) -> None:
        self._room(count, width, "values")
        self._at += count * width

    def _value(self, kind: int) -> None:
        if kind == _TEXT:
            self._skip(self._number("Q"), 1)
        elif kind == _LIST:
            inner, count = self._number("I"), self._number("Q")
            self._values += count
            if self._values > MOST_VALUES:
                raise ValueError(f"its lists hold more than {MOST_VALUES} values")
            if inner in _BYTES:
                self._skip(count, _BYTES[inner])
            else:
                self._room(count, 8, "texts")
                for _ in range(count):
                    self._value(inner)
        elif kind in _BYTES:
            self._skip(1, _BYTES[kind])
        else:
            raise ValueError(f"its header has a value of the unknown type {kind}")
