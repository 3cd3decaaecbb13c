"""Sets in .npz files: by name, by path, and what they lack."""

import numpy as np
import pytest

from experiments.data.images import cropping, loader
from jaxtrain.host.config import UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
LABELS = [3, 0, 1, 1, 0, 3]


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch):
    monkeypatch.delenv("JAXTTA_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")


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
        ({"images": PIXELS + 0.5, "labels": LABELS}, "must lie from 0 to 1, but are 0.5 to 2"),
        (
            {"images": PIXELS, "labels": LABELS[1:]},
            r"images have shape \(6, .* labels \(5,\)",
        ),
    ):
        np.savez(tmp_path / "birds_test.npz", **stored)
        with pytest.raises(UsageError, match=sentence):
            loader.load("npz:birds", "test", str(tmp_path))


def test_one_file_for_both_parts(tmp_path):
    stored = {"x_train": PIXELS[:4], "y_train": LABELS[:4], "x_test": PIXELS[4:], "y_test": [0, 3]}
    np.savez(tmp_path / "mnist.npz", **stored)
    found = loader.load("mnist", "test", str(tmp_path))
    np.testing.assert_array_equal(found.images, PIXELS[4:])
    assert found.provenance == "mnist/npz" and list(found.labels) == [0, 3]
    (tmp_path / "kmnist").mkdir()
    np.savez(tmp_path / "kmnist" / "kmnist.npz", **stored)
    assert loader.load("kmnist", "train", str(tmp_path), 2).provenance == "kmnist/npz"
    del stored["y_test"]
    np.savez(tmp_path / "part.npz", **stored)
    assert len(loader.load(f"{tmp_path}/part.npz", "train").labels) == 4
    with pytest.raises(UsageError, match="lacks y_test; it holds x_test, x_train, y_train"):
        loader.load(f"{tmp_path}/part.npz", "test")


def test_grey_and_real_pixels_become_bytes_of_three_channels(tmp_path):
    grey = PIXELS[..., 0]
    stored = {"x_train": grey / 255, "y_train": LABELS, "x_test": grey + 0.5, "y_test": LABELS}
    np.savez(tmp_path / "mine.npz", **stored)
    found = loader.load(f"{tmp_path}/mine.npz", "train")
    assert found.images.dtype == np.uint8
    np.testing.assert_array_equal(found.images, np.stack([grey] * 3, -1))
    with pytest.raises(UsageError, match="must lie from 0 to 1, but are 0.5 to 2"):
        loader.load(f"{tmp_path}/mine.npz", "test")
    np.savez(tmp_path / "mine.npz", **stored | {"x_test": PIXELS[..., :2]})
    with pytest.raises(UsageError, match="has 2 channels; 1 or 3 are needed"):
        loader.load(f"{tmp_path}/mine.npz", "test")
