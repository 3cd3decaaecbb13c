"""Text to token ids and back, chats as text, and which tokens hold a delimiter.

The tokeniser is that of the published model: rebuilt from what its `.gguf` file says, or read from
its `tokenizer.json`, and run by the package `tokenizers`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.host.arrays import one_sentence
from jaxtrain.host.config import UsageError
from jaxtrain.host.extras import import_extra

Message = tuple[str, str]
_SPECIAL = 3  # the type of such tokens in a .gguf file


class Tokeniser(NamedTuple):
    """Text to ids and back.

    Attributes:
      model: a `tokenizers.Tokenizer`.
      specials: ids of the tokens that stand for no text, by name.
    """

    model: Any
    specials: Mapping[str, int]

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.model.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, in which special tokens may be written out."""
        return self.model.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], *, specials: bool = False) -> str:
        """The text of ids; what is no complete character becomes U+FFFD."""
        return self.model.decode(list(map(int, ids)), skip_special_tokens=not specials)

    def holding(self, delimiter: str) -> np.ndarray:
        """`[V]`, True for tokens whose text holds the delimiter.

        Byte-level tokens merge delimiters with what is before and behind them, so that a step ends
        with one of many tokens. Delimiters that only several tokens make together are not seen.
        """
        texts = self.model.decode_batch([[i] for i in range(self.size)], skip_special_tokens=False)
        return np.array([delimiter in text for text in texts])

    def named(self, *names: str) -> np.ndarray:
        """`[V]`, True for these special tokens.

        Raises:
          UsageError: there is no such token.
        """
        unknown = [name for name in names if name not in self.specials]
        if unknown:
            known = ", ".join(self.specials)
            raise UsageError(f"no special token is called {', '.join(unknown)}; there are {known}.")
        return np.isin(np.arange(self.size), [self.specials[name] for name in names])


class Chat(NamedTuple):
    """How a conversation is written.

    Attributes:
      message: of one message, with `{role}` and `{content}`.
      answer: how the model's answer begins.
      end: name of the special token that ends it.
      system: said first where a conversation does not begin with the role `system`; "": nothing.
    """

    message: str
    answer: str
    end: str
    system: str = ""

    def text(self, messages: Sequence[Message]) -> str:
        """What a model reads before it answers; messages are pairs of role and content."""
        begins = bool(messages) and messages[0][0] == "system"
        head = [] if begins or not self.system else [("system", self.system)]
        written = [
            self.message.format(role=role, content=said) for role, said in [*head, *messages]
        ]
        return "".join(written) + self.answer


CHATML = Chat(
    message="<|im_start|>{role}\n{content}<|im_end|>\n",
    answer="<|im_start|>assistant\n",
    end="<|im_end|>",
)
SMOLLM2 = CHATML._replace(
    system="You are a helpful AI assistant named SmolLM, trained by Hugging Face"
)


def from_metadata(metadata: Mapping[str, Any]) -> Tokeniser:
    """The byte-level BPE that the metadata of a `.gguf` file describe.

    Raises:
      UsageError: another kind of tokeniser, or incomplete metadata.
    """
    get = lambda key: metadata.get(f"tokenizer.ggml.{key}")
    kind, splits = get("model"), get("pre")
    if kind != "gpt2" or splits not in ("smollm", "gpt-2"):
        raise UsageError(
            f"the tokeniser is of kind {kind!r} and splits text as {splits!r}; known are 'gpt2' "
            "that splits as 'smollm' or 'gpt-2'. Use the model's tokenizer.json instead."
        )
    tokens, merges, types = get("tokens"), get("merges"), get("token_type")
    if not tokens or merges is None or types is None:
        raise UsageError("the file has no tokens, no merges or no types of tokens.")
    if len(set(tokens)) < len(tokens):
        raise UsageError("two tokens of the file have one text.")
    parts = import_extra("tokenizers", "lm")
    model = parts.Tokenizer(
        parts.models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in merges],
        )
    )
    bytes_ = parts.pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [parts.pre_tokenizers.Digits(individual_digits=True)] if splits == "smollm" else []
    model.pre_tokenizer = parts.pre_tokenizers.Sequence([*digits, bytes_])
    model.decoder = parts.decoders.ByteLevel()
    specials = [token for token, kind in zip(tokens, types, strict=True) if kind == _SPECIAL]
    model.add_special_tokens(specials)
    return Tokeniser(model, {token: tokens.index(token) for token in specials})


def from_file(path: str | Path) -> Tokeniser:
    """The tokeniser of a `tokenizer.json`.

    Raises:
      UsageError: no such file, or a damaged one.
    """
    parts = import_extra("tokenizers", "lm")
    with one_sentence(path, "tokenizer.json"):
        model = parts.Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
        added = model.get_added_tokens_decoder().items()
    return Tokeniser(model, {token.content: i for i, token in added if token.special})
