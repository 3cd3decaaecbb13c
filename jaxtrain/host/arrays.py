"""Files of named arrays: the one reader and the one writer of weights and data sets.

Read are `.npz`, `.safetensors`, `.msgpack` (a Flax tree, flattened: `params/encoder/kernel`) and
`.gguf` (language models of llama.cpp, unpacked to float32); written are the first two. Files may
come from strangers: nothing is ever unpickled, what a file says of its sizes is compared with its
length before memory is taken, and whatever is wrong with it is one `UsageError`.

    weights = arrays.read("resnet50.safetensors", finite=True)
    arrays.write("copy.npz", weights)
"""

import contextlib
import os
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.serialization import msgpack_restore
from jax.typing import ArrayLike
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxtrain import npz, trees
from jaxtrain.host import gguf_header
from jaxtrain.host.config import UsageError
from jaxtrain.host.extras import import_extra
from jaxtrain.replacing import replacing

Arrays = dict[str, np.ndarray]
Opened = tuple[Collection[str], Callable[[str], Any]]  # names, and the array of a name


def read(
    path: str | os.PathLike, names: Collection[str] | None = None, *, finite: bool = False
) -> Arrays:
    """Reads a file of named arrays.

    Args:
      path: a `.npz`, `.safetensors`, `.msgpack` or `.gguf` file.
      names: those wanted, which must all be there; None for every one. Others are not decoded.
      finite: refuse NaN, infinities, and numbers that float32 cannot hold, as in weights.

    Raises:
      UsageError: no such file, an unknown suffix, a file that is damaged or not what its suffix
        says, one that lacks a wanted array, or an array of anything but numbers.
    """
    path = Path(path)
    with _opened(path) as (held, get):
        missing = [name for name in names or () if name not in held]
        found = {} if missing else {name: np.asarray(get(name)) for name in names or held}
    if missing:
        some = sorted(held)[:8] + ["..."] * (len(held) > 8)
        raise UsageError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(some) or 'none'}")
    for name, x in found.items():
        if not (x.dtype == bool or jnp.issubdtype(x.dtype, np.number)):
            raise UsageError(f"{path}: {name} is of type {x.dtype}, not an array of numbers")
        if finite and (bad := _num_not_finite(x)):
            raise UsageError(
                f"{path}: {bad} of the {x.size} values of {name} are not finite, or too large for "
                "float32"
            )
    return found


def kept(path: str | os.PathLike, like: Any, make: Callable[[], Any]) -> Any:
    """The tree that a file holds, which is made and written if there is no such file.

    What is returned has been read, so that a run which goes on computes with the same arrays.

    Args:
      path: a `.npz` or `.safetensors` file.
      like: a tree of the same structure, of arrays or their shapes.
      make: makes the tree.

    Raises:
      UsageError: as `read`.
    """
    names = trees.path_names(like)
    if not Path(path).is_file():
        write(path, dict(zip(names, jax.tree.leaves(make()), strict=True)))
    found = read(path, names)
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in names])


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """What a `.gguf` file says of its model: numbers, texts and lists of them by key.

    Raises:
      UsageError: no such file, one that is damaged or another one, or no package `gguf`.
    """
    path = Path(path)
    with one_sentence(path, ".gguf file"):
        return {name: field.contents() for name, field in _gguf_reader(path).fields.items()}


def names(path: str | os.PathLike) -> list[str]:
    """The names of the arrays in a file, which are not decoded where the format allows it.

    Raises:
      UsageError: as `read`.
    """
    with _opened(Path(path)) as (held, _):
        return list(held)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Opened]:
    if path.suffix not in _READERS:
        raise UsageError(f"cannot read arrays from {path}; use a file {_listed(_READERS)}")
    with one_sentence(path, f"{path.suffix} file of arrays"):
        if path.exists() and not path.is_file():
            raise ValueError("it is no plain file")
        with _READERS[path.suffix](path) as opened:
            yield opened


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """The array of an `.npy` file, left on disk and read as it is used.

    Raises:
      UsageError: no such file, or one that is damaged or another one.
    """
    path = Path(path)
    with one_sentence(path, ".npy file"):
        return npz.single(path)


