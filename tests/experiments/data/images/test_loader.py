"""One loader: every layout gives the same pixels, and nothing is made up silently."""

import numpy as np
import pytest
from PIL import Image

from experiments.data.images import loader
from experiments.data.images.labelled import Images
from jaxtrain.host.config import UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
LABELS = [3, 0, 1, 1, 0, 3]


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch):
    monkeypatch.delenv("JAXTTA_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")


def test_archive_and_class_folders(tmp_path):
    np.savez(tmp_path / "cifar10_test.npz", images=PIXELS, labels=LABELS)
    assert loader.load("cifar10", "test", str(tmp_path)).provenance == "cifar10/npz"
    for i, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        folder = tmp_path / "tree" / "train" / f"class_{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    found = loader.load("cifar10", "train", str(tmp_path / "tree"))
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(found.images, PIXELS[[1, 4, 2, 3, 0, 5]])


def test_nothing_is_made_up_silently(tmp_path):
    with pytest.raises(UsageError, match="no cifar10 test images .*; put cifar10/test.webp"):
        loader.load("cifar10", "test", str(tmp_path))
    with pytest.raises(UsageError, match="unknown data set 'svhn'"):
        loader.load("svhn", "test")
    np.savez(tmp_path / "cifar10_test.npz", images=PIXELS, labels=LABELS)
    with pytest.raises(UsageError, match="7 images were asked for but cifar10/npz has 6"):
        loader.load("cifar10", "test", str(tmp_path), number=7)


def test_layouts_of_a_set_have_an_order_and_the_given_folder_comes_first(tmp_path, monkeypatch):
    given, other = tmp_path / "given", tmp_path / "other"
    given.mkdir(), other.mkdir()
    monkeypatch.setenv("JAXTTA_DATA", str(other))
    both = dict(x_train=PIXELS, y_train=LABELS, x_test=255 - PIXELS, y_test=LABELS)
    np.savez(other / "cifar10_test.npz", images=PIXELS, labels=LABELS)
    np.savez(given / "cifar10.npz", **both)
    found = loader.load("cifar10", "test", str(given))
    np.testing.assert_array_equal(found.images, 255 - PIXELS)
    np.savez(given / "cifar10_test.npz", images=PIXELS, labels=LABELS)
    np.testing.assert_array_equal(loader.load("cifar10", "test", str(given)).images, PIXELS)
    assert loader.find("cifar10.npz", str(other)) is None
    assert loader.find("cifar10_test.npz") == other / "cifar10_test.npz"


def test_images_and_labels_must_be_as_many(tmp_path):
    np.savez(tmp_path / "kmnist.npz", x_test=PIXELS, y_test=LABELS[1:])
    with pytest.raises(UsageError, match=r"have shape \(6, 32, 32, 3\) and the labels \(5,\)"):
        loader.load("kmnist", "test", str(tmp_path))


def test_as_many_images_as_asked_and_grey_in_all_colours(tmp_path):
    np.savez(tmp_path / "kmnist.npz", x_test=PIXELS[..., 0], y_test=LABELS)
    found = loader.load("kmnist", "test", str(tmp_path), number=4)
    np.testing.assert_array_equal(found.labels, LABELS[:4])
    for colour in range(3):
        np.testing.assert_array_equal(found.images[..., colour], PIXELS[:4, ..., 0])


def test_made_up_parts_differ():
    train, test = (loader.load("synthetic", part, number=4).images for part in ("train", "test"))
    assert (train != test).any((1, 2, 3)).all()


def test_labels_are_known_from_class_0_on():
    images = lambda labels: Images(PIXELS[:2], np.array(labels), "")
    assert images([0, 0]).has_labels and images([-1, 3]).has_labels
    assert not images([-1, -1]).has_labels
