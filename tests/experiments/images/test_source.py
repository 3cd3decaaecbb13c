"""Training images of a source model, and what tells its weights from others."""

import hashlib

import numpy as np

from experiments.images.source import Source, fingerprint, training_images
from jaxtrain.host.config import load

DEBUG = "configs/tta_images.py:debug"


def test_training_images_have_a_long_tail():
    """Ten images of every class at hand, of which 10^(1 - c / 9) are taken of class c."""
    config, _ = load(f"{DEBUG},source.imbalance=10.0")
    found = training_images(config, 100, "source.num_images")
    assert np.bincount(found.labels).tolist() == [10, 7, 5, 4, 3, 2, 2, 1, 1, 1]


def test_images_of_classes_that_the_network_lacks_are_no_training_images():
    config, _ = load(f"{DEBUG},stream.setting=open_set,model.num_classes=6")
    found = training_images(config, 100, "source.num_images")
    assert np.bincount(found.labels).tolist() == [10] * 6 and len(found.images) == 60


def test_fingerprint_is_of_parameters_and_statistics():
    params, state = np.arange(3, dtype=np.float32), np.ones(2, np.float32)
    found = fingerprint(Source(None, {"w": params}, {"mean": state}, 10))
    assert found == hashlib.sha256(params.tobytes() + state.tobytes()).hexdigest()[:16]
