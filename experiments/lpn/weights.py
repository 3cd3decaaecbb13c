"""Weights of Latent Program Networks, from files of named arrays and from checkpoints."""

import os
from pathlib import Path
from typing import Any

from jaxtrain.host import arrays
from jaxtrain.host.checkpoint import load_params
from jaxtta.lpn.import_weights import from_flat
from jaxtta.lpn.model import LPN


def read(path: str | os.PathLike) -> arrays.Arrays:
    """Reads a weight file as `{"encoder/cls_token/embedding": array, ...}`.

    Of a training state of the authors (`.msgpack`) the entry `params` is taken; a leading `params/`
    of other files is removed likewise.

    Raises:
      UsageError: as in `arrays.read`.
    """
    prefix = "params/"
    flat = arrays.read(path, finite=True)
    params = {name[len(prefix) :]: x for name, x in flat.items() if name.startswith(prefix)}
    return params or flat


def read_params(lpn: LPN, path: str | os.PathLike, like: Any) -> Any:
    """Parameters from a weight file or from a checkpoint of ours, placed like `like`."""
    if Path(path).is_dir():
        return load_params(path, like)
    return from_flat(lpn, read(path))
