"""Images of prepared TensorFlow Datasets, without TensorFlow and in the official order.

A prepared set is looked for below a given folder, the folder that JAXTTA_DATA names, and the usual
one of TensorFlow Datasets (TFDS_DATA_DIR, else ~/tensorflow_datasets). Nothing is downloaded unless
`download` is set. Preparing shuffles: sets with an `id`, such as `cifar10` and `cifar100`, are
sorted by it, and `cifar10_corrupted`, which has none, by undoing the shuffle, checked against the
labels of the clean images. Others, such as `imagenet2012`, stay shuffled, which leaves classes
mixed; their corrupted copies are matched by `file_name`.
"""

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.images import cropping, feature_classes, labelled
from experiments.data.images.labelled import Images
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError
from jaxtrain.host.extras import import_extra

# Names of corruptions that differ there.
CORRUPTED_NAMES = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}
_KIND = "prepared TensorFlow data set"


def roots(data_dir: str = "") -> list[Path]:
    """Existing folders that may hold prepared sets, the given one first."""
    usual = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    return [*labelled.roots(data_dir), *([usual] if usual.is_dir() else [])]


def prepared(name: str, data_dir: str = "") -> Path | None:
    """Folder of the newest version of a set, `<root>/<name>[/<config>]/<version>`, or None."""
    for root in roots(data_dir):
        found = [file.parent for file in (root / name).glob("*.*.*/dataset_info.json")]
        if found:
            return max(found, key=lambda p: [int(n) for n in p.name.split(".") if n.isdigit()])
    return None


def read(
    name: str,
    split: str,
    data_dir: str = "",
    number: int = 0,
    *,
    size: int | None = 32,
    download: bool = False,
) -> Images:
    """Images and labels, sorted by `id` if there is one; with `file_name`s if it has them.

    Args:
      name: `<builder>` or `<builder>/<config>`.
      split: `train`, `test` or another one that the set has; without labelled test images, `test`
        is the split `validation`.
      data_dir: where to look first.
      number: how many of the first images; 0 for all. No others are decoded.
      size: of the images, see `cropping.fitted`; None for those of sets whose images have one size,
        as they are, colour or grey.
      download: lets TensorFlow Datasets fetch and prepare what is missing.

    Raises:
      UsageError: not prepared, or the package, the split or a feature is missing.
    """
    source, features = _source(name, split, data_dir, download)
    with arrays.one_sentence(f"tfds:{name}", _KIND):
        order: Sequence[int] = range(len(source))
        if "id" in features:
            order = sorted(order, key=lambda i: source[i]["id"])
        return _chosen(source, features, order[: number or None], size, f"tfds:{name}")


def matched(
    name: str, names: np.ndarray, data_dir: str = "", *, size: int, download: bool = False
) -> Images:
    """The test images of a set that have these file names, in their order.

    Raises:
      UsageError: as in `read`, or the set lacks file names or some of these.
    """
    source, features = _source(name, "test", data_dir, download)
    with arrays.one_sentence(f"tfds:{name}", _KIND):
        if "file_name" not in features:
            raise UsageError(f"tfds:{name} has no feature 'file_name', so images cannot be matched")
        row = {_text(source[i]["file_name"]): i for i in range(len(source))}
        if missing := [n for n in names if n not in row]:
            raise UsageError(
                f"tfds:{name} lacks {len(missing)} of {len(names)} clean images, {missing[0]} first"
            )
        return _chosen(source, features, [row[n] for n in names], size, f"tfds:{name}")


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _chosen(
    source: Any, features: Any, rows: Sequence[int], size: int | None, provenance: str
) -> Images:
    labels = np.empty(len(rows), np.int64)
    names = [] if "file_name" in features else None

    def files() -> Any:
        for place, row in enumerate(rows):
            item = source[row]
            labels[place] = item["label"]
            if names is not None:
                names.append(_text(item["file_name"]))
            name = names[-1] if names else f"image {row}"
            yield io.BytesIO(item["image"]), f"{name} of {provenance}"

    if size is None:
        images = np.stack([cropping.pixels(*file) for file in files()])
    else:
        images = cropping.stacked(files(), len(rows), size)
    found = None if names is None else np.array(names)
    return Images(images, labels, provenance, names=found, classes=_classes(features["label"]))


