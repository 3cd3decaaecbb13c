"""Digits whose colour predicts the label in training and misleads in the test.

As ColoredMNIST (Arjovsky et al. 2019, arXiv 1907.02893, section 5.2), on which DeYO was shown, from
the 1,797 digits of scikit-learn: the label is whether the digit is 5 or more, there flipped in a
quarter of the images, which makes colour the better predictor of the two in training. A digit is
red if its label is 1 and green if it is 0; the colour disagrees in a fifth and in a tenth of the
two halves of the training images (its environments), and in nine tenths of the test images.
"""

import numpy as np

from experiments.data.images.image_sets import scikit_learn_digits

DISAGREEMENT = {"train": (0.2, 0.1), "test": (0.9,)}  # share of images, by environment


def coloured_digits(split: str, label_noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """1,347 images for training, 450 for the test.

    Args:
      split: `train` or `test`.
      label_noise: share of flipped labels; 0.25 in ColoredMNIST.

    Returns:
      Images `[N, 32, 32, 3]` uint8, labels 0 or 1 `[N]`, and groups `2 * label + colour` `[N]`.
    """
    digits = scikit_learn_digits()
    pixels, digit = digits[f"x_{split}"], digits[f"y_{split}"]
    rng = np.random.default_rng([split == "test", 5])
    labels = (digit >= 5) ^ (rng.random(len(digit)) < label_noise)
    share = np.repeat(DISAGREEMENT[split], -(-len(digit) // len(DISAGREEMENT[split])))
    is_red = labels ^ (rng.random(len(digit)) < share[: len(digit)])
    large = np.kron(pixels, np.ones((4, 4)))
    images = np.zeros((*large.shape, 3))
    images[is_red, ..., 0], images[~is_red, ..., 1] = large[is_red], large[~is_red]
    return (255 * images).astype(np.uint8), labels.astype(np.int64), 2 * labels + is_red
