"""Files of named arrays: round trips, and one sentence for what cannot be read."""

import ml_dtypes
import numpy as np
import pytest
from flax.serialization import msgpack_serialize

from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError

GIVEN = {
    "layer/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "file": np.array([[1, -2]], np.int8),  # an argument of the writers bears this name
    "scale": np.float32(0.5),
}


def same(found, expected):
    assert set(found) == set(expected)
    for name, x in expected.items():
        assert found[name].dtype == x.dtype and found[name].shape == x.shape
        np.testing.assert_array_equal(found[name], x)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_keep_every_array(suffix, tmp_path):
    path = tmp_path / f"some{suffix}"
    arrays.write(path, GIVEN)
    same(arrays.read(path), GIVEN)
    views = {"turned": np.arange(6.0).reshape(2, 3).T, "every_second": np.arange(8)[::2]}
    arrays.write(path, views)
    same(arrays.read(str(path)), views)
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "something was left behind"


def test_npz_files_are_those_of_numpy(tmp_path):
    given = {name: x for name, x in GIVEN.items() if name != "file"}
    np.savez(tmp_path / "theirs.npz", **given)
    arrays.write(tmp_path / "ours.npz", given)
    assert (tmp_path / "ours.npz").read_bytes() == (tmp_path / "theirs.npz").read_bytes()


def test_half_precision_of_networks(tmp_path):
    half = {"x": np.array([1.5, -2], ml_dtypes.bfloat16)}
    arrays.write(tmp_path / "half.safetensors", half)
    same(arrays.read(tmp_path / "half.safetensors"), half)


def test_trees_of_flax_are_flattened(tmp_path):
    kernel = GIVEN["layer/kernel"]
    tree = {"step": np.int32(3), "params": {"layer": {"kernel": kernel, "bias": kernel[0]}}}
    (tmp_path / "state.msgpack").write_bytes(msgpack_serialize(tree))
    found = arrays.read(tmp_path / "state.msgpack")
    same(
        found, {"step": np.int32(3), "params/layer/kernel": kernel, "params/layer/bias": kernel[0]}
    )


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_only_the_wanted_arrays_are_read(suffix, tmp_path):
    path = tmp_path / f"some{suffix}"
    arrays.write(path, GIVEN)
    same(arrays.read(path, ["file"]), {"file": GIVEN["file"]})
    with pytest.raises(UsageError, match="lacks bias, mean; it holds file, layer/kernel, scale"):
        arrays.read(path, ["bias", "file", "mean"])
    arrays.write(path, {f"{i:02d}": np.zeros(1) for i in range(9)})
    with pytest.raises(UsageError, match=r"lacks x; it holds 00, .*, 07, \.\.\.$"):
        arrays.read(path, ["x"])


def test_unwanted_arrays_are_not_decoded(tmp_path):
    np.savez(tmp_path / "mixed.npz", good=np.ones(2), bad=np.array([print], dtype=object))
    np.testing.assert_array_equal(arrays.read(tmp_path / "mixed.npz", ["good"])["good"], np.ones(2))


def test_pickles_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, leaf=np.array([print], dtype=object))
    with pytest.raises(UsageError, match=r"weights\.npz is damaged or no \.npz file of arrays"):
        arrays.read(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".msgpack"])
@pytest.mark.parametrize("content", [b"", b"not a weight file", b"\x93\x01\x02"])
def test_other_content_is_named(suffix, content, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"weights\{suffix} is damaged or no \{suffix} file"):
        arrays.read(path)


def test_a_single_array_is_named(tmp_path):
    np.save(tmp_path / "one.npy", np.ones(2))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(UsageError, match="it holds a single array"):
        arrays.read(tmp_path / "one.npz")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_truncated_files_are_named(suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    arrays.write(path, {"x": np.arange(100.0)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="is damaged or no"):
        arrays.read(path)


def test_unknown_suffixes_and_missing_files(tmp_path):
    with pytest.raises(
        UsageError, match=r"weights\.pt; use a file \.npz, \.safetensors or \.msgpack"
    ):
        arrays.read(tmp_path / "weights.pt")
    with pytest.raises(UsageError, match=r"weights\.msgpack; use a file \.npz or \.safetensors"):
        arrays.write(tmp_path / "weights.msgpack", GIVEN)
    for suffix in (".npz", ".safetensors", ".msgpack"):
        with pytest.raises(UsageError, match=rf"weights\{suffix} does not exist"):
            arrays.read(tmp_path / f"weights{suffix}")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "kept.safetensors"
    arrays.write(path, GIVEN)
    with pytest.raises(Exception):  # noqa: B017, the format's own error
        arrays.write(path, {"x": np.array(["text"])})
    same(arrays.read(path), GIVEN)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
