"""The 19 corruptions of CIFAR-10-C in 5 severities, for 32 x 32 images.

Every function takes images `[N, 32, 32, 3]` in [0, 1], a severity 1 to 5 and a NumPy generator, and
draws anew for every image. `corrupt` goes from pixels to pixels. Written from the published
generator (hendrycks/robustness, make_cifar_c.py) without OpenCV, scikit-image and ImageMagick:
what is deterministic equals it to a pixel value of 1; the rest in distribution. What they are made
of is in `filters`; constants of the twelve that also run on the device are in
`jaxtta.images.changes.corruptions`.

References:
  Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
  Perturbations, ICLR 2019.
"""

import functools
import importlib.util
import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

from experiments.data.images import filters
from jaxtrain.host.extras import import_extra
from jaxtta.images.changes.corruptions import (
    SIDE,
    check,
    constant,
    defocus_kernel,
    zoom_factors,
)

STANDARD = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")

Rng = np.random.Generator
GREY = np.array([0.299, 0.587, 0.114])


def corrupt(images: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Corrupts images; equal arguments give equal results.

    Args:
      images: `[N, 32, 32, 3]`, uint8.
      name: one of `STANDARD` or `EXTRA`.
      severity: 1 to 5; 0 returns the images.
      seed: of the draws, mixed with name and severity.

    Returns:
      `[N, 32, 32, 3]`, uint8.

    Raises:
      ValueError: unknown name, severity, or other images.
    """
    check(name, CORRUPTIONS, severity, images.shape)
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8 but are {images.dtype}.")
    if severity == 0:
        return images.copy()
    rng = np.random.default_rng([seed, severity, zlib.crc32(name.encode())])
    # In parts, so that memory does not grow with the data set.
    parts = np.array_split(images, max(1, -(-len(images) // 1000)))
    done = [CORRUPTIONS[name](part / 255.0, severity, rng) for part in parts]
    return np.concatenate([(np.clip(x, 0, 1) * 255).astype(np.uint8) for x in done])


# --- Noise ----------------------------------------------------------------------------------------


def gaussian_noise(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    return x + rng.normal(scale=constant("gaussian_noise", severity), size=x.shape)


def shot_noise(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    photons = constant("shot_noise", severity)
    return rng.poisson(x * photons) / photons


def impulse_noise(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    hit = rng.random(x.shape) < constant("impulse_noise", severity)
    return np.where(hit, rng.random(x.shape) < 0.5, x)


def speckle_noise(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    return x + x * rng.normal(scale=constant("speckle_noise", severity), size=x.shape)


# --- Blur -----------------------------------------------------------------------------------------


def gaussian_blur(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    return filters.gaussian(x, constant("gaussian_blur", severity))


def defocus_blur(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    kernel = defocus_kernel(severity)
    return ndimage.correlate(x, kernel[None, :, :, None], mode="mirror")


def glass_blur(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    # As published the neighbour is copied, not exchanged: array views alias.
    sigma, reach, repeats = [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)][
        severity - 1
    ]
    x = (np.clip(filters.gaussian(x, sigma), 0, 1) * 255).astype(np.uint8)
    image = np.arange(len(x))
    for _ in range(repeats):
        for row in range(SIDE - reach, reach, -1):
            for column in range(SIDE - reach, reach, -1):
                dx, dy = rng.integers(-reach, reach, (2, len(x)))
                x[:, row, column] = x[image, row + dy, column + dx]
    return filters.gaussian(x / 255.0, sigma)


def motion_blur(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    radius, sigma = [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)][severity - 1]
    return filters.motion(np.rint(x * 255), radius, sigma, rng.uniform(-45, 45, len(x))) / 255


def zoom_blur(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    factors = zoom_factors(severity)
    x = x.astype(np.float32)
    return (x + sum(filters.zoomed(x, f) for f in factors)) / np.float32(len(factors) + 1)


# --- Weather --------------------------------------------------------------------------------------


def snow(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    mean, spread, zoom, threshold, radius, sigma, kept = [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ][severity - 1]
    layer = filters.zoomed(rng.normal(mean, spread, x.shape[:3]), zoom)
    layer = np.floor(np.clip(np.where(layer < threshold, 0, layer), 0, 1) * 255)
    layer = filters.motion(layer, radius, sigma, rng.uniform(-135, -45, len(x)))[..., None] / 255
    pale = np.maximum(x, (x @ GREY)[..., None] * 1.5 + 0.5)
    return kept * x + (1 - kept) * pale + layer + layer[:, ::-1, ::-1]


def fog(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    thickness, decay = constant("fog", severity)
    brightest = x.max((1, 2, 3), keepdims=True)
    mist = filters.plasma(len(x), decay, rng)[..., None]
    return (x + thickness * mist) * brightest / (brightest + thickness)


@functools.cache
def frost_pictures() -> tuple[np.ndarray, ...]:
    """The first five frost photographs at a fifth of their size, uint8; empty if not installed.

    They are files of the package `imagecorruptions`, which is not imported.
    """
    Image = import_extra("PIL.Image", "experiments")
    spec = importlib.util.find_spec("imagecorruptions")
    if spec is None or not spec.submodule_search_locations:
        return ()
    folder = Path(spec.submodule_search_locations[0]) / "frost"
    names = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
    pictures = (np.asarray(Image.open(folder / name).convert("RGB")) for name in names)
    return tuple(picture[2::5, 2::5] for picture in pictures)


def _frost_texture(number: int, rng: Rng) -> np.ndarray:
    """Ridged height maps in pale blue, the stand-in for the photographs; 0..1."""
    ridges = 1 - np.abs(2 * filters.plasma(number, 1.6, rng) - 1)
    return ridges[..., None] * np.array([0.78, 0.86, 0.92])


def frost(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    image, ice = [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)][severity - 1]
    pictures = frost_pictures()
    if not pictures:
        return image * x + ice * _frost_texture(len(x), rng)
    crops = []
    for index in rng.integers(len(pictures), size=len(x)):
        picture = pictures[index]
        row, column = rng.integers(0, np.array(picture.shape[:2]) - SIDE)
        crops.append(picture[row : row + SIDE, column : column + SIDE])
    return image * x + ice * np.stack(crops) / 255.0


def spatter(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    mean, spread, sigma, threshold, strength, mud = [
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    ][severity - 1]
    liquid = filters.gaussian(rng.normal(mean, spread, x.shape[:3]), sigma)
    liquid = np.where(liquid < threshold, 0, liquid)
    if mud:
        cover = filters.gaussian((liquid > threshold).astype(np.float64), strength)
        cover = np.where(cover < 0.8, 0, cover)[..., None]
        return x * (1 - cover) + cover * np.array([63, 42, 20]) / 255
    shine = np.stack([filters.shine(layer) for layer in np.floor(np.clip(liquid, 0, 1) * 255)])
    drops = np.floor(np.clip(liquid, 0, 1) * 255) * shine
    drops *= strength / np.maximum(drops.max((1, 2), keepdims=True), 1e-9)
    return x + drops[..., None] * np.array([175, 238, 238]) / 255


# --- Digital --------------------------------------------------------------------------------------


def brightness(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    hue, saturation, value = filters.to_hsv(x)
    brighter = np.clip(value + constant("brightness", severity), 0, 1)
    return filters.from_hsv(hue, saturation, brighter)


def saturate(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    factor, shift = constant("saturate", severity)
    hue, saturation, value = filters.to_hsv(x)
    return filters.from_hsv(hue, np.clip(saturation * factor + shift, 0, 1), value)


def contrast(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    means = x.mean((1, 2), keepdims=True)
    return (x - means) * constant("contrast", severity) + means


def elastic_transform(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    strength, sigma, jitter = (
        SIDE
        * np.array(
            [
                (0, 0, 0.08),
                (0.05, 0.2, 0.07),
                (0.08, 0.06, 0.06),
                (0.1, 0.04, 0.05),
                (0.1, 0.03, 0.03),
            ]
        )[severity - 1]
    )
    number = len(x)
    points = np.array([[26.0, 26.0, 1], [26, 6, 1], [6, 6, 1]])  # x, y, 1
    moved = points[:, :2] + rng.uniform(-jitter, jitter, (number, 3, 2))
    # Rows of `moved` = points @ affine; the picture is sampled at the inverse.
    affine = np.linalg.solve(points, moved)  # [N, 3, 2]
    y, z = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    target = np.stack([z, y], -1) - affine[:, None, None, 2]
    origin = np.einsum("nhwi,nij->nhwj", target, np.linalg.inv(affine[:, :2]))
    x = filters.sampled(x, origin[..., 1], origin[..., 0], "mirror")
    shift = rng.uniform(-1, 1, (2, number, SIDE, SIDE))
    right, down = (filters.gaussian(s, sigma, "reflect", 3.0) * strength for s in shift)
    return filters.sampled(x, y + down, z + right, "reflect")


def _through_pillow(x: np.ndarray, change: Callable) -> np.ndarray:
    Image = import_extra("PIL.Image", "experiments")
    pixels = np.rint(x * 255).astype(np.uint8)
    return np.stack([np.asarray(change(Image.fromarray(p))) for p in pixels]) / 255.0


def pixelate(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    Image = import_extra("PIL.Image", "experiments")
    side = int(SIDE * constant("pixelate", severity))
    box = Image.Resampling.BOX
    return _through_pillow(x, lambda p: p.resize((side, side), box).resize((SIDE, SIDE), box))


def jpeg_compression(x: np.ndarray, severity: int, rng: Rng) -> np.ndarray:
    Image = import_extra("PIL.Image", "experiments")

    def change(picture):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=[80, 65, 58, 50, 40][severity - 1])
        return Image.open(file)

    return _through_pillow(x, change)


CORRUPTIONS: dict[str, Callable[[np.ndarray, int, Rng], np.ndarray]] = {
    function.__name__: function
    for function in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        defocus_blur,
        glass_blur,
        motion_blur,
        zoom_blur,
        snow,
        frost,
        fog,
        brightness,
        contrast,
        elastic_transform,
        pixelate,
        jpeg_compression,
        speckle_noise,
        gaussian_blur,
        spatter,
        saturate,
    )
}
