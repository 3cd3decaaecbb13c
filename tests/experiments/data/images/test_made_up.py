"""Images that nobody took: classes can be told apart."""

import numpy as np

from experiments.data.images import loader, made_up


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


def test_blobs_of_a_class_are_alike_in_both_parts():
    train, test = made_up.blobs(8, 3)
    assert train.images.shape == (1500, 8, 8, 3) and test.images.shape == (500, 8, 8, 3)
    np.testing.assert_array_equal(train.images[..., 0], train.images[..., 2])
    means = np.stack([train.images[train.labels == c].mean(0) for c in range(10)])
    nearest = ((test.images[:, None] - means) ** 2).sum((2, 3, 4)).argmin(1)
    assert (nearest == test.labels).mean() > 0.8


def test_noise_has_a_label_each():
    found = made_up.noise(4, 1, 6)
    np.testing.assert_array_equal(found.labels, np.arange(6))
    assert 0 <= found.images.min() and found.images.max() <= 1
    assert len({x.tobytes() for x in found.images}) == 6
