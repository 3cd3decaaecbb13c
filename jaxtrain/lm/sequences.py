"""Texts for learners, and the only place where it is decided which tokens carry a loss.

A text is pieces, some given and some the policy's own. Only own tokens carry a loss: never prompts,
instructions of later turns, output of tools, hints, prefixes to restart from, or padding. The mask
travels with the tokens; learners multiply by it and derive it from nothing else. The functions here
only take tokens out of a mask, none puts any in.

`build` and `packed` make NumPy arrays on the host; the others are JAX.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtrain.lm.sampling import Decoding


class Piece(NamedTuple):
    """A stretch of text.

    Attributes:
      tokens: ids.
      own: the policy's, to be learned from.
    """

    tokens: Sequence[int]
    own: bool = False


class Text(NamedTuple):
    """Rows of text, every field `[B, S]`.

    Attributes:
      tokens: ids, int32.
      valid: which slots hold a token; numbers 1, 2, ... of the texts in packed rows.
      mask: which tokens carry a loss.
      generated: which tokens the policy made.
      turn: how many stretches of generated tokens have ended before this token, in its row: the
        number of its turn, and for given tokens of the turn that follows them.
      logp: log-probability when it was sampled, 0 where that is not known.
      sampled: the same under the truncated distribution, see `jaxtrain.lm.logits.Scores`.
    """

    tokens: Array
    valid: Array
    mask: Array
    generated: Array
    turn: Array
    logp: Array
    sampled: Array


def build(rows: Sequence[Sequence[Piece]], length: int | None = None) -> Text:
    """Texts from their pieces, padded on the left.

    Args:
      rows: the pieces of every text, one after the other.
      length: S, slots; None: those of the longest text.

    Raises:
      ValueError: a text without tokens, or one longer than `length`.
    """
    lengths = [sum(len(piece.tokens) for piece in row) for row in rows]
    slots = max(lengths, default=0) if length is None else length
    text = _empty(len(rows), slots)
    for number, (row, size) in enumerate(zip(rows, lengths, strict=True)):
        if not 0 < size <= slots:
            raise ValueError(f"text {number} has {size} tokens; each needs 1 to {slots}.")
        text.tokens[number, slots - size :] = np.concatenate([list(p.tokens) for p in row])
        text.valid[number, slots - size :] = True
        own = np.concatenate([np.full(len(p.tokens), p.own) for p in row])
        text.generated[number, slots - size :] = text.mask[number, slots - size :] = own
    return text._replace(turn=np.asarray(_turns(text.valid, text.generated)))


def of_decoding(decoding: Decoding) -> Text:
    """Texts of sampled rows: what was sampled carries the loss."""
    valid, generated = decoding.valid, decoding.generated & decoding.valid
    turn = _turns(valid, generated)
    logp, sampled = decoding.logp, decoding.sampled
    return Text(decoding.tokens, valid, generated, generated, turn, logp, sampled)


def left_padded(text: Text) -> Text:
    """The same texts with every empty slot before the first token."""
    order = jnp.argsort(text.valid > 0, axis=1, stable=True)
    return jax.tree.map(lambda x: jnp.take_along_axis(x, order, axis=1), text)


def packed(text: Text, length: int) -> Text:
    """Several texts per row, the longest first, each into the first row that has room for it.

    Args:
      text: one text per row.
      length: slots of the new rows.

    Raises:
      ValueError: a text longer than `length`.
    """
    arrays: Any = map(np.asarray, text)
    text = Text(*arrays)
    filled = text.valid > 0
    sizes = filled.sum(axis=1)
    if sizes.max(initial=0) > length:
        raise ValueError(f"text {sizes.argmax()} has {sizes.max()} tokens; a row has {length}.")
    used: list[Any] = []
    places = []
    for number in np.argsort(-np.asarray(sizes), kind="stable"):
        row = next((r for r, u in enumerate(used) if u + sizes[number] <= length), len(used))
        used += [0] * (row == len(used))
        places.append((number, row, used[row]))
        used[row] += sizes[number]
    found, texts = _empty(len(used), length), np.zeros(len(used), np.int32)
    found = found._replace(valid=found.valid.astype(np.int32))
    for number, row, begin in places:
        slots = slice(begin, begin + sizes[number])
        texts[row] += 1
        for new, old in zip(found, text, strict=True):
            new[row, slots] = old[number, filled[number]]
        found.valid[row, slots] = texts[row]
    return found


def of_turn(text: Text, turn: Array | int) -> Text:
    """Only the tokens of one turn carry a loss; `turn` is `[]` or `[B, 1]`."""
    return text._replace(mask=text.mask & (text.turn == turn))


def of_rows(text: Text, rows: Array) -> Text:
    """Only the tokens of the rows `rows` `[B]` carry a loss: those that a filter lets through."""
    return text._replace(mask=text.mask & rows[:, None])


def after_common_prefix(first: Text, second: Text) -> tuple[Text, Text]:
    """Only tokens behind the first difference of two texts carry a loss (step-wise preferences).

    Empty slots may lie anywhere and differ between the two, whose S may differ too.
    """
    slots = min(first.tokens.shape[1], second.tokens.shape[1])

    def front(text: Text) -> tuple[Array, Array]:
        order = jnp.argsort(text.valid <= 0, axis=1, stable=True)[:, :slots]
        return tuple(jnp.take_along_axis(x, order, axis=1) for x in text[:2])  # type: ignore

    (tokens, valid), (others, other_valid) = front(first), front(second)
    same = (tokens == others) & (valid > 0) & (other_valid > 0)
    shared = jnp.cumprod(same, axis=1).sum(axis=1, keepdims=True)

    def behind(text: Text) -> Text:
        return text._replace(mask=text.mask & (jnp.cumsum(text.valid > 0, axis=1) > shared))

    return behind(first), behind(second)


def _turns(valid: Array, generated: Array) -> Array:
    """`[B, S]`, see `Text`. Empty slots end nothing."""
    slots = jnp.broadcast_to(jnp.arange(valid.shape[1]), valid.shape)
    filled = jax.lax.cummax(jnp.where(valid > 0, slots, -1), axis=1)
    before = jnp.pad(filled[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    was = jnp.take_along_axis(jnp.asarray(generated), jnp.maximum(before, 0), axis=1)
    ends = (valid > 0) & (before >= 0) & was & ~generated
    return jnp.cumsum(ends, axis=1)


def _empty(rows: int, slots: int) -> Any:
    types: list[Any] = [np.int32, bool, bool, bool, np.int32, np.float32, np.float32]
    arrays: Any = [np.zeros((rows, slots), t) for t in types]
    return Text(*arrays)
