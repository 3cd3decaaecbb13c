"""Text and JSON that appear complete or not at all."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtrain.replacing import replacing


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
