"""Files of Latent Program Network weights, as flat dicts of arrays named by their path.

Read: `.npz`, `.safetensors`, and `.msgpack` (the authors' training state, whose `params` entry is
taken). Written: `.npz` and `.safetensors`. Nothing here ever unpickles. `jaxtta.lpn.import_weights`
turns the flat dict into parameters and back.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.serialization import msgpack_restore
from jax.typing import ArrayLike
from safetensors.numpy import load_file, save_file

from jaxtrain.host.checkpoint import load_params
from jaxtta.lpn.import_weights import from_flat
from jaxtta.lpn.model import LPN

Flat = dict[str, np.ndarray]


def read(path: str | os.PathLike) -> Flat:
    """Reads a weight file as `{"encoder/cls_token/embedding": array, ...}`.

    A leading `params/` common to all names is removed.

    Args:
      path: a `.npz`, `.safetensors` or `.msgpack` file.

    Raises:
      ValueError: unknown suffix, or a file that is not what its suffix says.
      OSError: the file cannot be opened.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".safetensors": load_file, ".msgpack": _read_msgpack}
    if path.suffix not in readers:
        raise ValueError(f"{path}: cannot read weights of this kind; use {', '.join(readers)}.")
    try:
        flat = readers[path.suffix](path)
    except OSError:
        raise
    except Exception as error:  # Each format fails in its own ways.
        raise ValueError(f"{path}: not a readable {path.suffix} weight file: {error}") from error
    prefix = "params/"
    if flat and all(name.startswith(prefix) for name in flat):
        return {name.removeprefix(prefix): x for name, x in flat.items()}
    return flat


def write(path: str | os.PathLike, flat: Mapping[str, ArrayLike]) -> None:
    """Writes arrays to a `.npz` or `.safetensors` file, which appears complete or not at all.

    Args:
      path: file to create or replace.
      flat: arrays by name, for example from `import_weights.to_flat`.

    Raises:
      ValueError: unknown suffix.
    """
    path = Path(path)
    writers = {".npz": lambda name, arrays: np.savez(name, **arrays), ".safetensors": _save}
    if path.suffix not in writers:
        raise ValueError(f"{path}: cannot write weights of this kind; use {', '.join(writers)}.")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        new = Path(folder) / path.name
        writers[path.suffix](new, {name: np.asarray(x) for name, x in flat.items()})
        new.replace(path)


def _save(path: Path, arrays: Flat) -> None:
    # The format stores memory as it lies, so strided views must be copied first.
    save_file({name: np.ascontiguousarray(x) for name, x in arrays.items()}, path)


def _read_npz(path: Path) -> Flat:
    with np.load(path, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        return dict(file)


def _read_msgpack(path: Path) -> Flat:
    state = msgpack_restore(path.read_bytes())
    if not isinstance(state, dict) or not isinstance(params := state.get("params", state), dict):
        raise ValueError("it holds no tree of parameters")
    flat: Flat = {}

    def flatten(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for name, child in node.items():
                flatten(f"{prefix}/{name}" if prefix else name, child)
        else:
            flat[prefix] = np.asarray(node)

    flatten("", params)
    return flat


def read_params(lpn: LPN, path: str | os.PathLike, like: Any) -> Any:
    """Parameters from a weight file or from a checkpoint of ours, placed like `like`."""
    if Path(path).is_dir():
        return load_params(path, like)
    return from_flat(lpn, read(path))
