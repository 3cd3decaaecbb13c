"""Files of named arrays: round trips, and one sentence for what cannot be read."""

import ast
import io
import json
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from safetensors.numpy import save

from jaxtrain import npz
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError
from tests import corrupted
from tests.source_tree import sources

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
    with pytest.raises(UsageError, match="it is no archive, but a single array"):
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
        UsageError, match=r"weights\.pt; use a file \.npz, \.safetensors, \.msgpack or \.gguf"
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


def packed(kind, given):
    """The bytes of a file of this kind."""
    file = io.BytesIO()
    match kind:
        case "packed.npz":
            np.savez_compressed(file, **given)
        case "stored.npz":
            np.savez(file, **given)
        case "some.safetensors":
            return save(given)
        case "some.msgpack":
            return msgpack_serialize({"params": dict(given), "step": 3})
        case "one.npy":
            np.save(file, given["a"])
    return file.getvalue()


KINDS = ("packed.npz", "stored.npz", "some.safetensors", "some.msgpack", "one.npy")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_named(kind, tmp_path):
    rng = np.random.default_rng(1)
    given = {"a": rng.normal(size=(3, 4)).astype(np.float32), "b": np.arange(5), "c": np.ones(())}
    path, refused = tmp_path / kind, 0
    read = arrays.read_npy if kind == "one.npy" else arrays.read
    for content in corrupted.copies(packed(kind, given), 150):
        path.write_bytes(content)
        try:
            read(path)
        except UsageError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert refused > 50


