"""1,797 handwritten digits of 8 x 8 that travel with the repository, plain and coloured.

The coloured ones are made as ColoredMNIST (Arjovsky et al. 2019, arXiv 1907.02893, section 5.2), on
which DeYO was shown: the label is whether the digit is 5 or more, there flipped in a quarter of the
images, which makes colour the better predictor of the two in training and misleads in the test. A
digit is red if its label is 1 and green if it is 0; the colour disagrees in a fifth and in a tenth
of the two halves of the training images (its environments), and in nine tenths of the test images.
"""

from pathlib import Path

import numpy as np

from experiments.data.images.labelled import Images
from jaxtrain.host import arrays

LABEL_NOISE = {"coloured_digits": 0.25, "coloured_digits_clean": 0.0}  # share of flipped labels
DISAGREEMENT = {"train": (0.2, 0.1), "test": (0.9,)}  # share of images, by environment


def digits(split: str) -> Images:
    """1,347 images for training, drawn once and for all, or 450 for the test: float32, grey."""
    stored = arrays.read(Path(__file__).with_name("digits.npz"))
    images, labels = stored["images"], stored["labels"]  # 0 .. 16, as UCI has them
    order = np.random.default_rng(0).permutation(len(labels))
    cut = 3 * len(labels) // 4
    rows = order[:cut] if split == "train" else order[cut:]
    return Images(images[rows].astype(np.float32) / 16, labels[rows].astype(np.int64), "digits/UCI")


def coloured(name: str, split: str) -> Images:
    """The same images in colour, 32 x 32, in the groups `2 * label + colour`.

    Args:
      name: one of `LABEL_NOISE`.
      split: `train` or `test`.
    """
    pixels, digit, *_ = digits(split)
    rng = np.random.default_rng([split == "test", 5])
    labels = (digit >= 5) ^ (rng.random(len(digit)) < LABEL_NOISE[name])
    share = np.repeat(DISAGREEMENT[split], -(-len(digit) // len(DISAGREEMENT[split])))
    is_red = labels ^ (rng.random(len(digit)) < share[: len(digit)])
    large = np.kron(pixels, np.ones((4, 4)))
    images = np.zeros((*large.shape, 3))
    images[is_red, ..., 0], images[~is_red, ..., 1] = large[is_red], large[~is_red]
    images, labels = (255 * images).astype(np.uint8), labels.astype(np.int64)
    return Images(images, labels, f"{name}/UCI", 2 * labels + is_red)
