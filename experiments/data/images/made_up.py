"""Images that nobody took: for plumbing where no files are at hand, and as a test of memory."""

import numpy as np

from experiments.data.images.labelled import Images


def waves(number: int, seed: int) -> Images:
    """Ten classes of coloured waves, 32 x 32: class c has its own direction, frequency and tint."""
    rng = np.random.default_rng([seed, 32])
    labels = np.arange(number) % 10
    angle, frequency = np.pi * (labels % 5) / 5, np.where(labels < 5, 2.0, 4.0)
    y, x = np.mgrid[:32, :32] / 32
    turn = (angle + rng.normal(0, 0.1, number))[:, None, None]
    along = np.cos(turn) * x + np.sin(turn) * y
    phase = rng.uniform(0, 2 * np.pi, number)[:, None, None]
    wave = np.sin(2 * np.pi * frequency[:, None, None] * along + phase)
    tint = 0.25 + 0.2 * np.cos(2 * np.pi * (labels[:, None] / 10 + np.arange(3) / 3))
    tint = tint + rng.normal(0, 0.08, (number, 3))
    values = 0.5 + wave[..., None] * tint[:, None, None] + rng.normal(0, 0.03, (number, 32, 32, 3))
    pixels = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return Images(pixels, labels, "synthetic")


def blobs(size: int, channels: int) -> tuple[Images, Images]:
    """Ten classes of blurred blobs with noise, 1,500 images for training and 500 for the test.

    The values are unscaled: about 0 to 4, float64.
    """
    rng = np.random.default_rng(0)
    side = np.linspace(-1, 1, size)
    centres = rng.uniform(-0.8, 0.8, (10, 3, 2))
    shape = lambda c: sum(
        np.exp(-8 * ((side[:, None] - a) ** 2 + (side[None] - b) ** 2)) for a, b in c
    )
    classes = np.stack([shape(c) for c in centres])

    def part(count: int) -> Images:
        labels = np.arange(count) % 10
        x = classes[labels] * rng.uniform(0.7, 1.3, (count, 1, 1))
        x = x + 0.15 * rng.normal(size=x.shape)
        return Images(np.repeat(x[..., None], channels, axis=-1), labels, "synthetic/generated")

    return part(1500), part(500)


def noise(size: int, channels: int, count: int) -> Images:
    """As many images of uniform pixels as classes, image i with label i: a perfect learner reaches
    100 % once it has seen every image."""
    pixels = np.random.default_rng(0).uniform(size=(count, size, size, channels))
    return Images(pixels, np.arange(count), "random/generated")
