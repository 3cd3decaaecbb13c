"""The decoder of the Latent Program Network: executes a program on an input grid, cell by cell.

The input side never sees output tokens, so it runs once per (latent, input) and is kept: `read`
gives the keys and values of the input and context tokens, `write` reads the output tokens after
them, all at once (teacher forcing), and `write_next` one by one (generation).

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, arXiv 2411.08706.
  Official code: clement-bonnet/lpn (src/models/transformer.py).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxtrain.nets.attention import Part, attend_in_part, join, keep
from jaxtta.lpn.config import NUM_COLOURS
from jaxtta.lpn.grids import Grid, coordinates
from jaxtta.lpn.stack import Stack, cat, lift


class Logits(NamedTuple):
    """Predictions for one output grid.

    Attributes:
      rows: logits of the row count, index v - 1, `[..., R]`, float32.
      cols: logits of the column count, index v - 1, `[..., C]`, float32.
      cells: logits of the colour of raster cell k, `[..., L, 10]`, float32.
    """

    rows: Array
    cols: Array
    cells: Array


class Tokens(NamedTuple):
    """Embedded tokens and, when known in advance, their first-block projections.

    Attributes:
      x: `[..., T, D]`.
      coords: rotary coordinates, `[..., T, 2]`.
      valid: `[..., T]`, bool.
      qkv: queries, keys and values of the first block, each `[..., heads, T, head_dim]`.
      attended: attention of the first block to all tokens but those of the context, where it is
        known in advance.
    """

    x: Array
    coords: Array
    valid: Array
    qkv: tuple[Array, Array, Array]
    attended: Part | None = None


class Kept(NamedTuple):
    """What output tokens may read: keys and values of input and context tokens.

    Attributes:
      layers: per block (keys, values), each `[..., heads, T, head_dim]`.
      valid: `[..., T]`, bool.
      context: final hidden vector of the first context token, `[..., D]`; it predicts the row
        count.
    """

    layers: tuple[tuple[Array, Array], ...]
    valid: Array
    context: Any

    def folded(self) -> "Kept":
        """The same with keys and values `[B * heads, T, head_dim]` of a batch `[B]`.

        XLA's CPU compiler squeezes a batch of one out of arrays with heads and copies them for it,
        at every token.
        """
        return self._replace(layers=jax.tree.map(_folded, self.layers))


def _folded(x: Array) -> Array:
    return x.reshape(-1, *x.shape[-2:])


def _causal(valid: Array, length: int) -> Array:
    """Mask `[..., 1, length, T + length]`: all valid tokens `[..., T]`, then those before."""
    before = jnp.broadcast_to(valid[..., None, :], (*valid.shape[:-1], length, valid.shape[-1]))
    after = jnp.tril(jnp.ones((length, length), bool))
    return cat(before, after, axis=-1)[..., None, :, :]


def _joined(part: Part, q: Array, k: Array, v: Array) -> Array:
    return join(part, attend_in_part(q, k, v)).astype(v.dtype)


class Decoder(Stack):
    """p(output | input, z) as a prefix language model over raster streams."""

    def setup(self) -> None:
        c = self.config
        self.colours = self.table(NUM_COLOURS, "colors_embed")
        self.tags = self.table(2, "input_output_embed")
        self.positions = self.places()
        self.input_positions = (
            self.places("input_") if c.separate_input_positions else self.positions
        )
        self.row_counts = self.table(c.max_rows, "grid_shapes_row_embed")
        self.col_counts = self.table(c.max_cols, "grid_shapes_col_embed")
        self.to_context = nn.Dense(
            self.block.width, use_bias=c.use_bias, dtype=jnp.float32, name="context_embed"
        )
        if c.num_slots:
            self.slots = self.table(c.num_slots, "slot_embed")
        self.layers = self.blocks()
        self.drop = nn.Dropout(c.dropout)
        self.row_norm = self.norm("row_logits_layer_norm")
        self.col_norm = self.norm("col_logits_layer_norm")
        self.cell_norm = self.norm("grid_logits_layer_norm")
        self.row_head = self.head(c.max_rows, "shape_row_logits_proj")
        self.col_head = self.head(c.max_cols, "shape_col_logits_proj")
        self.cell_head = self.head(NUM_COLOURS, "grid_logits_proj")

    # Tokens that do not depend on the latent.

    def _tokens(self, x: Array, coords: Array, valid: Array | None = None) -> Tokens:
        x = self.embedded(x)
        valid = jnp.ones(x.shape[:-1], bool) if valid is None else valid
        return Tokens(x, coords, valid, self.layers[0].project(x, coords))

    def _tagged(self, x: Array, tag: int) -> Array:
        """Marks tokens `x` `[..., T, D]` as part of the input (0) or the output (1)."""
        return x + lift(self.tags(jnp.asarray(tag)), x.ndim)

    def _counts(self, table: nn.Embed, counts: Array, tag: int) -> tuple[Array, Array]:
        x = table(counts - 1)[..., None, :]
        return self._tagged(x, tag), jnp.zeros((*x.shape[:-1], 2))

    def _output_cells(self, cells: Array, shape: Array, index: Array) -> tuple[Array, Array]:
        target = lift(index + self.config.next_position, shape.ndim)
        rows = jnp.minimum(target // shape[..., 1:], self.config.max_rows - 1)
        cols = target % shape[..., 1:]
        x = self.colours(cells) + self.positions(rows, cols)
        return self._tagged(x, 1), self.coords(rows, cols)

    def embed_inputs(self, grid: Grid) -> Tokens:
        """`[rows_in] [cols_in] [cells]` of an input grid: L_in + 2 tokens."""
        rows, cols, inside = coordinates(grid.shape, grid.cells.shape[-1])
        x = self.colours(grid.cells) + self.input_positions(rows, cols)
        parts = [
            self._counts(self.row_counts, grid.shape[..., 0], 0),
            self._counts(self.col_counts, grid.shape[..., 1], 0),
            (self._tagged(x, 0), self.coords(rows, cols)),
        ]
        valid = jnp.pad(inside, [(0, 0)] * (inside.ndim - 1) + [(2, 0)], constant_values=True)
        x, coords = (cat(*part) for part in zip(*parts, strict=True))
        return self._tokens(x, coords, valid)

    def embed_outputs(self, grid: Grid) -> Tokens:
        """`[rows_out] [cols_out] [cells but the last]` of a known output grid: L_out + 1 tokens."""
        index = jnp.arange(grid.cells.shape[-1] - 1)
        parts = [
            self._counts(self.row_counts, grid.shape[..., 0], 1),
            self._counts(self.col_counts, grid.shape[..., 1], 1),
            self._output_cells(grid.cells[..., :-1], grid.shape, index),
        ]
        x, coords = (cat(*part) for part in zip(*parts, strict=True))
        return self._tokens(x, coords)

    def embed_row_count(self, rows: Array) -> Tokens:
        """`[rows_out]` alone, for generation; `rows` `[...]` in 1..R."""
        return self._tokens(*self._counts(self.row_counts, rows, 1))

    def embed_col_count(self, cols: Array) -> Tokens:
        """`[cols_out]` alone, for generation; `cols` `[...]` in 1..C."""
        return self._tokens(*self._counts(self.col_counts, cols, 1))

    def embed_cell(self, colour: Array, shape: Array, index: Array) -> Tokens:
        """Output cell `index` `[]` of colour `[...]` in grids of `shape` `[..., 2]`, 1 token."""
        return self._tokens(*self._output_cells(colour[..., None], shape, index[None]))

    # Running the blocks.

    def _context(self, contexts: Array) -> Array:
        x = self.to_context(contexts)
        if self.config.num_slots:
            x = x + lift(self.slots(jnp.arange(contexts.shape[-2])), x.ndim)
        return self.embedded(x)

    def read(self, inputs: Tokens, contexts: Array | None, context_valid: Array | None) -> Kept:
        """Runs the input side.

        Args:
          inputs: embedded input grid, T = L_in + 2 tokens.
          contexts: latent programs, `[..., M, H]` (M = 1 for one latent program), or None to read
            the input alone (only when `input_sees_context` is False).
          context_valid: `[..., M]`, bool.

        Returns:
          Keys and values for `write`, and the vector that predicts the number of rows.
        """
        if contexts is None or context_valid is None:
            x, (q, k, v) = inputs.x, inputs.qkv
            mask, kept = inputs.valid[..., None, None, :], []
            for i, layer in enumerate(self.layers):
                if i:
                    q, k, v = layer.project(x, inputs.coords)
                kept.append((k, v))
                if i + 1 < len(self.layers):
                    x = layer.finish(x, layer.attend(q, k, v, mask))
            return Kept(tuple(kept), inputs.valid, None)

        context = self._context(contexts)
        origin = jnp.zeros((*context.shape[:-1], 2))
        valid = cat(inputs.valid, context_valid, axis=-1)
        mask, kept, x = valid[..., None, None, :], [], inputs.x
        for i, layer in enumerate(self.layers):
            q, k, v = inputs.qkv if i == 0 else layer.project(x, inputs.coords)
            qc, kc, vc = layer.project(context, origin)
            k, v = cat(k, kc), cat(v, vc)
            kept.append((k, v))
            # After the last block only the first context token is read (by the row head).
            if i + 1 == len(self.layers):
                mixed = layer.attend(qc[..., :1, :], k, v, mask)
                context = layer.finish(context[..., :1, :], mixed)
            else:
                context = layer.finish(context, layer.attend(qc, k, v, mask))
                if i == 0 and inputs.attended is not None:
                    mixed = _joined(inputs.attended, q, kc, vc)
                else:
                    mixed = layer.attend(q, k, v, mask)
                x = layer.finish(x, mixed)
        return Kept(tuple(kept), valid, context[..., 0, :])

    def append_context(self, memory: Kept, contexts: Array, context_valid: Array) -> Kept:
        """Adds context tokens after inputs that were read alone (`input_sees_context=False`)."""
        context = self._context(contexts)
        origin = jnp.zeros((*context.shape[:-1], 2))
        valid = cat(memory.valid, context_valid, axis=-1)
        kept = []
        for layer, (k, v) in zip(self.layers, memory.layers, strict=True):
            qc, kc, vc = layer.project(context, origin)
            k, v = cat(k, kc), cat(v, vc)
            kept.append((k, v))
            context = layer.finish(context, layer.attend(qc, k, v, valid[..., None, None, :]))
        return Kept(tuple(kept), valid, context[..., 0, :])

    def write(self, memory: Kept, tokens: Tokens) -> Array:
        """Reads known output tokens causally after `memory`: hidden vectors `[..., T, D]`."""
        mask, x = _causal(memory.valid, tokens.x.shape[-2]), tokens.x
        for i, (layer, (k, v)) in enumerate(zip(self.layers, memory.layers, strict=True)):
            q, kx, vx = tokens.qkv if i == 0 else layer.project(x, tokens.coords)
            if i == 0 and tokens.attended is not None:
                mixed = _joined(tokens.attended, q, k[..., -1:, :], v[..., -1:, :])
            else:
                mixed = layer.attend(q, cat(k, kx), cat(v, vx), mask)
            x = layer.finish(x, mixed)
        return x

    def attended(self, inputs: Tokens, outputs: Tokens) -> tuple[Tokens, Tokens]:
        """The tokens with all attention of the first block that no latent changes.

        That is all but one key, the only valid context token, which `read` and `write` add.
        """
        (q, k, v), (qx, kx, vx) = inputs.qkv, outputs.qkv
        mask = _causal(inputs.valid, outputs.x.shape[-2])
        return (
            inputs._replace(attended=attend_in_part(q, k, v, inputs.valid[..., None, None, :])),
            outputs._replace(attended=attend_in_part(qx, cat(k, kx), cat(v, vx), mask)),
        )

    def write_next(self, memory: Kept, token: Tokens, slot: Array) -> tuple[Array, Kept]:
        """Reads one output token and keeps its keys and values at place `slot` `[]` of `memory`.

        The keys and values of `memory` must have room: `slot < memory.valid.shape[-1]`. A token
        without a place overwrites no other one: neither is it kept, nor does it read itself.

        Args:
          memory: of a batch, folded (`Kept.folded`).
          token: `[B, 1]`.
          slot: place.

        Returns:
          Hidden vector `[B, D]` and the extended memory, folded.
        """
        valid = memory.valid.at[..., slot].set(True)
        mask, x, kept = jnp.repeat(valid, self.block.num_heads, axis=0)[:, None], token.x, []
        for i, (layer, (k, v)) in enumerate(zip(self.layers, memory.layers, strict=True)):
            qkv = token.qkv if i == 0 else layer.project(x, token.coords)
            q, kx, vx = map(_folded, qkv)
            k, v = keep((k, v), (kx, vx), slot)
            kept.append((k, v))
            x = layer.finish(x, layer.attend(q, k, v, mask).reshape(qkv[0].shape))
        return x[..., 0, :], Kept(tuple(kept), valid, memory.context)

    # Heads.

    def row_logits(self, context: Array) -> Array:
        return self.row_head(self.row_norm(context))

    def col_logits(self, hidden: Array) -> Array:
        return self.col_head(self.col_norm(hidden))

    def cell_logits(self, hidden: Array) -> Array:
        return self.cell_head(self.cell_norm(hidden))

    def memory(self, inputs: Tokens | Kept, contexts: Array, context_valid: Array) -> Kept:
        """`read`, or `append_context` when the inputs were read already."""
        if isinstance(inputs, Kept):
            return self.append_context(inputs, contexts, context_valid)
        return self.read(inputs, contexts, context_valid)

    def __call__(
        self, inputs: Tokens | Kept, outputs: Tokens, contexts: Array, context_valid: Array
    ) -> Logits:
        memory = self.memory(inputs, contexts, context_valid)
        hidden = self.write(memory, outputs)
        return Logits(
            self.row_logits(memory.context),
            self.col_logits(hidden[..., 0, :]),
            self.cell_logits(hidden[..., 1:, :]),
        )

    def prepare_inputs(self, grid: Grid) -> Tokens | Kept:
        """Everything about an input grid that does not depend on the latent."""
        tokens = self.embed_inputs(grid)
        return tokens if self.config.input_sees_context else self.read(tokens, None, None)

    def everything(self, inputs: Grid, outputs: Grid, contexts: Array) -> Logits:
        """Touches every parameter; used to initialise."""
        valid = jnp.ones(contexts.shape[:-1], bool)
        return self(self.prepare_inputs(inputs), self.embed_outputs(outputs), contexts, valid)
