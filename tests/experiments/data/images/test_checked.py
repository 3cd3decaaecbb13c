"""What a data set may hold: converted where it has one meaning, refused by name elsewhere."""

import numpy as np
import pytest

from experiments.data.images import checked, loader, vectors
from experiments.data.images.labelled import Images
from jaxtrain.host.config import UsageError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)
LABELS = np.array([2, 0, 1, 2])
WIDE = RNG.integers(0, 65_536, (4, 5, 6)).astype(np.uint16)


def check(images=PIXELS, labels=LABELS):
    return checked.checked(Images(images, labels, "mine"), "test")


@pytest.mark.parametrize(
    "given",
    [
        LABELS[:, None],
        np.eye(3)[LABELS],
        np.eye(3, dtype=bool)[LABELS],
        LABELS.astype(np.float32),
        LABELS.astype(np.uint8),
    ],
)
def test_labels_that_mean_one_thing_are_converted(given):
    found = check(labels=given).labels
    np.testing.assert_array_equal(found, LABELS)
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    "given, said",
    [
        ([0, -1, 1, 2], "mine: the test labels hold -1 in row 1 and 1 such in all"),
        ([0.5, 0, 1, 0.5], "labels hold 0.5 in row 0 and 2 such in all; the classes are 0, 1"),
        ([0, 1, np.nan, 2], "labels hold nan in row 2"),
        (["a", "b", "a", "c"], "labels are of type <U1; expected the numbers 0, 1"),
        (np.full((4, 3), 1 / 3), r"labels have shape \(4, 3\) and are not one-hot"),
        (np.zeros((4, 3), int), "are not one-hot"),
        (np.ones((4, 3, 1), int), r"and the labels \(4, 3, 1\); expected"),
        ([0, 1, 2], r"images have shape \(4, 5, 6, 3\) and the labels \(3,\)"),
    ],
)
def test_labels_that_mean_nothing_are_refused(given, said):
    with pytest.raises(UsageError, match=said):
        check(labels=np.array(given))


@pytest.mark.parametrize(
    "given, expected",
    [
        (PIXELS.astype(np.int64), PIXELS),
        (PIXELS[..., 0].astype(np.int32), PIXELS[..., 0]),
        (WIDE, np.rint(WIDE / 257).astype(np.uint8)),
        (PIXELS[..., :1] > 100, (PIXELS[..., :1] > 100).astype(np.float32)),
        ((PIXELS > 100).astype(np.int64), (PIXELS > 100).astype(np.float32)),
        (PIXELS / 255, (PIXELS / 255).astype(np.float32)),
    ],
)
def test_pixels_that_mean_one_thing_are_converted(given, expected):
    found = check(given).images
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


@pytest.mark.parametrize(
    "given, said",
    [
        (PIXELS.transpose(0, 3, 1, 2), r"shape \(4, 3, 5, 6\), channels first; store them as"),
        (PIXELS[..., :1].transpose(0, 3, 1, 2), "channels first"),
        (np.zeros((4, 5, 6, 4), np.uint8), "mine has 4 channels; 1 or 3 are needed"),
        (PIXELS.reshape(4, -1), r"images have shape \(4, 90\) and the labels \(4,\); expected"),
        (np.where(PIXELS > 9, PIXELS / 255, np.nan), "images hold .* pixels that are not finite"),
        (PIXELS.astype(np.float32), "mine: pixels that are no bytes must lie from 0 to 1, but"),
        (PIXELS.astype(np.int64) * 9, "must lie from 0 to 1, but are 0 to 2"),
        (PIXELS.astype(np.uint16), "are uint16 but none of their pixels is above 255"),
        (PIXELS.astype(complex), "images are of type complex128; bytes are expected"),
        (PIXELS[:, :0], "which holds no pixels"),
    ],
)
def test_pixels_that_mean_nothing_are_refused(given, said):
    with pytest.raises(UsageError, match=said):
        check(given)


def test_every_door_runs_the_same_checks(tmp_path, monkeypatch):
    """Networks and in-context learners read with one loader; so does every layout."""
    monkeypatch.delenv("JAXTTA_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")
    first = PIXELS.transpose(0, 3, 1, 2)
    np.savez(tmp_path / "mine_test.npz", images=first, labels=LABELS)
    both = {"x_train": PIXELS, "y_train": LABELS, "x_test": first, "y_test": LABELS}
    np.savez(tmp_path / "kmnist.npz", **both)
    root = str(tmp_path)
    for read in (
        lambda: loader.load("npz:mine", "test", root),
        lambda: loader.load("kmnist", "test", root),
        lambda: loader.load(f"{root}/kmnist.npz", "test"),
        lambda: vectors.load("kmnist", size=5, data_dir=root),
    ):
        with pytest.raises(UsageError, match="channels first"):
            read()


def test_a_test_class_that_was_never_trained_is_refused(tmp_path):
    part = {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS, "y_test": LABELS + 1}
    np.savez(tmp_path / "mine.npz", **part)
    with pytest.raises(UsageError, match="test images have class 3, which no training image has"):
        vectors.load(f"{tmp_path}/mine.npz", size=5)
    assert vectors.load(f"{tmp_path}/mine.npz:1,2", size=5).num_classes == 2
    with pytest.raises(UsageError, match="names class 7, of which .* has no images"):
        vectors.load(f"{tmp_path}/mine.npz:1,7", size=5)