@contextlib.contextmanager
def one_sentence(name: str | Path, kind: str) -> Iterator[None]:
    """Around reading a file: whatever goes wrong is one sentence.

    Args:
      name: of the file; one that is not there is said to be missing.
      kind: what it should be, such as `picture`.

    Raises:
      UsageError: for any error.
    """
    try:
        yield
    except UsageError:
        raise
    except BaseException as error:  # Each format fails in its own ways; Rust's is no Exception.
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise
        if isinstance(error, FileNotFoundError):
            raise UsageError(f"{name} does not exist") from error
        said = " ".join(str(error).split())[:300] or type(error).__name__
        said = f"it lacks {said}" if type(error) is KeyError else said
        raise UsageError(f"{name} is damaged or no {kind}: {said}") from error


def _num_not_finite(x: np.ndarray) -> int:
    if not jnp.issubdtype(x.dtype, np.inexact):
        return 0
    with np.errstate(over="ignore"):
        kind = np.complex64 if np.iscomplexobj(x) else np.float32
        return int(x.size - np.count_nonzero(np.isfinite(x.astype(kind))))


def write(path: str | os.PathLike, arrays: Mapping[str, ArrayLike]) -> None:
    """Writes named arrays to a file, which appears complete or not at all.

    Args:
      path: `.npz` or `.safetensors` file to create or replace.
      arrays: by name.

    Raises:
      UsageError: an unknown suffix.
    """
    path = Path(path)
    if path.suffix not in _WRITERS:
        raise UsageError(f"cannot write arrays to {path}; use a file {_listed(_WRITERS)}")
    with replacing(path) as part:
        _WRITERS[path.suffix](part, {name: np.asarray(x) for name, x in arrays.items()})


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[Opened]:
    with safe_open(path, framework="numpy") as file:
        yield list(file.keys()), file.get_tensor


@contextlib.contextmanager
def _msgpack(path: Path) -> Iterator[Opened]:
    flat: dict[str, Any] = {}

    def flatten(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for name, child in node.items():
                flatten(f"{prefix}/{name}" if prefix else str(name), child)
        elif node is None:
            pass  # a place of the tree that was empty
        elif prefix in flat:
            raise ValueError(f"two of its arrays have the name {prefix}")
        else:
            flat[prefix] = node

    tree = msgpack_restore(path.read_bytes())
    if not isinstance(tree, dict):
        raise ValueError("it holds no tree")
    flatten("", tree)
    yield flat, flat.__getitem__


def _gguf_reader(path: Path) -> Any:
    module = import_extra("gguf", "lm")
    gguf_header.check(path)
    return module.GGUFReader(path)


@contextlib.contextmanager
def _gguf(path: Path) -> Iterator[Opened]:
    tensors = {tensor.name: tensor for tensor in _gguf_reader(path).tensors}

    def get(name: str) -> np.ndarray:
        unpack = import_extra("gguf.quants", "lm").dequantize
        return np.array(unpack(tensors[name].data, tensors[name].tensor_type))

    yield tensors, get


def _save_npz(path: Path, arrays: Arrays) -> None:
    """The bytes of `np.savez`, which takes no arrays named `file` and pickles what is none."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, x in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, x, allow_pickle=False)


def _save_safetensors(path: Path, arrays: Arrays) -> None:
    # The format stores memory as it lies, so strided views must be copied first.
    save_file({name: np.asarray(x, order="C") for name, x in arrays.items()}, path)


def _listed(suffixes: Mapping[str, Any]) -> str:
    return " or ".join((", ".join(list(suffixes)[:-1]), list(suffixes)[-1]))


_READERS: Mapping[str, Callable[[Path], contextlib.AbstractContextManager[Opened]]] = {
    ".npz": npz.opened,
    ".safetensors": _safetensors,
    ".msgpack": _msgpack,
    ".gguf": _gguf,
}
_WRITERS: Mapping[str, Callable[[Path, Arrays], None]] = {
    ".npz": _save_npz,
    ".safetensors": _save_safetensors,
}
