"""A prepared TensorFlow data set of a stranger runs no code, through whichever door."""

import json
import sys

import pytest

from experiments.data.images import feature_classes, tfds
from jaxtrain.host.config import UsageError

OWN = "tensorflow_datasets.core.features."
EVIL = {"pythonClassName": "evil_payload.X", "text": {}}
LEGACY = {"type": "evil_payload.X", "content": {}}


def dictionary(field, value):
    return {"pythonClassName": f"{OWN}features_dict.FeaturesDict", field: value}


DOORS = {
    "the set": ("features.json", EVIL),
    "a feature": ("features.json", dictionary("featuresDict", {"features": {"image": EVIL}})),
    "the other spelling": (
        "features.json",
        dictionary("featuresDict", {"features": {"a": {"python_class_name": "evil_payload.X"}}}),
    ),
    "the older format": (
        "features.json",
        {"type": f"{OWN}features_dict.FeaturesDict", "content": {"image": LEGACY}},
    ),
    "JSON in text": (
        "features.json",
        dictionary("jsonFeature", {"json": " " + json.dumps({"image": LEGACY})}),
    ),
    "content in text": (
        "features.json",
        {
            "type": f"{OWN}features_dict.FeaturesDict",
            "proto_cls": "tensorflow_datasets.FeaturesDict",
            "content": json.dumps({"features": {"image": EVIL}}),
        },
    ),
    "the other file": ("dataset_info.json", {"features": EVIL}),
}


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A module beside the data that says when it has run."""
    (tmp_path / "evil_payload.py").write_text("import sys\nsys.evil_ran = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "evil_ran", False, raising=False)
    yield tmp_path
    sys.modules.pop("evil_payload", None)


def prepare(folder, file, content):
    folder.mkdir(parents=True)
    info = {"name": "mine", "version": "1.0.0", "fileFormat": "array_record"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    if file == "dataset_info.json":
        content = info | content
    (folder / file).write_text(json.dumps(content))


@pytest.mark.parametrize("door", DOORS)
def test_a_folder_runs_no_code(door, payload):
    theirs = pytest.importorskip("tensorflow_datasets")
    folder = payload / "mine" / "1.0.0"
    prepare(folder, *DOORS[door])
    with pytest.raises(UsageError, match=r"names the feature class 'evil_payload\.X'"):
        tfds.read("mine", "test", str(payload))
    assert not sys.evil_ran
    with pytest.raises(Exception):  # noqa: B017, it holds no such class
        theirs.builder_from_directory(folder)
    assert sys.evil_ran, "TensorFlow Datasets does not come through here: no control"


def test_a_folder_that_is_not_asked_for_runs_no_code_either(payload):
    """Where there is no such version, TensorFlow Datasets would look for one of any config."""
    pytest.importorskip("tensorflow_datasets")
    prepare(payload / "mine" / "a_config" / "1.0.0", "features.json", EVIL)
    for name in ("mine", "stranger:mine"):
        with pytest.raises(UsageError, match="cannot prepare '.*mine'; it has no such set"):
            tfds.read(name, "test", str(payload), download=True)
    assert not sys.evil_ran


def test_every_class_of_theirs_may_be_named():
    pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.core.features.feature import FeatureConnector

    known = {name for name in FeatureConnector._registered_features if name.startswith(OWN)}
    assert known - feature_classes.ALLOWED == {f"{OWN}top_level_feature.TopLevelFeature"}
    assert feature_classes.ALLOWED <= known


@pytest.mark.parametrize("content", ["{", "[]", '{"features": {"a": {', "[" * 100_000, "\ud800"])
def test_damaged_files_are_named(content, tmp_path):
    (tmp_path / "dataset_info.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError, match="dataset_info.json is damaged or not of TensorFlow"):
        feature_classes.check(tmp_path)
