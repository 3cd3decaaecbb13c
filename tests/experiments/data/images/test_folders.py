"""Pictures in folders: order, names, sizes, and what is refused."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from experiments.data.images import cropping, folders, loader
from jaxtrain.host.config import UsageError
from tests.shared_data import DATA

SAMPLES = DATA / "imagenet_samples"


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch):
    monkeypatch.delenv("JAXTTA_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")


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


def test_hidden_files_are_no_pictures(tmp_path):
    (tmp_path / "test" / "a").mkdir(parents=True)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "test" / "a" / "0.png")
    (tmp_path / "test" / "a" / "._0.png").write_bytes(b"of another system")
    assert list(loader.load("folder", "test", str(tmp_path)).names) == ["a/0.png"]


def test_pictures_lie_in_folders_of_classes_or_none_does(tmp_path):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "0.png")
    found = folders.without_classes(tmp_path, 32)
    assert found.images.shape == (1, 32, 32, 3) and list(found.labels) == [-1]
    (tmp_path / "a").mkdir()
    with pytest.raises(UsageError, match="pictures such as 0.png beside folders such as a; put"):
        folders.without_classes(tmp_path, 32)
    (tmp_path / "0.png").unlink()
    assert folders.without_classes(tmp_path, 32) is None


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
