"""Square pictures, against torchvision's rule."""

import io

import numpy as np
import pytest
from PIL import Image

from experiments.data.images import cropping
from jaxtrain.host.config import UsageError
from tests import corrupted

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


def test_grey_pictures_of_16_bits_become_bytes(tmp_path):
    deep = np.random.default_rng(1).integers(0, 65_536, (9, 7)).astype(np.uint16)
    deep[0, :3] = 0, 32_767, 65_535
    Image.fromarray(deep).save(tmp_path / "deep.png")
    found = cropping.pixels(tmp_path / "deep.png")
    np.testing.assert_array_equal(found, np.rint(deep / 257))
    assert found[0, :3].tolist() == [0, 127, 255] and found.dtype == np.uint8
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "real.tiff")
    with pytest.raises(UsageError, match="real.tiff is .*: its pixels are real numbers"):
        cropping.pixels(tmp_path / "real.tiff")
    Image.fromarray(deep.astype(np.int32) * 9).save(tmp_path / "deeper.tiff")
    with pytest.raises(UsageError, match="more than 16 bits"):
        cropping.pixels(tmp_path / "deeper.tiff")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP"])
def test_damaged_pictures_are_read_or_named(kind, tmp_path):
    file, path, refused = io.BytesIO(), tmp_path / "a.picture", 0
    Image.fromarray(PIXELS[0]).save(file, kind)
    for content in corrupted.copies(file.getvalue(), 80):
        path.write_bytes(content)
        try:
            assert cropping.opened(path, 16).shape == (16, 16, 3)
        except UsageError as error:
            refused += 1
            assert "a.picture is damaged or no picture" in str(error) and "\n" not in str(error)
    assert refused > 20


@pytest.mark.filterwarnings("ignore:Image size")
def test_pictures_above_the_limit_are_refused_unopened(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    with pytest.raises(
        UsageError, match="a.png is .* 32 x 32 pixels, above Pillow's limit of 1000"
    ):
        cropping.pixels(tmp_path / "a.png")
    Image.fromarray(np.tile(PIXELS[0], (2, 2, 1))).save(tmp_path / "b.png")
    with pytest.raises(UsageError, match="b.png is damaged or no picture: Image size .4096 pixels"):
        cropping.pixels(tmp_path / "b.png")
