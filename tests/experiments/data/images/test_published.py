"""Published corruptions: both layouts of files, and what cannot be matched is refused."""

import numpy as np
import pytest
from PIL import Image

from experiments.data.images import cropping, labelled, published
from experiments.data.images.published import BLOCK, read
from jaxtrain.host.config import UsageError

RNG = np.random.default_rng(0)


def clean(number=4, size=32, names=None):
    pixels = RNG.integers(0, 256, (number, size, size, 3)).astype(np.uint8)
    return labelled.Images(pixels, np.arange(number) % 3, "made", names=names)


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    """Severities 1 to 5 in blocks of ten."""
    monkeypatch.setattr(published, "BLOCK", 10)
    assert BLOCK == 10_000
    stored = RNG.integers(0, 256, (50, 32, 32, 3)).astype(np.uint8)
    np.save(tmp_path / "fog.npy", stored)
    return tmp_path, stored


def test_arrays_are_read_by_severity_and_fitted(arrays):
    folder, stored = arrays
    np.testing.assert_array_equal(read(str(folder), "fog", 3, clean()), stored[20:24])
    larger = np.stack([cropping.fitted(pixels, 48) for pixels in stored[20:24]])
    assert larger.shape == (4, 48, 48, 3)
    np.testing.assert_array_equal(read(str(folder), "fog", 3, clean(size=48)), larger)
    with pytest.raises(UsageError, match="has 10 images of severity 5, but there are 12 clean"):
        read(str(folder), "fog", 5, clean(12))
    with pytest.raises(UsageError, match="neither .*/snow.npy nor .*/snow/1/ exists"):
        read(str(folder), "snow", 1, clean())


def test_damaged_and_other_arrays_are_named(arrays):
    folder, stored = arrays
    whole = (folder / "fog.npy").read_bytes()
    for content in (whole[:-9], whole[:20], b"", b"no array"):
        (folder / "fog.npy").write_bytes(content)
        with pytest.raises(UsageError, match="fog.npy is damaged or no .npy file"):
            read(str(folder), "fog", 1, clean())
    for other in (stored / 255, stored[..., 0], stored.transpose(0, 3, 1, 2)):
        np.save(folder / "fog.npy", other)
        with pytest.raises(UsageError, match=r"expected images \[N, H, W, 3\], uint8"):
            read(str(folder), "fog", 1, clean())


def test_labels_beside_the_arrays_must_agree(arrays):
    folder, stored = arrays
    np.save(folder / "labels.npy", np.tile(np.arange(10) % 3, 5))
    np.testing.assert_array_equal(read(str(folder), "fog", 2, clean(10)), stored[10:20])
    np.save(folder / "labels.npy", np.tile(np.arange(1, 11) % 3, 5))
    with pytest.raises(UsageError, match="labels.npy does not agree with the labels of made"):
        read(str(folder), "fog", 2, clean(10))


def test_pictures_are_matched_by_class_and_file(tmp_path):
    names = np.array(["b/2.png", "a/1.png", "b/1.png"])
    for i, name in enumerate([*sorted(names), "a/0.png"]):  # one more is no harm
        file = tmp_path / "fog" / "3" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 50 * i, np.uint8)).save(file)
    found = read(str(tmp_path), "fog", 3, clean(3, names=names))
    np.testing.assert_array_equal(found[:, 0, 0, 0], [100, 0, 50])
    with pytest.raises(UsageError, match="1 of 3 clean images have no copy in .*, b/3.png first"):
        read(str(tmp_path), "fog", 3, clean(3, names=np.array(["b/2.png", "b/3.png", "a/1.png"])))
    with pytest.raises(UsageError, match="only to clean ones in folders .*, not to made"):
        read(str(tmp_path), "fog", 3, clean(3))
    with pytest.raises(UsageError, match="neither .*/fog.npy nor .*/fog/4/ exists"):
        read(str(tmp_path), "fog", 4, clean(3, names=names))
