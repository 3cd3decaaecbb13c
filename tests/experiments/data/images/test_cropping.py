"""Square pictures, against torchvision's rule."""

import numpy as np
import pytest
from PIL import Image

from experiments.data.images import cropping

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "shape, size, resized, corner",
    [
        ((375, 500), 224, (256, 341), (16, 58)),  # torchvision's Resize(256), CenterCrop(224)
        ((500, 333), 224, (384, 256), (80, 16)),
        ((256, 256), 224, (256, 256), (16, 16)),
        ((60, 90), 64, (73, 109), (4, 22)),
        ((20, 31), 32, (37, 57), (2, 12)),
    ],
)
def test_other_sizes_are_resized_and_cropped(shape, size, resized, corner):
    """Against one resampling of a box of the picture; the next column and row are far off."""
    y, x = np.mgrid[: shape[0], : shape[1]] * (64 / min(shape))
    smooth = np.stack([127 + 100 * np.sin(x / 3), 127 + 100 * np.cos(y / 3), 127 + x - y], -1)
    pixels = smooth.clip(0, 255).astype(np.uint8)
    scale = np.divide(shape, resized)

    def boxed(top, left):
        upper, lower = (
            np.multiply((top, left), scale),
            np.multiply((top + size, left + size), scale),
        )
        box = (upper[1], upper[0], lower[1], lower[0])
        small = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box)
        return np.asarray(small).astype(int)

    found = cropping.fitted(pixels, size)
    assert found.shape == (size, size, 3) and found.dtype == np.uint8
    np.testing.assert_allclose(found, boxed(*corner), atol=1)
    top, left = corner
    for beside in ((top, left + 1), (top + 1, left), (top, left - 1), (top - 1, left)):
        assert np.abs(found - boxed(*beside)).max() > 3


def test_downsizing_averages_and_fitting_images_are_left_alone():
    stripes = np.zeros((224, 224, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(cropping.fitted(stripes, 32).astype(int) - 127).max() <= 2
    picture = PIXELS[0]
    assert cropping.fitted(picture, 32) is picture


def test_pictures_keep_their_kind_or_become_colour(tmp_path):
    grey = PIXELS[0, ..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(cropping.pixels(tmp_path / "grey.png"), grey)
    coloured = cropping.opened(tmp_path / "grey.png", 32)
    np.testing.assert_array_equal(coloured, np.stack([grey] * 3, -1))
    Image.fromarray(PIXELS[0]).convert("RGBA").save(tmp_path / "clear.png")
    np.testing.assert_array_equal(cropping.pixels(tmp_path / "clear.png"), PIXELS[0])
