"""Conversations with a tiny model of random weights, token by token as in NumPy."""

import builtins
import dataclasses

import jax
import numpy as np
import pytest

from experiments import lm_chat
from experiments.data import lm_assets
from jaxtrain.lm.logits import Options
from tests.experiments.data.lm_files import write_gguf
from tests.jaxtrain.lm import numpy_decoder as reference

pytestmark = pytest.mark.optional_dep


@pytest.fixture
def weights(tmp_path):
    return write_gguf(tmp_path / "model.gguf")


def type_lines(monkeypatch, *lines):
    given = iter(lines)

    def line(prompt):
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(builtins, "input", line)


def test_answers_follow_the_whole_conversation(weights):
    asset = lm_assets.load(weights)
    speak = lm_chat.speaker(asset, 96, Options(0.0))
    rows, text, shown = speak.begin(jax.random.key(0)), [], []
    for behind, said in (("", "abc"), ("<|im_end|>\n", "12 abd")):
        read = lm_chat.said(asset, [("user", said)], behind)
        rows, number, seconds = lm_chat.answer(asset, speak, rows, read, 11, shown.append)
        text += read
        begun = len(text)
        while len(text) - begun < 11 and (len(text) == begun or text[-1] != 2):
            text.append(int(reference.logits(asset.config, asset.params, text)[-1].argmax()))
        assert number == len(text) - begun and seconds > 0
        written = asset.tokeniser.decode(text[begun:]).rstrip("\ufffd")
        assert "".join(shown) == written
        shown.clear()
    np.testing.assert_array_equal(rows.tokens[0, : len(text)], text)
    whole = "<|im_start|>user\nabc<|im_end|>\n<|im_start|>assistant\n"
    assert asset.tokeniser.decode(text, specials=True).startswith(whole)


def test_later_turns_do_not_begin_anew(weights):
    asset = lm_assets.load(weights)._replace(chat=lm_assets.SMOLLM2)
    text = lambda ids: asset.tokeniser.decode(ids, specials=True)
    turn = "<|im_start|>user\nabc<|im_end|>\n<|im_start|>assistant\n"
    assert text(lm_chat.said(asset, [("user", "abc")], "\n")) == "\n" + turn
    first = text(lm_chat.said(asset, [("user", "abc")]))
    assert first.startswith("<|im_start|>system\nYou are a") and first.endswith("\n" + turn)


def test_the_command_talks_until_an_empty_line(weights, monkeypatch, capsys):
    type_lines(monkeypatch, "ab", "a" * 90, "/new", "c", "", "never read")
    lm_chat.main([f"--weights={weights}", "--longest=3"])
    said = capsys.readouterr().out
    assert said.startswith("0.0M parameters.") and said.count(" per second") == 2
    assert said.count("The conversation is full (96 tokens") == 1


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--weights=nothing.gguf"], "error: nothing.gguf does not exist"),
        (
            ["--temperature=-1"],
            "error: --temperature=-1.0 is impossible; it must be 0, or from 1e-6",
        ),
        (
            ["--temperature=nan"],
            "error: --temperature=nan is impossible; it must be a finite",
        ),
        (
            ["--temperature=1e-30"],
            "error: --temperature=1e-30 is impossible; it must be 0, or from",
        ),
        (["--top_p=0"], "error: --top_p=0.0 is impossible; it must be above 0 and at most 1"),
        (["--top_p=nan"], "error: --top_p=nan is impossible"),
        (["--longest=0"], "error: --longest=0 is impossible; it must be at least 1"),
        (["--context=-5"], "error: --context=-5 is impossible; it must be at least 0"),
        (["--seed=-1"], "error: --seed=-1 is impossible; it must be at least 0"),
        (["--seed=4294967296"], "error: --seed=4294967296 is impossible; whole numbers may be as"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(flags, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        lm_chat.main(["--weights=model.gguf", *flags])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith(sentence) and said.count("\n") == 1


def test_a_longer_conversation_than_the_model_reads_is_refused(weights, capsys):
    with pytest.raises(SystemExit) as stop:
        lm_chat.main([f"--weights={weights}", "--context=97"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "--context=97 is more than the 96 tokens that" in said


def test_bytes_that_are_no_text_are_read_as_question_marks(monkeypatch):
    type_lines(monkeypatch, "a\udcffb ")
    assert lm_chat._line("> ") == "a?b"


def test_a_table_of_tokens_may_be_larger_than_the_tokeniser(weights):
    """As of Qwen2, whose last rows no id names; ends are those of the tokeniser."""
    asset = lm_assets.load(weights)
    size = asset.config.vocabulary + 8
    config = dataclasses.replace(asset.config, vocabulary=size)
    table = asset.params["embedding"]["embedding"]
    wide = jax.numpy.concatenate([table, table[:8]])
    speak = lm_chat.speaker(asset._replace(config=config), 96, Options(0.0))
    params = asset.params | {"embedding": {"embedding": wide}}
    rows = speak.read(params, speak.begin(jax.random.key(0)), *np.ones((2, 1, lm_chat.WIDTH), int))
    assert jax.eval_shape(speak.write, params, rows, 0).tokens.shape == rows.tokens.shape
