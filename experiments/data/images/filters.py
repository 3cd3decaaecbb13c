"""What corruptions are made of: blurs, zooms, samples, colours, height maps of many images at once.

Images are `[N, 32, 32, ...]`; nothing here knows a severity.
"""

import numpy as np
from scipy import ndimage

from jaxtta.images.changes.corruptions import SIDE, zoom_matrix


def gaussian(
    x: np.ndarray, sigma: float, mode: str = "nearest", truncate: float = 4.0
) -> np.ndarray:
    """Blurs axes 1 and 2 of `[N, 32, 32, ...]`."""
    sigmas = (0, sigma, sigma) + (0,) * (x.ndim - 3)
    return ndimage.gaussian_filter(x, sigmas, mode=mode, truncate=truncate)


def motion(pixels: np.ndarray, radius: int, sigma: float, degrees: np.ndarray) -> np.ndarray:
    """One-sided Gaussian blur along a direction per image; pixels 0..255, `[N, 32, 32, ...]`."""
    taps = np.arange(2 * radius + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    angle = np.deg2rad(degrees)[:, None]
    down = np.ceil(taps * np.sin(angle) - 0.5).astype(int)
    right = np.ceil(taps * np.cos(angle) - 0.5).astype(int)
    image, place = np.arange(len(pixels))[:, None, None], np.arange(SIDE)
    total = np.zeros(pixels.shape)
    for i, weight in enumerate(weights):
        rows = np.clip(place + down[:, i, None], 0, SIDE - 1)[:, :, None]
        columns = np.clip(place + right[:, i, None], 0, SIDE - 1)[:, None, :]
        total += weight * pixels[image, rows, columns]
    return np.floor(total + 1e-9)


def zoomed(x: np.ndarray, factor: float) -> np.ndarray:
    """The centre of each image enlarged by `factor`, linearly, as `scipy.ndimage.zoom` does."""
    matrix = zoom_matrix(float(factor)).astype(x.dtype)
    rows = np.tensordot(x, matrix, axes=(1, 1))  # [N, w, ..., h]
    both = np.tensordot(rows, matrix, axes=(1, 1))  # [N, ..., h, w]
    return np.moveaxis(both, (-2, -1), (1, 2))


def sampled(x: np.ndarray, rows: np.ndarray, columns: np.ndarray, mode: str) -> np.ndarray:
    """Bilinear samples of `[N, 32, 32, 3]` at `[N, 32, 32]` places; mode as in SciPy."""

    def inside(i: np.ndarray) -> np.ndarray:
        period = 2 * SIDE if mode == "reflect" else 2 * SIDE - 2
        i = i % period
        return np.where(i < SIDE, i, (period - 1 - i) if mode == "reflect" else period - i)

    image = np.arange(len(x))[:, None, None]
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    at = lambda i, j: x[image, inside(top + i), inside(left + j)]
    upper = at(0, 0) * (1 - right) + at(0, 1) * right
    return upper * (1 - down) + (at(1, 0) * (1 - right) + at(1, 1) * right) * down


def to_hsv(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue in turns, saturation and value, each `[...]`, of colours `[..., 3]` in [0, 1]."""
    value, spread = x.max(-1), np.ptp(x, axis=-1)
    red, green, blue = np.moveaxis(x, -1, 0)
    safe = np.where(spread > 0, spread, 1)
    hue = np.where(blue == value, 4 + (red - green) / safe, 0.0)
    hue = np.where(green == value, 2 + (blue - red) / safe, hue)
    hue = np.where(red == value, (green - blue) / safe, hue)
    hue = np.where(spread > 0, hue / 6 % 1.0, 0)
    return hue, np.where(value > 0, spread / np.where(value > 0, value, 1), 0), value


def from_hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Inverse of `to_hsv`."""
    sector = np.floor(hue * 6)
    rest = hue * 6 - sector
    p, q = value * (1 - saturation), value * (1 - rest * saturation)
    t = value * (1 - (1 - rest) * saturation)
    choices = [
        (value, t, p),
        (q, value, p),
        (p, value, t),
        (p, q, value),
        (t, p, value),
        (value, p, q),
    ]
    table = np.stack([np.stack(c, -1) for c in choices])
    index = (sector.astype(int) % 6)[None, ..., None]
    return np.take_along_axis(table, index, 0)[0]


def plasma(number: int, decay: float, rng: np.random.Generator, side: int = SIDE) -> np.ndarray:
    """Diamond-square height maps on a torus, each scaled to [0, 1], `[number, side, side]`."""
    heights = np.zeros((number, side, side))
    step, amplitude = side, 100.0

    def bumped(total: np.ndarray) -> np.ndarray:
        return total / 4 + amplitude * rng.uniform(-amplitude, amplitude, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        total = corners + np.roll(corners, -1, 1)
        heights[:, half::step, half::step] = bumped(total + np.roll(total, -1, 2))
        centres = heights[:, half::step, half::step]
        above = centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 2)
        heights[:, ::step, half::step] = bumped(above)
        beside = centres + np.roll(centres, 1, 2) + corners + np.roll(corners, -1, 1)
        heights[:, half::step, ::step] = bumped(beside)
        step, amplitude = half, amplitude / decay
    heights -= heights.min((1, 2), keepdims=True)
    return heights / heights.max((1, 2), keepdims=True)


def shine(liquid: np.ndarray) -> np.ndarray:
    """Relief of drops from the distance to their edges, 0..255, one image `[32, 32]`."""
    slope = [ndimage.sobel(liquid, axis, mode="nearest") for axis in (0, 1)]
    size = np.abs(slope[0]) + np.abs(slope[1])
    thin = (size >= ndimage.maximum_filter1d(size, 3, axis=0)) | (
        size >= ndimage.maximum_filter1d(size, 3, axis=1)
    )
    parts, _ = ndimage.label(thin & (size > 50), np.ones((3, 3)))
    edges = np.isin(parts, np.unique(parts[thin & (size > 150)])) & (parts > 0)
    far = ndimage.distance_transform_edt(~edges) if edges.any() else np.full(liquid.shape, 20.0)
    far = np.floor(ndimage.uniform_filter(np.minimum(far, 20), 3, mode="mirror")).astype(np.uint8)
    order = np.cumsum(np.bincount(far.ravel(), minlength=256))
    lowest = order[order > 0][0]
    span = max(order[-1] - lowest, 1)
    equal = np.rint(np.clip((order - lowest) / span, 0, 1) * 255)[far]
    relief = ndimage.correlate(equal, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror")
    return ndimage.uniform_filter(np.clip(relief, 0, 255), 3, mode="mirror")
