"""Images of prepared TensorFlow Datasets, without TensorFlow and in the official order.

A prepared set is looked for below a given folder, the folder that JAXTTA_DATA names, and the usual
one of TensorFlow Datasets (TFDS_DATA_DIR, else ~/tensorflow_datasets). Nothing is downloaded unless
`download` is set. Preparing shuffles: `cifar10` is sorted by its `id`, and `cifar10_corrupted`,
which has none, by undoing the shuffle, checked against the labels of the clean images.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.host.config import UsageError

# Names of corruptions that differ there.
CORRUPTED_NAMES = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}


def roots(data_dir: str = "") -> list[Path]:
    """Existing folders that may hold prepared sets, the given one first."""
    usual = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    named = [data_dir, os.environ.get("JAXTTA_DATA", ""), usual]
    return [Path(p).expanduser() for p in named if p and Path(p).expanduser().is_dir()]


def prepared(name: str, data_dir: str = "") -> Path | None:
    """Folder of the newest version of a set, `<root>/<name>[/<config>]/<version>`, or None."""
    for root in roots(data_dir):
        found = [file.parent for file in (root / name).glob("*.*.*/dataset_info.json")]
        if found:
            return max(found, key=lambda p: [int(n) for n in p.name.split(".") if n.isdigit()])
    return None


def read(
    name: str, split: str, data_dir: str = "", *, download: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Images `[N, 32, 32, 3]`, uint8, and labels `[N]`, int64, sorted by `id` if there is one.

    Args:
      name: `<builder>` or `<builder>/<config>`.
      split: `train`, `test` or another one that the set has.
      data_dir: where to look first.
      download: lets TensorFlow Datasets fetch and prepare what is missing.

    Raises:
      UsageError: not prepared, the package or the split is missing, or images do not fit.
    """
    folder = prepared(name, data_dir)
    if folder is None and not download:
        raise UsageError(
            f"no prepared TensorFlow data set {name!r} in "
            f"{', '.join(map(str, roots(data_dir))) or 'any known folder'}; set data.data_dir, "
            "JAXTTA_DATA or TFDS_DATA_DIR to the folder that holds it"
        )
    builder = _builder(name, folder, data_dir)
    if split not in builder.info.splits:
        raise UsageError(
            f"tfds:{name} has no split {split!r}, only {', '.join(builder.info.splits)}"
        )
    if not {"image", "label"} <= set(builder.info.features):
        raise UsageError(
            f"tfds:{name} has no features 'image' and 'label', only "
            f"{', '.join(builder.info.features)}"
        )
    try:
        source = builder.as_data_source(split=split)
    except NotImplementedError as error:
        raise UsageError(
            f"tfds:{name} in {folder} is stored in a format without random access; prepare it with "
            "file_format='array_record'"
        ) from error
    items: list[dict[str, Any]] = list(source.__getitems__(list(range(len(source)))))
    odd = next((i["image"].shape for i in items if i["image"].shape != (32, 32, 3)), None)
    if odd is not None:
        raise UsageError(
            f"tfds:{name} has an image of shape {odd}; images must be (32, 32, 3), they are not "
            "resized"
        )
    if "id" in builder.info.features:
        items.sort(key=lambda item: item["id"])
    pixels = np.stack([np.asarray(item["image"], np.uint8) for item in items])
    return pixels, np.array([item["label"] for item in items], np.int64)


def _builder(name: str, folder: Path | None, data_dir: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UsageError(
            f"reading the prepared data set {name!r} needs the package tensorflow-datasets; "
            "pip install tensorflow-datasets"
        ) from error
    if folder is not None:
        return tfds.builder_from_directory(folder)
    root = data_dir or os.environ.get("JAXTTA_DATA") or None
    builder = tfds.builder(name, data_dir=root, file_format="array_record", try_gcs=False)
    builder.download_and_prepare()
    return builder


def shuffled(number: int, split: str = "test") -> np.ndarray:
    """Original row of every stored one, `[number]`: rows lie in the order of salted MD5 hashes."""
    digests = [hashlib.md5(f"{split}{i}".encode()).digest() for i in range(number)]
    return np.array(sorted(range(number), key=digests.__getitem__))


def corrupted(
    name: str, severity: int, labels: np.ndarray, data_dir: str = "", *, download: bool = False
) -> np.ndarray:
    """Images of `cifar10_corrupted`, `[N, 32, 32, 3]`, in the order of the CIFAR-10 test set.

    Args:
      name: of the corruption, as in `experiments.data.corruptions`.
      severity: 1 to 5.
      labels: of the whole clean test set in its official order, which the result must have too.
      data_dir: where to look first.
      download: as in `read`.

    Raises:
      UsageError: as in `read`, or the labels do not agree.
    """
    config = f"cifar10_corrupted/{CORRUPTED_NAMES.get(name, name)}_{severity}"
    stored, stored_labels = read(config, "test", data_dir, download=download)
    order = np.argsort(shuffled(len(stored)))
    if not np.array_equal(stored_labels[order], labels):
        raise UsageError(
            f"the labels of tfds:{config} do not agree with those of the clean test images, so the "
            "rows cannot be matched; prepare it again with this version of tensorflow-datasets"
        )
    return stored[order]
