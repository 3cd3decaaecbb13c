"""Writing text: begin with prompts, sample until something happens, insert text, copy rows.

    rows = start(model, params, prompts, valid, keys, room=64)
    rows = continue_until(model, params, rows, 32, stop=newline)
    rows = force(model, params, rows, tool_output, output_valid)
    rows = continue_until(model, params, rows, 32, stop=end)
    text = sequences.of_decoding(rows)

Every function is pure and takes static shapes; how far a row has come is in the arrays. All rows
write the same slots, and a row that has nothing to write leaves them empty, so that stopping,
ragged blocks and early ends never touch another row.

A row draws with its own key, folded with the place of the token in its text: alone, among fifteen
others or padded further, it samples the same tokens.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.known_numbers import check_whole
from jaxtrain.lm.decoder import Cache, Decoder, behind
from jaxtrain.lm.logits import PLAIN, Options, choose
from jaxtrain.nets.attention import keep, with_room

_FORKED = 2**31  # folded into keys of copies; places of tokens are smaller


class Decoding(NamedTuple):
    """Rows of text in the making: B rows of S slots.

    Attributes:
      tokens: `[B, S]`.
      valid: `[B, S]`, which slots hold a token.
      generated: `[B, S]`, which of them were sampled.
      logp: `[B, S]`, of sampled tokens, at the sampling temperature; 0 elsewhere.
      sampled: `[B, S]`, of sampled tokens under the truncated distribution; 0 elsewhere.
      hidden: `[B, D]`, state of the last token of each row, from which the next one is drawn.
      cache: keys and values.
      cursor: `[]`, the next slot. Beyond S once a block had no room: nothing is written from then.
      done: `[B]`, rows that sampled a token of `end`; they sample no more.
      stopped: `[B]`, rows that needed no more of the budget of the last `continue_until`.
      keys: `[B]`.
    """

    tokens: Array
    valid: Array
    generated: Array
    logp: Array
    sampled: Array
    hidden: Array
    cache: Cache
    cursor: Array
    done: Array
    stopped: Array
    keys: Array


def start(
    model: Decoder,
    params: Any,
    prompts: Array,
    valid: Array,
    keys: Array,
    room: int,
    prefix: Array | None = None,
) -> Decoding:
    """Reads prompts.

    Args:
      model: the language model.
      params: its parameters.
      prompts: `[B, P]`.
      valid: `[B, P]`, True where a slot holds a token; at least once per row.
      keys: `[B]`, one per row.
      room: slots for what follows.
      prefix: vectors `[B, W, D]` instead of the first W tokens of the prompts.

    Raises:
      ValueError: another number of keys than of prompts, or room for fewer tokens than none.
    """
    check_whole(0, 2**31 - 1, room=room)
    rows, length = prompts.shape
    if len(keys) != rows:
        raise ValueError(f"{len(keys)} keys for {rows} prompts; every row draws with its own.")
    valid = valid.astype(bool)
    hidden, cache = model.forward(params, behind(model, params, prefix, prompts), valid)
    wide = lambda x: jnp.pad(x, ((0, 0), (0, room)))
    return _silent(keys, length + room)._replace(
        tokens=wide(prompts.astype(jnp.int32)),
        valid=wide(valid),
        hidden=_last(hidden, valid),
        cache=with_room(cache, room),
        cursor=jnp.int32(length),
    )


def empty(model: Decoder, keys: Array, slots: int) -> Decoding:
    """Rows without a token, one per key `[B]`; they need a `force` before they can go on.

    Args:
      model: the language model.
      keys: `[B]`.
      slots: S, for all that follows.
    """
    config, cache = model.config, model.empty_cache(len(keys), slots)
    hidden = jnp.zeros((len(keys), config.width), config.dtype)
    return _silent(keys, slots)._replace(hidden=hidden, cache=cache)


def continue_until(
    model: Decoder,
    params: Any,
    decoding: Decoding,
    length: Array | int,
    stop: Array,
    options: Options = PLAIN,
    end: Array | None = None,
) -> Decoding:
    """Samples until every row has stopped, has used its budget, or no slot is left.

    Args:
      model: the language model.
      params: its parameters.
      decoding: the rows.
      length: budget, `[]` or `[B]` tokens; with 0 a row stays as it is.
      stop: `[V]`, True for tokens that a row stops after until the next call: the end of a step, of
        a turn, of a call of a tool.
      options: how tokens are drawn.
      end: `[V]`, True for tokens after which a row is done for good; None: none.
    """
    rows, slots = decoding.tokens.shape
    stop = jnp.asarray(stop)
    end = jnp.zeros_like(stop) if end is None else jnp.asarray(end)
    budget = jnp.minimum(jnp.broadcast_to(length, (rows,)), slots - decoding.cursor)
    begun = jnp.where(budget > 0, decoding.done, decoding.stopped)

    def active(decoding: Decoding, step: Array) -> Array:
        return ~decoding.done & ~decoding.stopped & (step < budget)

    def one(carry: tuple[Decoding, Array]) -> tuple[Decoding, Array]:
        decoding, step = carry
        live = active(decoding, step)
        keys = jax.vmap(jax.random.fold_in)(decoding.keys, decoding.valid.sum(axis=1))
        logits = model.logits(params, decoding.hidden)
        token, logp, sampled = (jnp.where(live, x, 0) for x in choose(keys, logits, options))
        column = lambda x: x[:, None]
        block = tuple(map(column, (token, live, live, logp, sampled)))
        ended = live & end[token]
        stopped = decoding.stopped | ended | (live & stop[token])
        decoding = _appended(model, params, decoding, block)
        return decoding._replace(done=decoding.done | ended, stopped=stopped), step + 1

    return jax.lax.while_loop(
        lambda carry: active(*carry).any(),
        one,
        (decoding._replace(stopped=begun), jnp.int32(0)),
    )[0]


def force(model: Decoder, params: Any, decoding: Decoding, block: Array, valid: Array) -> Decoding:
    """Appends given tokens: instructions, output of tools, hints. They stop and end nothing.

    A block without room is left out, which the cursor of the result shows, see `Decoding`.

    Args:
      model: the language model.
      params: its parameters.
      decoding: the rows; `done` ones take the tokens too, unless `valid` says otherwise.
      block: `[B, w]`.
      valid: `[B, w]`, True where the block holds a token.

    Raises:
      ValueError: a block of another number of rows, or a mask of another shape.
    """
    if block.shape != valid.shape or len(block) != len(decoding.done):
        raise ValueError(
            f"the block has shape {block.shape} and its mask {valid.shape}; both need "
            f"[{len(decoding.done)}, w] for these rows."
        )
    valid = valid.astype(bool)
    zeros = jnp.zeros(block.shape, jnp.float32)
    given = (block, valid, jnp.zeros_like(valid), zeros, zeros)
    return _appended(model, params, decoding, given)


def fork(decoding: Decoding, rows: Array) -> Decoding:
    """The rows with the numbers `rows` `[B2]`, which may come back several times or not at all.

    A row that comes back once goes on as it would have; copies draw with keys of their own. Numbers
    outside 0 to B - 1 are not looked for: the nearest row comes in their place.
    """
    same = rows[:, None] == rows[None]
    copy = jnp.where(jnp.tri(len(rows), k=-1, dtype=bool), same, False).sum(axis=1)
    by_row = decoding._asdict()
    cursor = by_row.pop("cursor")
    taken = jax.tree.map(lambda x: x[rows], by_row)
    keys = taken.pop("keys")
    new = jax.vmap(jax.random.fold_in)(keys, jnp.uint32(_FORKED) + copy.astype(jnp.uint32))
    keys = jax.vmap(jnp.where)(same.sum(axis=1) > 1, new, keys)
    return Decoding(**taken, cursor=cursor, keys=keys)


def compact(decoding: Decoding) -> Decoding:
    """Moves the tokens of every row to its first slots, which gives the empty ones back as room."""
    order = jnp.argsort(~decoding.valid, axis=1, stable=True)
    moved = {name: jnp.take_along_axis(getattr(decoding, name), order, axis=1) for name in _BY_SLOT}
    places = order[:, None, :, None]
    cache = jax.tree.map(lambda x: jnp.take_along_axis(x, places, axis=2), decoding.cache)
    cursor = decoding.valid.sum(axis=1).max().astype(decoding.cursor.dtype)
    return decoding._replace(cache=cache, cursor=cursor, **moved)


_BY_SLOT = ("tokens", "valid", "generated", "logp", "sampled")


def _silent(keys: Array, slots: int) -> Decoding:
    """Rows of which only the state and the cache are missing."""
    rows = len(keys)
    bits = lambda: jnp.zeros((rows, slots), bool)
    numbers = lambda: jnp.zeros((rows, slots), jnp.float32)
    return Decoding(
        tokens=jnp.zeros((rows, slots), jnp.int32),
        valid=bits(),
        generated=bits(),
        logp=numbers(),
        sampled=numbers(),
        hidden=numbers(),
        cache=(),
        cursor=jnp.int32(0),
        done=jnp.zeros(rows, bool),
        stopped=jnp.zeros(rows, bool),
        keys=keys,
    )


def _appended(
    model: Decoder, params: Any, decoding: Decoding, block: tuple[Array, ...]
) -> Decoding:
    """Writes a block, `_BY_SLOT` `[B, w]` each, and reads it."""
    column = lambda x: x[..., None]
    old = tuple(column(getattr(decoding, name)) for name in _BY_SLOT)
    new = tuple(column(y.astype(x.dtype)) for x, y in zip(old, block, strict=True))
    kept = keep(old, new, decoding.cursor)
    decoding = decoding._replace(**{n: x[..., 0] for n, x in zip(_BY_SLOT, kept, strict=True)})
    tokens, valid, *_ = block
    hidden, cache = model.forward(params, tokens, decoding.valid, decoding.cache, decoding.cursor)
    cursor, some = decoding.cursor + tokens.shape[1], valid.any(axis=1)
    some &= cursor <= decoding.tokens.shape[1]
    hidden = jnp.where(some[:, None], _last(hidden, valid), decoding.hidden)
    return decoding._replace(hidden=hidden, cache=cache, cursor=cursor)


def _last(hidden: Array, valid: Array) -> Array:
    """State `[B, D]` of the last valid token of each row."""
    place = valid.shape[1] - 1 - jnp.argmax(valid[:, ::-1], axis=1)
    return jnp.take_along_axis(hidden, place[:, None, None], axis=1)[:, 0]
