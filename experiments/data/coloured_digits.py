"""Digits whose colour predicts the label in training and misleads in the test.

As ColoredMNIST (Arjovsky et al. 2019, arXiv 1907.02893), on which DeYO was shown, from the 1,797
digits of scikit-learn and without label noise: the label is whether the digit is 5 or more, and the
digit is red if the label is 1 and green if it is 0, except in a share of the images.
"""

import numpy as np

from experiments.data.image_sets import scikit_learn_digits

AGREEMENT = {"train": 0.9, "test": 0.1}  # share of images whose colour fits the label


def coloured_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `[N, 32, 32, 3]` uint8 and labels 0 or 1 `[N]`; 1,347 for training, 450 for the test.

    Args:
      split: `train` or `test`.
    """
    digits = scikit_learn_digits()
    pixels, labels = digits[f"x_{split}"], (digits[f"y_{split}"] >= 5).astype(np.int64)
    rng = np.random.default_rng([split == "test", 5])
    fits = rng.random(len(labels)) < AGREEMENT[split]
    is_red = np.where(fits, labels, 1 - labels) == 1
    large = np.kron(pixels, np.ones((4, 4)))
    images = np.zeros((*large.shape, 3))
    images[is_red, ..., 0], images[~is_red, ..., 1] = large[is_red], large[~is_red]
    return (255 * images).astype(np.uint8), labels
