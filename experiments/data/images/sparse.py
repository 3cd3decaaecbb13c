"""Images as sparse rows of zeros and ones: winners of a random projection, or thinned strokes."""

import numpy as np


def projected(
    images: np.ndarray, mean: np.ndarray, *, num_units: int, num_active: int, seed: int
) -> np.ndarray:
    """The units of a fixed random projection with the largest response, `[N, num_units]`, bool.

    Args:
      images: `[N, ...]`.
      mean: of the training images, `[...]`, which is taken away first.
      num_units: length of a row.
      num_active: ones in every row.
      seed: of the projection.
    """
    flat = (images - mean[None]).reshape(len(images), -1)
    weights = np.random.default_rng(seed).normal(size=(flat.shape[1], num_units))
    response = flat @ weights
    order = np.argpartition(-response, num_active - 1, axis=1)[:, :num_active]
    found = np.zeros((len(flat), num_units), bool)
    np.put_along_axis(found, order, True, axis=1)
    return found


def thinned(images: np.ndarray) -> np.ndarray:
    """Skeletons of black and white images `[N, H, W]`, bool.

    Zhang and Suen, A Fast Parallel Algorithm for Thinning Digital Patterns, 1984: points of the
    edge are taken away from two sides by turns, as long as strokes stay whole.
    """
    x = np.pad(np.asarray(images, bool), ((0, 0), (1, 1), (1, 1)))
    while True:
        before = x.copy()
        for turn in (0, 1):
            # Neighbours clockwise from the one above.
            shifts = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
            p = np.stack([np.roll(x, (-dy, -dx), (1, 2)) for dy, dx in shifts])
            number = p.sum(0)
            changes = (~p & np.roll(p, -1, 0)).sum(0)
            north, east, south, west = p[0], p[2], p[4], p[6]
            if turn == 0:
                open_ = ~(north & east & south) & ~(east & south & west)
            else:
                open_ = ~(north & east & west) & ~(north & south & west)
            x = x & ~((number >= 2) & (number <= 6) & (changes == 1) & open_)
        if (x == before).all():
            return x[:, 1:-1, 1:-1]


def strokes(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Images `[N, H, W]` from 0 to 1, fitted to `height x width`, cut at a half and thinned;
    `[N, height * width]`, bool."""
    import jax

    fitted = np.asarray(jax.image.resize(images, (len(images), height, width), "linear"))
    return thinned(fitted > 0.5).reshape(len(images), -1)


def windows(height: int, width: int, rows: int, columns: int, side: int) -> np.ndarray:
    """Places of square windows on an image, `[rows * columns, side * side]`, evenly spread."""
    top = np.rint(np.linspace(0, height - side, rows)).astype(int)
    left = np.rint(np.linspace(0, width - side, columns)).astype(int)
    y, x = np.mgrid[:side, :side]
    return np.stack([((a + y) * width + b + x).ravel() for a in top for b in left])