def header(shape, dtype="<f4"):
    """The beginning of an `.npy` file."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("shape", ["(999999999999,)", "(4294967296, 4294967296)", "(-1,)", "(3,)"])
def test_shapes_that_a_file_cannot_hold_are_refused_before_memory_is_taken(shape, tmp_path):
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("x.npy", header(shape) + bytes(8))
    with pytest.raises(UsageError, match=r"x\.npy says it has shape .* but 8 bytes follow"):
        arrays.read(tmp_path / "huge.npz")
    (tmp_path / "huge.npy").write_bytes(header(shape) + bytes(8))
    with pytest.raises(UsageError, match=r"huge\.npy .* it says it has shape .* but 8 bytes"):
        arrays.read_npy(tmp_path / "huge.npy")
    tensor = {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    text = json.dumps(tensor).encode()
    (tmp_path / "huge.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(UsageError, match="huge.safetensors is damaged"):
        arrays.read(tmp_path / "huge.safetensors")


def test_decompression_bombs_are_refused_unopened(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "LARGE", 10_000)
    given = {"x": np.zeros(2_000), "y": np.random.default_rng(0).normal(size=5_000)}
    np.savez_compressed(tmp_path / "bomb.npz", x=given["x"])  # 16,000 bytes in 300
    arrays.read(tmp_path / "bomb.npz")
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(100_000))
    with pytest.raises(UsageError, match=r"bytes would unpack to 8001\d\d, which no honest file"):
        arrays.read(tmp_path / "bomb.npz")
    arrays.write(tmp_path / "large.npz", given)
    same(arrays.read(tmp_path / "large.npz"), given)


def test_only_numbers_are_arrays(tmp_path):
    np.savez(tmp_path / "some.npz", words=np.array(["cat", "dog"]), good=np.ones(2))
    assert set(arrays.read(tmp_path / "some.npz", ["good"])) == {"good"}
    with pytest.raises(UsageError, match=r"some\.npz: words is of type <U3, not an array of num"):
        arrays.read(tmp_path / "some.npz")
    (tmp_path / "some.msgpack").write_bytes(msgpack_serialize({"params": "cat", "empty": None}))
    with pytest.raises(UsageError, match=r"some\.msgpack: params is of type <U3, not an array"):
        arrays.read(tmp_path / "some.msgpack")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_weights_are_finite(value, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, good=np.ones(3), kernel=np.array([0, value, value]), steps=np.arange(3))
    assert len(arrays.read(path)) == 3
    with pytest.raises(
        UsageError, match=r"weights\.npz: 2 of the 3 values of kernel are not finit"
    ):
        arrays.read(path, finite=True)
    arrays.read(path, ["good", "steps"], finite=True)


@pytest.fixture
def model_file(tmp_path):
    """A `.gguf` file of one array in 4 bits and one in float32."""
    gguf = pytest.importorskip("gguf")
    x = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_block_count(3)
    writer.add_token_list(["a", "b c"])
    kind = gguf.GGMLQuantizationType.Q4_1
    writer.add_tensor("packed", gguf.quants.quantize(x, kind), raw_dtype=kind)
    writer.add_tensor("plain", x[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "model.gguf", x


@pytest.mark.optional_dep
def test_language_models_are_unpacked(model_file):
    path, x = model_file
    found = arrays.read(path, finite=True)
    assert set(found) == {"packed", "plain"} and found["packed"].dtype == np.float32
    np.testing.assert_array_equal(found["plain"], x[0])
    for row, values in zip(found["packed"].reshape(-1, 32), x.reshape(-1, 32), strict=True):
        assert len(np.unique(row)) <= 16 and np.abs(row - values).max() <= np.ptp(values) / 29
    said = arrays.read_metadata(path)
    assert said["general.architecture"] == "llama" and said["llama.block_count"] == 3
    assert said["tokenizer.ggml.tokens"] == ["a", "b c"]


@pytest.mark.optional_dep
def test_damaged_language_models_are_read_or_named(model_file):
    path, _ = model_file
    content, refused = path.read_bytes(), 0
    for copy in corrupted.copies(content, 60):
        path.write_bytes(copy)
        for read in (arrays.read, arrays.read_metadata):
            try:
                read(path)
            except UsageError as error:
                refused += 1
                assert str(path) in str(error) and "\n" not in str(error)
    assert refused > 20
    for read in (arrays.read, arrays.read_metadata):
        with pytest.raises(UsageError, match="other.gguf does not exist"):
            read(path.with_name("other.gguf"))


@pytest.mark.optional_dep
def test_a_list_of_a_language_model_that_no_file_holds_is_not_read(tmp_path):
    """The package would read it for years."""
    pytest.importorskip("gguf")
    content = struct.pack("<IQQQcIIQ", 3, 0, 1, 1, b"x", 9, 0, 2**60)
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + content + bytes(64))
    for read in (arrays.read, arrays.read_metadata):
        with pytest.raises(UsageError, match="model.gguf is damaged .* more than 4000000 values"):
            read(tmp_path / "model.gguf")


def test_an_array_on_disk(tmp_path):
    np.save(tmp_path / "some.npy", GIVEN["layer/kernel"])
    found = arrays.read_npy(tmp_path / "some.npy")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, GIVEN["layer/kernel"])
    np.save(tmp_path / "some.npy", np.array([print], dtype=object))
    with pytest.raises(UsageError, match=r"some\.npy is damaged or no \.npy file"):
        arrays.read_npy(tmp_path / "some.npy")
    with pytest.raises(UsageError, match="other.npy does not exist"):
        arrays.read_npy(tmp_path / "other.npy")
    with pytest.raises(UsageError, match="Is a directory"):
        arrays.read_npy(tmp_path)


def test_nothing_else_reads_arrays():
    """NumPy's own readers believe what a file says of its sizes, and unpickle."""
    readers = {"np.load", "np.fromfile", "np.lib.format.open_memmap", "pickle.load", "torch.load"}
    tree = sources("jaxtrain", "jaxtta", "jaxrl", "experiments", "configs")
    found = {
        str(path)
        for path, source in tree.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in readers
    }
    pipes = {"experiments/data/arc/pool.py", "experiments/data/arc/worker.py"}  # to own processes
    assert found == {"jaxtrain/npz.py", *pipes}


def test_a_tree_is_made_once(tmp_path):
    tree = {"a": (np.arange(3), np.ones(())), "b": {"c": np.zeros((2, 2), np.float32)}}
    made = []

    def make():
        made.append(1)
        return tree

    for _ in range(2):
        found = arrays.kept(tmp_path / "tree.npz", tree, make)
        np.testing.assert_array_equal(found["a"][0], tree["a"][0])
        assert found["b"]["c"].dtype == np.float32 and found["a"][1] == 1
    assert made == [1]
    with pytest.raises(UsageError, match="lacks d"):
        arrays.kept(tmp_path / "tree.npz", {"d": np.zeros(2)}, make)
