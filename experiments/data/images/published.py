"""Corrupted copies of test images as their authors published them: CIFAR-10-C and its kin.

Three layouts: arrays `<corruption>.npy` (CIFAR-10-C, CIFAR-100-C), pictures
`<corruption>/<severity>/<class>/<file>` (ImageNet-C), and prepared TensorFlow data sets
`<set>_corrupted/<corruption>_<severity>` (cifar10_corrupted, imagenet2012_corrupted). Each is
matched to the clean images and refused where that cannot be done.
"""

import functools
from pathlib import Path

import numpy as np

from experiments.data.images import cropping, loader, tfds
from experiments.data.images.labelled import Images
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError

BLOCK = 10_000  # rows of a severity in the arrays


@functools.cache
def _test_labels(name: str, data_dir: str, download: bool) -> np.ndarray:
    return loader.load(name, "test", data_dir, download=download).labels


def read(
    folder: str,
    name: str,
    severity: int,
    clean: Images,
    *,
    of: str = "cifar10",
    data_dir: str = "",
    download: bool = False,
) -> np.ndarray:
    """The clean images under a corruption, in their order and of their size.

    Args:
      folder: with files `<corruption>.npy` or folders `<corruption>/<severity>/<class>`; or `tfds`.
      name: of the corruption.
      severity: 1 to 5.
      clean: the first test images of a set.
      of: name of that set, as in `loader.load`.
      data_dir: where prepared sets and clean labels are looked for first.
      download: as in `loader.load`.

    Returns:
      `[N, size, size, 3]`, uint8.

    Raises:
      UsageError: the corruption is not there, or its images are not copies of the clean ones.
    """
    if folder == "tfds":
        return _tfds(name, severity, clean, of=of, data_dir=data_dir, download=download)
    if (Path(folder) / f"{name}.npy").is_file():
        return _array(Path(folder), name, severity, clean)
    if (Path(folder) / name / str(severity)).is_dir():
        return _pictures(Path(folder) / name / str(severity), clean)
    raise UsageError(
        f"neither {folder}/{name}.npy nor {folder}/{name}/{severity}/ exists; data.corrupted_dir "
        "holds <corruption>.npy or <corruption>/<severity>/<class>/ with pictures"
    )


def _size(clean: Images) -> int:
    return clean.images.shape[1]


def _array(folder: Path, name: str, severity: int, clean: Images) -> np.ndarray:
    rows = slice((severity - 1) * BLOCK, (severity - 1) * BLOCK + len(clean.labels))
    file = folder / f"{name}.npy"
    stored_images = arrays.read_npy(file)
    if stored_images.dtype != np.uint8 or stored_images.ndim != 4 or stored_images.shape[-1] != 3:
        raise UsageError(
            f"{file} holds {stored_images.dtype} of shape {stored_images.shape}; expected images "
            "[N, H, W, 3], uint8"
        )
    found = stored_images[rows]
    stored = folder / "labels.npy"  # of all severities, in the original downloads
    if len(found) < len(clean.labels):
        raise UsageError(
            f"{file} has {len(found)} images of severity {severity}, but there are "
            f"{len(clean.labels)} clean ones; lower data.num_images"
        )
    if stored.is_file() and not np.array_equal(arrays.read_npy(stored)[rows], clean.labels):
        raise UsageError(
            f"{stored} does not agree with the labels of {clean.provenance}; data.corrupted_dir "
            "must hold corruptions of the same images in the same order"
        )
    return np.stack([cropping.fitted(x, _size(clean)) for x in found])


def _pictures(folder: Path, clean: Images) -> np.ndarray:
    if clean.names is None:
        raise UsageError(
            f"{folder} holds pictures by class, which can be matched only to clean ones in folders "
            f"(data.name=folder), not to {clean.provenance}"
        )
    files = [folder / name for name in clean.names]
    if missing := [file for file in files if not file.is_file()]:
        raise UsageError(
            f"{len(missing)} of {len(files)} clean images have no copy in {folder}, "
            f"{missing[0].relative_to(folder)} first; both need the same classes and file names"
        )
    return cropping.stacked(((file, "") for file in files), len(files), _size(clean))


def _tfds(
    name: str, severity: int, clean: Images, *, of: str, data_dir: str, download: bool
) -> np.ndarray:
    if of == "cifar10":
        labels = _test_labels(of, data_dir, download)
        found = tfds.corrupted(name, severity, labels, data_dir, download=download)
        return np.stack([cropping.fitted(x, _size(clean)) for x in found[: len(clean.labels)]])
    if clean.names is None or not of.startswith("tfds:"):
        raise UsageError(
            "data.corrupted_dir=tfds needs data.name=cifar10, or a set tfds:NAME with file names, "
            f"not {of}"
        )
    config = f"{of.removeprefix('tfds:').split('/')[0]}_corrupted/{name}_{severity}"
    read = tfds.matched(config, clean.names, data_dir, size=_size(clean), download=download)
    if not np.array_equal(read.labels, clean.labels):
        raise UsageError(f"the labels of tfds:{config} are not those of {of}")
    return read.images
