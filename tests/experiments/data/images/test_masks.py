"""Pictures with masks: sizes, numbers without a class, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from experiments.data.images import masks
from jaxtrain.host.config import UsageError


@pytest.fixture
def folder(tmp_path):
    """Two pictures of 4 x 6 pixels, their masks, grey and with a palette, and a text."""
    rng = np.random.default_rng(0)
    (tmp_path / "day").mkdir()
    (tmp_path / "masks").mkdir()
    for name, number in (("a1", 0), ("b1", 1)):
        picture = rng.integers(0, 256, (4, 6, 3)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "day" / f"{name}.png")
        mask = np.full((4, 6), number, np.uint8)
        mask[:2, :2] = 9
        image = Image.fromarray(mask)
        if number:
            image = Image.new("P", (6, 4))
            image.putdata(mask.ravel().tolist())
            image.putpalette(rng.integers(0, 256, 768).tolist())
        image.save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "day" / "notes.txt").write_text("x")
    return tmp_path


def read(folder, pictures="day", size=(4, 6), num_classes=2, void=9):
    return masks.read(pictures, "masks", size, num_classes, void=void, data_dir=str(folder))


def test_pictures_and_masks_are_read_in_the_order_of_their_names(folder):
    found = read(folder)
    for i, name in enumerate(("a1", "b1")):
        picture = np.asarray(Image.open(folder / "day" / f"{name}.png"))
        np.testing.assert_array_equal(found.images[i], picture)
        expected = np.full((4, 6), i)
        expected[:2, :2] = -1
        np.testing.assert_array_equal(found.labels[i], expected)
    assert found.labels.dtype == np.int32 and found.about == "2 pictures day"
    only = read(folder, "day/b*.png")
    np.testing.assert_array_equal(only.images, found.images[1:])


def test_masks_are_resized_to_the_nearest_pixel(folder):
    found = read(folder, size=(2, 3))
    assert found.images.shape == (2, 2, 3, 3)
    np.testing.assert_array_equal(found.labels[1], [[-1, 1, 1], [1, 1, 1]])
    np.testing.assert_array_equal(read(folder, size=(3, 5)).labels[0][2], 0)


def test_what_does_not_fit_is_named(folder):
    with pytest.raises(UsageError, match="mask of a1.png has the class 9, but there are 2 .*=255"):
        read(folder, void=255)
    with pytest.raises(UsageError, match="no picture .* is called night/c"):
        read(folder, "night/c*.png")
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(folder / "masks" / "a1.png")
    with pytest.raises(UsageError, match="has 4 x 6 pixels and its mask 4 x 5"):
        read(folder)
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / "masks" / "a1.png")
    with pytest.raises(UsageError, match="one number for each"):
        read(folder)
    (folder / "masks" / "a1.png").unlink()
    with pytest.raises(UsageError, match="a1.png has no mask"):
        read(folder)
