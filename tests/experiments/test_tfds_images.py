"""Prepared TensorFlow Datasets, written by their own writer: order, sizes, error sentences."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.data import images, tfds_images
from jaxtrain.host.config import UsageError

NUMBER = 12
PIXELS = np.random.default_rng(0).integers(0, 256, (NUMBER, 32, 32, 3)).astype(np.uint8)
LABELS = np.random.default_rng(1).integers(0, 10, NUMBER)


def write(folder, builder_name, config="", pixels=PIXELS, labels=LABELS, with_id=False):
    """A prepared set with one split `test`; keys are row numbers, as in the real builders."""
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("importlib_resources")

    def png(x):
        file = io.BytesIO()
        Image.fromarray(x).save(file, "PNG")
        return file.getvalue()

    class Made(tfds.core.GeneratorBasedBuilder):
        name = builder_name
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=pixels.shape[1:]),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
            if with_id:
                features["id"] = tfds.features.Text()
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"test": self._generate_examples()}

        def _generate_examples(self):
            for i, (x, y) in enumerate(zip(pixels, labels, strict=True)):
                record = {"image": png(x), "label": int(y)}
                yield i, record | ({"id": f"test_{i:05d}"} if with_id else {})

    Made(data_dir=folder, file_format="array_record").download_and_prepare()


@pytest.fixture(autouse=True)
def only_given_folders(monkeypatch):
    monkeypatch.delenv("JAXTTA_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")
    images._test_labels.cache_clear()
    yield
    images._test_labels.cache_clear()


def test_cifar10_and_its_corruptions_have_the_official_order(tmp_path, monkeypatch):
    write(tmp_path, "cifar10", with_id=True)
    found = images.load("cifar10", "test", str(tmp_path), 5)
    np.testing.assert_array_equal(found.images, PIXELS[:5])
    np.testing.assert_array_equal(found.labels, LABELS[:5])
    assert found.provenance == "cifar10/tfds"

    write(tmp_path, "cifar10_corrupted", "frosted_glass_blur_3", 255 - PIXELS)
    stored, _ = tfds_images.read("cifar10_corrupted/frosted_glass_blur_3", "test", str(tmp_path))
    assert not np.array_equal(stored, 255 - PIXELS), "the writer did not shuffle: no control"
    rows = images.published_corruption("tfds", "glass_blur", 3, 4, str(tmp_path))
    np.testing.assert_array_equal(rows, 255 - PIXELS[:4])
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    np.testing.assert_array_equal(images.published_corruption("tfds", "glass_blur", 3, 4), rows)

    with pytest.raises(UsageError, match="labels of tfds:cifar10_corrupted/.* do not agree"):
        tfds_images.corrupted("glass_blur", 3, (LABELS + 1) % 10, str(tmp_path))
    with pytest.raises(
        UsageError, match="no prepared TensorFlow data set 'cifar10_corrupted/fog_2'"
    ):
        images.published_corruption("tfds", "fog", 2, 4, str(tmp_path))
    with pytest.raises(UsageError, match="tfds:cifar10 has no split 'train', only test"):
        images.load("cifar10", "train", str(tmp_path))


def test_sets_by_name_must_have_colour_images_of_32_pixels(tmp_path):
    write(tmp_path, "small_pictures", pixels=PIXELS[:, :28, :28])
    with pytest.raises(UsageError, match=r"shape \(28, 28, 3\); images must be \(32, 32, 3\)"):
        images.load("tfds:small_pictures", "test", str(tmp_path))
    write(tmp_path, "pictures")
    found = images.load("tfds:pictures", "test", str(tmp_path))
    assert found.provenance == "tfds:pictures"
    assert sorted(found.labels) == sorted(LABELS)


def test_missing_sets_and_package_are_named(tmp_path, monkeypatch):
    with pytest.raises(
        UsageError, match="no prepared TensorFlow data set 'svhn_cropped' in .*data_dir"
    ):
        images.load("tfds:svhn_cropped", "test", str(tmp_path))
    (tmp_path / "svhn_cropped" / "3.0.0").mkdir(parents=True)
    (tmp_path / "svhn_cropped" / "3.0.0" / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UsageError, match="needs the package tensorflow-datasets; pip install"):
        images.load("tfds:svhn_cropped", "test", str(tmp_path))


def test_downloads_only_when_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(tfds_images, "_builder", lambda *given: asked.append(given) or 1 / 0)
    with pytest.raises(UsageError, match="no CIFAR-10 test images"):
        images.load("cifar10", "test", "/nowhere")
    assert not asked
    with pytest.raises(ZeroDivisionError):
        images.load("cifar10", "test", "/nowhere", download=True)
    assert asked == [("cifar10", None, "/nowhere")]
