"""IDX files of the MNIST family: where they lie, and damaged ones."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from experiments.data.images import idx, loader, vectors
from jaxtrain.host.config import UsageError
from tests import corrupted

RNG = np.random.default_rng(0)
IMAGES = {part: RNG.integers(0, 256, (12, 4, 4), np.uint8) for part in ("train", "test")}
LABELS = {"train": np.arange(12, dtype=np.uint8) % 3, "test": np.arange(12, dtype=np.uint8) % 2}


def write(folder, zipped=False):
    folder.mkdir(exist_ok=True)
    for part, stem in (("train", "train"), ("test", "t10k")):
        for kind, array in (("images", IMAGES[part]), ("labels", LABELS[part])):
            content = bytes([0, 0, 8, array.ndim])
            content += struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()
            file = folder / f"{stem}-{kind}-idx{array.ndim}-ubyte"
            if zipped:
                Path(f"{file}.gz").write_bytes(gzip.compress(content))
            else:
                file.write_bytes(content)


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch):
    monkeypatch.delenv("JAXTTA_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_by_directory_or_environment(tmp_path, monkeypatch, zipped):
    write(tmp_path / "fashion-mnist", zipped)
    found = loader.read("fashion_mnist", "train", str(tmp_path))
    np.testing.assert_array_equal(found.images, IMAGES["train"])
    np.testing.assert_array_equal(found.labels, LABELS["train"])
    assert found.provenance == "fashion_mnist/idx"
    scaled = vectors.load("fashion_mnist", size=4, data_dir=str(tmp_path))
    # Published constants of the set, not those of MNIST and not those of these twelve images.
    expected = (IMAGES["train"] / 255 - 0.2860) / 0.3530
    np.testing.assert_allclose(scaled.x_train, expected.reshape(12, 16), atol=1e-5)
    monkeypatch.setenv("JAXTTA_DATA", str(tmp_path))
    np.testing.assert_array_equal(vectors.load("fashion_mnist", size=4).x_test, scaled.x_test)
    coloured = loader.load("fashion_mnist", "test", size=4)
    np.testing.assert_array_equal(coloured.images, np.stack([IMAGES["test"]] * 3, -1))


def test_all_four_must_be_there_and_whole(tmp_path):
    write(tmp_path)
    found = loader.read("mnist", "test", str(tmp_path))
    assert found.provenance == "mnist/idx"
    np.testing.assert_array_equal(found.labels, LABELS["test"])
    file = tmp_path / "t10k-images-idx3-ubyte"
    whole = file.read_bytes()
    signed = b"\0\0\x09" + whole[3:]
    for content in (signed, whole[:5], b"", b"<html>not found</html>"):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="t10k-images-idx3-ubyte is damaged or no IDX file"):
            loader.read("mnist", "test", str(tmp_path))
    for content in (whole[:-1], whole + b"\0"):
        file.write_bytes(content)
        with pytest.raises(UsageError, match=r"shape \[12, 4, 4\], but has not as many bytes"):
            loader.read("mnist", "test", str(tmp_path))
    Path(f"{file}.gz").write_bytes(b"no gzip")
    file.unlink()
    with pytest.raises(UsageError, match="is damaged or no IDX file"):
        loader.read("mnist", "test", str(tmp_path))
    Path(f"{file}.gz").unlink()
    with pytest.raises(UsageError, match="no mnist train images were found .*the four IDX"):
        loader.read("mnist", "train", str(tmp_path))


@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_files_are_read_or_named(tmp_path, zipped):
    content = bytes([0, 0, 8, 3]) + struct.pack(">3i", 12, 4, 4) + IMAGES["test"].tobytes()
    path, refused = tmp_path / f"images{'.gz' * zipped}", 0
    for damaged in corrupted.copies(gzip.compress(content) if zipped else content, 60):
        path.write_bytes(damaged)
        try:
            idx.array(path)
        except UsageError as error:
            refused += 1
            assert f"{path} is damaged or no IDX file" in str(error)
    assert refused > 20


def test_sizes_that_a_file_cannot_hold_are_refused_before_memory_is_taken(tmp_path):
    huge = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(100)
    (tmp_path / "images").write_bytes(huge)
    (tmp_path / "images.gz").write_bytes(gzip.compress(huge))
    for name in ("images", "images.gz"):
        with pytest.raises(UsageError, match=r"its \d+ bytes would unpack to 79228162458924105"):
            idx.array(tmp_path / name)
