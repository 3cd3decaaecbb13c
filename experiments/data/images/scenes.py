"""Streets that nobody has seen, by day and at dusk, with a class for every pixel.

Below the sky stand buildings and trees beside a road with cars; at dusk streets are dark, bluish
and grainy under a sky that is grey.
"""

import numpy as np

from experiments.data.images.masks import Masked

CLASSES = ("sky", "building", "road", "tree", "car", "pavement")
SKY, BUILDING, ROAD, TREE, CAR, PAVEMENT = range(6)
_COLOURS = np.array(
    [
        (150, 190, 235),
        (165, 120, 95),
        (105, 105, 110),
        (70, 125, 55),
        (180, 45, 50),
        (170, 160, 150),
    ],
    float,
)


def street(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Classes of the pixels of one street, `[height, width]`."""
    y, x = np.mgrid[:height, :width]
    y, x = y / height, x / width
    horizon = rng.uniform(0.35, 0.5)
    labels = np.where(y < horizon, SKY, PAVEMENT)
    middle, edge = rng.uniform(0.35, 0.65), 0.0
    while edge < 1:
        end = edge + rng.uniform(0.1, 0.3)
        top = rng.uniform(0.05, 0.3) + 0.6 * horizon * (abs((edge + end) / 2 - middle) < 0.15)
        labels[(x >= edge) & (x < end) & (y >= top) & (y < horizon + 0.04)] = BUILDING
        edge = end + rng.choice([0.0, 0.08])
    half = 0.04 + rng.uniform(0.4, 0.6) * (y - horizon) / (1 - horizon)
    labels[(y >= horizon) & (abs(x - middle) < half)] = ROAD
    for _ in range(rng.integers(1, 4)):
        at, size = rng.uniform(0, 1), rng.uniform(0.06, 0.14)
        labels[(x - at) ** 2 / 0.6 + (y - horizon + size) ** 2 < size**2] = TREE
        labels[(abs(x - at) < 0.012) & (y > horizon - size) & (y < horizon + 0.06)] = TREE
    for _ in range(rng.integers(1, 4)):
        depth = rng.uniform(0.15, 0.8)
        size, base = 0.04 + 0.14 * depth, horizon + depth * (1 - horizon)
        at = middle + rng.uniform(-0.3, 0.3) * depth
        labels[(abs(x - at) < size) & (y < base) & (y > base - 0.9 * size)] = CAR
    return labels


def seen(rng: np.random.Generator, labels: np.ndarray, *, dusk: bool) -> np.ndarray:
    """A picture of a street, `[height, width, 3]`, uint8."""
    colours = _COLOURS + rng.normal(0, 14, _COLOURS.shape)
    colours[CAR] = rng.uniform(20, 230, 3)
    pixels = colours[labels]
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
    windows = 25 * ((y % 4 < 2) & (x % 5 < 3)) * (labels == BUILDING)
    leaves = rng.normal(0, 22, labels.shape) * (labels == TREE)
    pixels = pixels + (windows + leaves + rng.normal(0, 6, labels.shape))[..., None]
    pixels = np.clip(pixels, 0, 255) / 255
    if dusk:
        red = np.where(labels == SKY, 1.0, 0.0)[..., None]
        pixels = pixels ** rng.uniform(1.3, 1.7) * rng.uniform(0.35, 0.5)
        pixels = pixels * (1 - red * [0.0, 0.35, 0.6]) * [0.85, 0.9, 1.15]
        pixels = pixels + rng.normal(0, 0.03, pixels.shape)
    return (255 * np.clip(pixels, 0, 1)).astype(np.uint8)


def streets(number: int, size: tuple[int, int], seed: int, *, dusk: bool) -> Masked:
    """Streets of one time of the day.

    Args:
      number: N.
      size: height and width.
      seed: of all draws; streets of other seeds are others.
      dusk: the time.
    """
    rng = np.random.default_rng([seed, dusk])
    labels = [street(rng, *size) for _ in range(number)]
    images = [seen(rng, one, dusk=dusk) for one in labels]
    about = f"{number} made-up streets {'at dusk' if dusk else 'by day'}"
    return Masked(np.stack(images), np.stack(labels).astype(np.int32), about)
