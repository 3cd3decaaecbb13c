"""Which Python classes the folder of a prepared TensorFlow data set may name.

TensorFlow Datasets imports whatever class its JSON files name, and importing runs code. Only its
own feature classes may be named here, so that a folder of a stranger holds data and nothing else.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtrain.host.config import UsageError

_PACKAGE = "tensorflow_datasets.core.features."
ALLOWED = frozenset(
    _PACKAGE + name
    for name in (
        "audio_feature.Audio",
        "bounding_boxes.BBoxFeature",
        "class_label_feature.ClassLabel",
        "dataset_feature.Dataset",
        "feature.Tensor",
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "labeled_image.LabeledImage",
        "scalar.Scalar",
        "sequence_feature.Sequence",
        "tensor_feature.Tensor",
        "text_feature.Text",
        "translation_feature.Translation",
        "translation_feature.TranslationVariableLanguages",
        "video_feature.Video",
    )
)
_KEYS = ("type", "pythonClassName", "python_class_name")  # of three versions of the format


def check(folder: Path) -> None:
    """Reads the files in which a prepared set names classes: `features.json`, and the entry
    `features` of `dataset_info.json`.

    Raises:
      UsageError: one is damaged, or names a class other than those of `ALLOWED`.
    """
    for name in ("features.json", "dataset_info.json"):
        file = folder / name
        if not file.exists():
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            described = content if name == "features.json" else content.get("features")
            foreign = next((found for found in _named(described) if found not in ALLOWED), None)
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise UsageError(f"{file} is damaged or not of TensorFlow Datasets: {error}") from error
        if foreign is not None:
            raise UsageError(
                f"{file} names the feature class {foreign[:100]!r}, whose code would be run; only "
                "the classes of TensorFlow Datasets itself are read, so take the set from a source "
                "you trust and store its images and labels in another layout, such as npz:NAME"
            )


def _named(node: Any) -> Iterator[str]:
    """The classes that a tree names, also inside of text that is JSON again."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in _KEYS and isinstance(value, str):
                yield value
            else:
                yield from _named(value)
    elif isinstance(node, list):
        for value in node:
            yield from _named(value)
    elif isinstance(node, str) and node.lstrip().startswith(("{", "[")):
        with contextlib.suppress(ValueError):  # it is prose, then
            yield from _named(json.loads(node))
