"""Prepared TensorFlow Datasets, written by their own writer: order, sizes, error sentences."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.data.images import cropping, loader, published
from experiments.data.images import tfds as tfds_images
from jaxtrain.host.config import UsageError

NUMBER = 12
PIXELS = np.random.default_rng(0).integers(0, 256, (NUMBER, 32, 32, 3)).astype(np.uint8)
LABELS = np.random.default_rng(1).integers(0, 10, NUMBER)


def write(
    folder,
    builder_name,
    config="",
    pixels=PIXELS,
    labels=LABELS,
    with_id=False,
    names=(),
    splits=("test",),
):
    """A prepared set with equal splits; keys are row numbers, as in the real builders.

    The split `test` of a set that has a `validation` has no labels.
    """
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("importlib_resources")

    def png(x):
        file = io.BytesIO()
        Image.fromarray(x).save(file, "PNG")
        return file.getvalue()

    with tfds.core.registered.skip_registration():

        class Made(tfds.core.GeneratorBasedBuilder):
            name = builder_name
            VERSION = tfds.core.Version("1.0.0")
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
                if len(names):
                    features["file_name"] = tfds.features.Text()
                if with_id:
                    features["id"] = tfds.features.Text()
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in splits}

            def _generate_examples(self, split):
                for i, (x, y) in enumerate(zip(pixels, labels, strict=True)):
                    is_labelled = split != "test" or len(splits) == 1
                    record = {"image": png(x), "label": int(y) if is_labelled else -1}
                    if len(names):
                        record["file_name"] = names[i]
                    yield i, record | ({"id": f"test_{i:05d}"} if with_id else {})

    Made(data_dir=folder, file_format="array_record").download_and_prepare()


@pytest.fixture(autouse=True)
def only_given_folders(monkeypatch):
    monkeypatch.delenv("JAXTTA_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")
    published._test_labels.cache_clear()
    yield
    published._test_labels.cache_clear()


def test_cifar10_and_its_corruptions_have_the_official_order(tmp_path, monkeypatch):
    write(tmp_path, "cifar10", with_id=True)
    found = loader.load("cifar10", "test", str(tmp_path), 5)
    np.testing.assert_array_equal(found.images, PIXELS[:5])
    np.testing.assert_array_equal(found.labels, LABELS[:5])
    assert found.provenance == "cifar10/tfds"

    write(tmp_path, "cifar10_corrupted", "frosted_glass_blur_3", 255 - PIXELS)
    stored = tfds_images.read("cifar10_corrupted/frosted_glass_blur_3", "test", str(tmp_path))
    assert not np.array_equal(stored.images, 255 - PIXELS), "the writer did not shuffle: no control"
    read = lambda **options: published.read("tfds", "glass_blur", 3, found, **options)
    rows = read(data_dir=str(tmp_path))
    np.testing.assert_array_equal(rows, 255 - PIXELS[:5])
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    np.testing.assert_array_equal(read(), rows)

    with pytest.raises(UsageError, match="labels of tfds:cifar10_corrupted/.* do not agree"):
        tfds_images.corrupted("glass_blur", 3, (LABELS + 1) % 10, str(tmp_path))
    with pytest.raises(
        UsageError, match="no prepared TensorFlow data set 'cifar10_corrupted/fog_2'"
    ):
        published.read("tfds", "fog", 2, found, data_dir=str(tmp_path))
    with pytest.raises(UsageError, match="tfds:cifar10 has no split 'train', only test"):
        loader.load("cifar10", "train", str(tmp_path))


def test_sets_by_name_are_resized_and_read_as_far_as_needed(tmp_path, monkeypatch):
    large = np.random.default_rng(2).integers(0, 256, (NUMBER, 50, 70, 3)).astype(np.uint8)
    write(tmp_path, "pictures", pixels=large)
    opened, real = [], cropping.opened
    monkeypatch.setattr(cropping, "opened", lambda *given: opened.append(1) or real(*given))
    found = loader.load("tfds:pictures", "test", str(tmp_path), 5, size=40)
    assert found.provenance == "tfds:pictures" and len(opened) == 5
    everything = loader.load("tfds:pictures", "test", str(tmp_path), size=40)
    np.testing.assert_array_equal(found.images, everything.images[:5])
    assert sorted(everything.labels) == sorted(LABELS)
    wanted = {cropping.fitted(x, 40).tobytes(): y for x, y in zip(large, LABELS, strict=True)}
    for x, y in zip(everything.images, everything.labels, strict=True):
        assert wanted[x.tobytes()] == y


def test_corruptions_of_a_set_with_file_names_are_matched_by_them(tmp_path):
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(NUMBER)]
    root = str(tmp_path)
    write(tmp_path, "large", names=names, splits=("validation", "test"))
    clean = loader.load("tfds:large", "test", root, 7)
    assert clean.labels.min() >= 0, "the split without labels was read"
    turned = slice(None, None, -1)  # another order of keys, so another shuffle
    write(tmp_path, "large_corrupted", "fog_2", 255 - PIXELS[turned], LABELS[turned],
          names=names[turned])  # fmt: skip
    stored = tfds_images.read("large_corrupted/fog_2", "test", root, 7)
    assert list(stored.names) != list(clean.names), "both are in one order: no control"
    read = lambda severity, clean=clean: published.read(
        "tfds", "fog", severity, clean, of="tfds:large", data_dir=root
    )
    np.testing.assert_array_equal(read(2), 255 - clean.images)

    write(tmp_path, "large_corrupted", "fog_3", names=["other", *names[1:]])
    write(tmp_path, "large_corrupted", "fog_4", labels=(LABELS + 1) % 10, names=names)
    whole = loader.load("tfds:large", "test", root)
    with pytest.raises(UsageError, match="fog_3 lacks 1 of 12 clean images, ILSVRC.*00.JPEG first"):
        read(3, whole)
    with pytest.raises(UsageError, match="labels of tfds:large_corrupted/fog_4 are not those of"):
        read(4)
    with pytest.raises(UsageError, match="needs data.name=cifar10, or a set tfds:NAME"):
        read(2, clean._replace(names=None))
    write(tmp_path, "large_corrupted", "fog_5")
    with pytest.raises(UsageError, match="no feature 'file_name'"):
        read(5)


def test_damaged_sets_are_named(tmp_path):
    write(tmp_path, "pictures")
    folder = next((tmp_path / "pictures").iterdir())
    files = [file for file in folder.iterdir() if file.suffix == ".json" or "array" in file.name]
    assert len(files) == 3
    for file in files:
        whole = file.read_bytes()
        for content in (whole[:-20], whole[: len(whole) // 2], b"", whole.replace(b'"', b"")):
            if content == whole:
                continue
            file.write_bytes(content)
            with pytest.raises(UsageError, match="is damaged or no"):
                loader.load("tfds:pictures", "test", str(tmp_path))
        file.write_bytes(whole)
    assert len(loader.load("tfds:pictures", "test", str(tmp_path)).labels) == NUMBER


def test_the_newest_version_is_read(tmp_path):
    for version in ("1.9.0", "1.10.0", "1.2.30"):
        (tmp_path / "digits" / version).mkdir(parents=True)
        (tmp_path / "digits" / version / "dataset_info.json").write_text("{}")
    (tmp_path / "digits" / "2.0.0").mkdir()  # not finished
    assert tfds_images.prepared("digits", str(tmp_path)) == tmp_path / "digits" / "1.10.0"


def test_missing_sets_and_package_are_named(tmp_path, monkeypatch):
    with pytest.raises(
        UsageError, match="no prepared TensorFlow data set 'svhn_cropped' in .*the config"
    ):
        loader.load("tfds:svhn_cropped", "test", str(tmp_path))
    (tmp_path / "svhn_cropped" / "3.0.0").mkdir(parents=True)
    (tmp_path / "svhn_cropped" / "3.0.0" / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UsageError, match="tensorflow_datasets is not installed"):
        loader.load("tfds:svhn_cropped", "test", str(tmp_path))


def test_downloads_only_when_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(tfds_images, "_builder", lambda *given: asked.append(given) or 1 / 0)
    with pytest.raises(UsageError, match="no cifar10 test images .* since none is named"):
        loader.load("cifar10", "test", "/nowhere")
    assert not asked
    with pytest.raises(ZeroDivisionError):
        loader.load("cifar10", "test", "/nowhere", download=True)
    assert asked == [("cifar10", None, "/nowhere")]
