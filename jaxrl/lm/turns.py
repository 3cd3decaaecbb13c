"""Dialogues: the policy answers, is told something, and answers again.

    text = converse(model, params, prompts, keys, problems, [said("!")], length=24, stop=end)
    verdict = verdicts(task, problems, text, 2)                         # every field [B, 2]

What is said to the policy is forced between its turns and never carries a loss. An instruction may
depend on the problem and on everything before it, so it can be a review request, the output of a
tool, a hint, the text of a critic, or "wrong, try again" for those rows only that were wrong: a row
that is told nothing has had its last turn.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.symbols import Symbols
from jaxrl.lm.tasks.task import Task, Verdict
from jaxtrain.collectives import mark_varying_like
from jaxtrain.lm.decoder import Decoder
from jaxtrain.lm.logits import PLAIN, Options
from jaxtrain.lm.sampling import continue_until, force, start
from jaxtrain.lm.sequences import Text, of_decoding

_BLANK = ("generated", "logp", "sampled", "done", "stopped")  # constants until something is sampled


class Instruction(NamedTuple):
    """What is said to the policy between two turns.

    Attributes:
      width: w, the most tokens it has.
      tell: `(problems [B], text so far) -> Symbols [B, w]`; nothing valid in a row ends it.
    """

    width: int
    tell: Callable[[Any, Text], Symbols]


def said(words: str) -> Instruction:
    """The same words to every row.

    Raises:
      ValueError: a character that is no symbol.
    """
    block = symbols.written(words)

    def tell(problems: Any, text: Text) -> Symbols:
        shape = (len(text.tokens), len(words))
        return Symbols(*(jnp.broadcast_to(x, shape) for x in block))

    return Instruction(len(words), tell)


def unless(over: Callable[[Any, Text], Array], instruction: Instruction) -> Instruction:
    """An instruction for those rows only for which it is not over.

    Args:
      over: `(problems, text so far) -> [B]`, bool.
      instruction: for the others.
    """

    def tell(problems: Any, text: Text) -> Symbols:
        block = instruction.tell(problems, text)
        return block._replace(valid=block.valid & ~over(problems, text)[:, None])

    return instruction._replace(tell=tell)


def converse(
    model: Decoder,
    params: Any,
    prompts: Symbols,
    keys: Array,
    problems: Any = None,
    instructions: Sequence[Instruction] = (),
    *,
    length: int,
    stop: Array,
    options: Options = PLAIN,
) -> Text:
    """Lets the policy take K = 1 + len(instructions) turns.

    Args:
      model: the language model.
      params: its parameters.
      prompts: `[B, P]`, with empty slots anywhere; a `restart` is one.
      keys: `[B]`, one per row.
      problems: what the rows are about, for the instructions; `[B, ...]`.
      instructions: before the second, third, ... turn.
      length: most tokens of a turn. One that is cut off is followed by the next instruction.
      stop: `[V]`, True for tokens that end a turn.
      options: how tokens are drawn.

    Returns:
      Everything, `[B, S]`; `text.turn` numbers the turns from 0, the loss is on all of them.
    """
    room = length * (1 + len(instructions)) + sum(x.width for x in instructions)
    decoding = start(model, params, prompts.tokens, prompts.valid, keys, room)
    blank = {name: getattr(decoding, name) for name in _BLANK}
    decoding = decoding._replace(**mark_varying_like(blank, keys))
    decoding = continue_until(model, params, decoding, length, stop, options)
    going = jnp.ones(len(keys), bool)
    for instruction in instructions:
        tokens, valid = instruction.tell(problems, of_decoding(decoding))
        going &= valid.any(axis=1)
        decoding = force(model, params, decoding, tokens, valid & going[:, None])
        budget = jnp.where(going, length, 0)
        decoding = continue_until(model, params, decoding, budget, stop, options)
    return of_decoding(decoding)


def of_each_turn(text: Text, num_turns: int) -> Array:
    """Which tokens the policy wrote in each of K turns, `[B, K, S]`, bool."""
    turn = jnp.arange(num_turns)[None, :, None]
    return text.generated[:, None] & (text.turn[:, None] == turn)


def verdicts(task: Task, problems: Any, text: Text, num_turns: int) -> Verdict:
    """Verdicts on every turn.

    Args:
      task: judges.
      problems: `[B, ...]`.
      text: of `converse`.
      num_turns: K.

    Returns:
      Every field `[B, K, ...]`; a turn that a row did not take has no answer.
    """
    own = of_each_turn(text, num_turns)
    return jax.vmap(jax.vmap(task.verify, (None, None, 0)))(problems, text.tokens, own)


def paid_at_the_end(reward: Array, text: Text) -> Array:
    """Rewards of turns as rewards of their last tokens.

    Args:
      reward: `[B, K]`.
      text: of `converse`.

    Returns:
      `[B, S]`, 0 elsewhere; what a turn earns that was not taken is lost.
    """
    own = of_each_turn(text, reward.shape[1])
    slot = jnp.arange(own.shape[-1])[None, None]
    last = jnp.where(own, slot, -1).max(axis=-1, keepdims=True)
    return jnp.where(slot == last, reward[..., None], 0).sum(axis=1)


def restart(text: Text, kept: Array) -> Symbols:
    """Prompts that begin with a part of an earlier dialogue; nothing in them carries a loss.

    Args:
      text: of `converse`.
      kept: how many tokens of the policy stay, `[B]`; with them everything before the last of
        them, and with 0 the prompt.
    """
    number, kept = jnp.cumsum(text.generated, axis=1), kept[:, None]
    given = (number < kept) | (number == 0)
    return Symbols(text.tokens, text.valid & jnp.where(text.generated, number <= kept, given))