def _classes(label: Any) -> dict[int, str] | None:
    """The names of the classes, if the feature has any."""
    number = getattr(label, "num_classes", None)
    return {i: label.int2str(i) for i in range(number)} if number else None


def _source(name: str, split: str, data_dir: str, download: bool) -> tuple[Any, Any]:
    """Records of a split with encoded images, and the features of the set."""
    folder = prepared(name, data_dir)
    if folder is None and not download:
        raise UsageError(
            f"no prepared TensorFlow data set {name!r} in "
            f"{', '.join(map(str, roots(data_dir))) or 'any known folder'}; name the folder "
            "that holds it in the config, in JAXTTA_DATA or in TFDS_DATA_DIR"
        )
    builder = _builder(name, folder, data_dir)
    features, splits = builder.info.features, builder.info.splits
    if not {"image", "label"} <= set(features):
        raise UsageError(
            f"tfds:{name} has no features 'image' and 'label', only {', '.join(features)}"
        )

    def records(split: str) -> Any:
        from tensorflow_datasets.core import decode

        try:
            return builder.as_data_source(split, decoders={"image": decode.SkipDecoding()})
        except NotImplementedError as error:
            raise UsageError(
                f"tfds:{name} in {folder} is stored in a format without random access; prepare it "
                "with file_format='array_record'"
            ) from error

    with arrays.one_sentence(f"tfds:{name}", _KIND):
        if split in splits:
            found = records(split)
            # The test images of imagenet2012 have no labels, which is said by -1.
            if split != "test" or "validation" not in splits or found[0]["label"] >= 0:
                return found, features
        if split == "test" and "validation" in splits:
            return records("validation"), features
    raise UsageError(f"tfds:{name} has no split {split!r}, only {', '.join(splits)}")


def _builder(name: str, folder: Path | None, data_dir: str) -> Any:
    """The builder of a prepared folder, which names no foreign code, or of a set that TensorFlow
    Datasets itself knows how to prepare."""
    if folder is not None:
        feature_classes.check(folder)
    tfds = import_extra("tensorflow_datasets", "experiments")
    if folder is not None:
        with arrays.one_sentence(folder, _KIND):
            return tfds.builder_from_directory(folder)
    root = data_dir or os.environ.get("JAXTTA_DATA") or None
    builder_name, _, config = name.partition("/")
    try:
        # Not `tfds.builder`, which reads folders too, and runs what they name.
        known = None if ":" in builder_name else tfds.builder_cls(builder_name)
    except tfds.core.DatasetNotFoundError:
        known = None
    if known is None:
        raise UsageError(f"TensorFlow Datasets cannot prepare {builder_name!r}; it has no such set")
    builder = known(data_dir=root, config=config or None, file_format="array_record")
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
      name: of the corruption, as in `experiments.data.images.corruptions`.
      severity: 1 to 5.
      labels: of the whole clean test set in its official order, which the result must have too.
      data_dir: where to look first.
      download: as in `read`.

    Raises:
      UsageError: as in `read`, or the labels do not agree.
    """
    config = f"cifar10_corrupted/{CORRUPTED_NAMES.get(name, name)}_{severity}"
    stored = read(config, "test", data_dir, download=download)
    order = np.argsort(shuffled(len(stored.labels)))
    if not np.array_equal(stored.labels[order], labels):
        raise UsageError(
            f"the labels of tfds:{config} do not agree with those of the clean test images, so the "
            "rows cannot be matched; prepare it again with this version of tensorflow-datasets"
        )
    return stored.images[order]
