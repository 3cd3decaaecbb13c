"""Headers of language models that lie about their sizes, byte by byte."""

import struct

import pytest

from jaxtrain.host import gguf_header

TEXT, LIST, FLOAT, BYTE = 8, 9, 6, 0


def text(characters):
    return struct.pack("<Q", len(characters)) + characters.encode()


def entry(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def listed(inner, count, *values):
    return struct.pack("<IQ", inner, count) + b"".join(values)


GOOD = (
    entry("general.architecture", TEXT, text("llama")),
    entry("llama.rope.freq_base", FLOAT, struct.pack("<f", 1e4)),
    entry("tokens", LIST, listed(TEXT, 2, text("a"), text("bc"))),
    entry("scores", LIST, listed(FLOAT, 2, bytes(8))),
    entry("nested", LIST, listed(LIST, 1, listed(BYTE, 3, bytes(3)))),
)


def header(entries=GOOD, count=None, tensors=0):
    number = len(entries) if count is None else count
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, number) + b"".join(entries)


def checked(path, content):
    path.write_bytes(content)
    gguf_header.check(path)


def test_an_honest_header_is_read_to_its_end(tmp_path):
    checked(tmp_path / "a.gguf", header())
    checked(tmp_path / "a.gguf", header() + bytes(100))
    swapped = b"GGUF" + struct.pack(">IQQ", 3, 0, 0)
    checked(tmp_path / "a.gguf", swapped)
    for end in range(4, len(header())):
        with pytest.raises(ValueError, match="announces|begin"):
            checked(tmp_path / "a.gguf", header()[:end])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header(count=2**60), r"announces 1152921504606846976 entries of 13 bytes at least, but"),
        (header(tensors=2**63), "announces 9223372036854775808 tensors of 24 bytes"),
        (header((entry("x", LIST, listed(BYTE, 2**60)),)), "more than 4000000 values"),
        (
            header((entry("x", LIST, listed(BYTE, 10**6)),)),
            "1000000 values of 1 bytes at least, bu",
        ),
        (header((entry("x", LIST, listed(TEXT, 10**6)),)), "1000000 texts of 8 bytes"),
        (header((entry("x", TEXT, struct.pack("<Q", 2**62)),)), "values of 1 bytes"),
        (header((entry("x", 77, b""),)), "unknown type 77"),
        (b"GGML" + bytes(40), "does not begin as a .gguf file"),
        (b"GGUF", "does not begin as a .gguf file"),
        (b"", "empty"),
    ],
)
def test_what_a_file_cannot_hold_is_refused_before_memory_is_taken(content, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        checked(tmp_path / "a.gguf", content)


def test_many_short_lists_are_as_many_values(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_header, "MOST_VALUES", 5)
    lists = [entry(f"x{i}", LIST, listed(BYTE, 2, bytes(2))) for i in range(3)]
    checked(tmp_path / "a.gguf", header(lists[:2]))
    with pytest.raises(ValueError, match="more than 5 values"):
        checked(tmp_path / "a.gguf", header(lists))
