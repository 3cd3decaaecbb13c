"""The digits that travel with the repository, and their colours."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from experiments.data.images import digits, loader

DIGEST = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"


def test_they_are_the_published_ones():
    """Digest of the 1,797 rows of UCI's test part as scikit-learn 1.9.1 has them, labels last."""
    stored = np.load(Path(digits.__file__).with_name("digits.npz"))
    rows = np.concatenate([stored["images"].reshape(-1, 64), stored["labels"][:, None]], 1)
    assert hashlib.sha256(rows.tobytes()).hexdigest() == DIGEST
    parts = [digits.digits(split) for split in ("train", "test")]
    joint = np.concatenate([part.images for part in parts]).reshape(-1, 64) * 16
    assert sorted(map(bytes, joint.astype(np.uint8))) == sorted(map(bytes, rows[:, :-1]))
    assert [len(part.labels) for part in parts] == [1347, 450]


@pytest.mark.parametrize(("name", "share_of_noise"), digits.LABEL_NOISE.items())
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
        digit = digits.digits(split).labels
        noise = ((digit >= 5) != found.labels).mean()
        error = np.sqrt(share_of_noise * (1 - share_of_noise) / len(digit))
        assert abs(noise - share_of_noise) <= 3 * error
    some = loader.load(name, "test", number=7)
    assert len(some.images) == len(some.labels) == len(some.groups) == 7
