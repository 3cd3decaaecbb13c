"""Files that appear complete or not at all: one helper for JSON, text, figures and arrays."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives the name of a new file beside `path`, which it replaces at the end.

    The new file has the same suffix. When anything is raised it is removed and the old one stays;
    an error of the system names the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno and not error.filename:  # a full disk names no file
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes text in UTF-8."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, tree: Any) -> None:
    """Writes JSON; numbers that it cannot hold (NaN and infinities) become null."""
    write_text(path, json.dumps(finite(tree), indent=2, allow_nan=False) + "\n")


def finite(tree: Any) -> Any:
    """The same tree with None for numbers that are not finite."""
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else None
    if isinstance(tree, Mapping):
        return {name: finite(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [finite(value) for value in tree]
    return tree
