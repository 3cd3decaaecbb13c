"""Greedy generation with kept keys and values.

The input side of the decoder is read once per (latent, input); then 2 + rows * cols single-token
steps follow, one per side length and cell. This equals re-running the whole decoder for every
token, because the output side is causal and the input side never sees output tokens; it only skips
repeated work. The loop ends with the largest predicted grid of the batch.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.nets.attention import with_room
from jaxtta.lpn.decoder import Decoder, Kept
from jaxtta.lpn.grids import Grid
from jaxtta.lpn.model import LPN, Params

Carry = tuple[Array, Array, Array, Kept]  # cells so far, hidden vector, cells, memory
SEGMENTS = (36, 100, 225, 400, 900)


def generate(
    lpn: LPN,
    params: Params,
    contexts: Array,
    inputs: Grid,
    *,
    context_valid: Array | None = None,
    segments: Sequence[int] = SEGMENTS,
) -> Grid:
    """Executes latent programs on input grids, taking the most likely token at every step.

    Written for a batch, not for `vmap`: all sequences advance together.

    Args:
      lpn: model.
      params: parameters.
      contexts: latent programs `[B, H]` (`[B, M, H]` with context slots).
      inputs: input grids, `[B]`.
      context_valid: `[B, M]`, only with slots.
      segments: cell counts at which the room for keys and values grows; a batch of small outputs
        then never reads the room of a full-size one. Affects speed only.

    Returns:
      Grids `[B]` with room for `max_rows * max_cols` cells.
    """
    config = lpn.config
    if not config.num_slots:
        contexts = contexts[:, None]
    if context_valid is None:
        context_valid = jnp.ones(contexts.shape[:-1], bool)

    call = functools.partial(lpn.decoder, params)
    memory = call(Decoder.memory, call(Decoder.prepare_inputs, inputs), contexts, context_valid)
    prefix = memory.valid.shape[-1]
    rows = call(Decoder.row_logits, memory.context).argmax(-1).astype(jnp.int32) + 1
    memory = _with_room(memory.folded(), 2)
    hidden, memory = call(
        Decoder.write_next, memory, call(Decoder.embed_row_count, rows), jnp.int32(prefix)
    )
    cols = call(Decoder.col_logits, hidden).argmax(-1).astype(jnp.int32) + 1
    hidden, memory = call(
        Decoder.write_next, memory, call(Decoder.embed_col_count, cols), jnp.int32(prefix + 1)
    )

    shape = jnp.stack([rows, cols], axis=-1)
    num_cells = rows * cols
    limit = config.max_rows * config.max_cols
    cells = jnp.zeros((contexts.shape[0], limit), jnp.uint8)

    # hidden after k cells predicts cell k.
    def step(carry: Carry) -> Carry:
        k, hidden, cells, memory = carry
        colour = call(Decoder.cell_logits, hidden).argmax(-1).astype(jnp.int32)
        cells = cells.at[:, k].set(jnp.where(k < num_cells, colour, 0).astype(jnp.uint8))
        hidden, memory = call(
            Decoder.write_next, memory, call(Decoder.embed_cell, colour, shape, k), prefix + 2 + k
        )
        return k + 1, hidden, cells, memory

    rooms = sorted({min(size, limit) for size in segments} | {limit})

    def fill(level: int, carry: Carry) -> Array:
        """Generates up to `rooms[level]` cells; goes on with more room if any grid needs it."""
        k, hidden, cells, memory = carry
        room = rooms[level]
        memory = _with_room(memory, prefix + 2 + room - memory.valid.shape[-1])
        end = jnp.minimum(num_cells.max(), room)
        carry = jax.lax.while_loop(lambda c: c[0] < end, step, (k, hidden, cells, memory))
        if level + 1 == len(rooms):
            return carry[2]
        return jax.lax.cond(
            num_cells.max() > room, lambda c: fill(level + 1, c), lambda c: c[2], carry
        )

    return Grid(fill(0, (jnp.int32(0), hidden, cells, memory)), shape)


def _with_room(memory: Kept, extra: int) -> Kept:
    """Adds `extra` empty places at the end of the keys and values."""
    valid = jnp.pad(memory.valid, [(0, 0)] * (memory.valid.ndim - 1) + [(0, extra)])
    return Kept(with_room(memory.layers, extra), valid, memory.context)
