"""Encoder and decoder of the Latent Program Network.

The encoder maps one (input, output) pair of grids to a Gaussian over latent programs; the decoder
executes a latent program on an input grid, one cell at a time.

Both read grids as raster streams (`jaxtta.lpn.grids`): a grid of r x c cells costs r * c tokens,
whatever the largest grid of the model. This is the authors' network with its padding removed:
there, padded cells are masked out everywhere, and the logit of the first cell of a row is taken
from the last *valid* token of the row above, which in a raster stream is simply the token before
it. Outputs are equal.

The decoder's input side never sees output tokens, so it runs once per (latent, input) and is kept:
`read` gives the keys and values of the input and context tokens, `write` reads the output tokens
after them, all at once (teacher forcing) or one by one (generation).

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, arXiv 2411.08706.
  Official code: clement-bonnet/lpn (src/models/transformer.py).
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxtta.lpn.grids import Grid, Pairs, coordinates
from jaxtta.lpn.transformer import ACTIVATIONS, Block, Layer, lift, norm

NUM_COLOURS = 10
POSITIONS = ("learned", "scaled", "rope")
Params = Any


@dataclasses.dataclass(frozen=True)
class Config:
    """Structure of the network. Every field changes shapes or the program, none is sweepable.

    Attributes:
      max_rows: R, largest number of rows.
      max_cols: C, largest number of columns.
      latent_dim: H, size of a latent program.
      encoder: blocks of the encoder.
      decoder: blocks of the decoder.
      positions: `learned` tables (the authors' code and all Pattern runs), `scaled` (one learned
        vector times index + 1) or `rope` (axial rotary with learnable frequencies and no tables;
        the form of the paper's ARC runs, not in the released code: tokens without a cell get angle
        0, output tokens the position of the cell they predict).
      rope_max_frequency: largest initial rotary frequency, over pi / 2.
      variational: Gaussian encoder; False gives a point encoder and no KL terms.
      next_position: output tokens carry the position of the cell they predict.
      separate_input_positions: input cells of the decoder get position tables of their own.
      use_bias: biases in dense layers of the blocks and in norms.
      activation: `silu` or `relu`.
      dropout: rate on embeddings and residual branches. Its masks are drawn for padded streams and
        pairs: above 0 (in no published run) numbers depend on how tasks are padded and bucketed.
      dtype: of the activations, `float32` or `bfloat16`; parameters stay float32.
      input_sees_context: input tokens attend to the context token (the published model). False
        makes the input side independent of the latent, so that a search computes it once per task.
      num_slots: 0 for the latent program network; n > 0 gives each of up to n context tokens a
        learned slot vector (the in-context baseline).
      remat: recompute block activations in the backward pass (memory for time, same numbers).
    """

    max_rows: int = 30
    max_cols: int = 30
    latent_dim: int = 32
    encoder: Block = Block()
    decoder: Block = Block()
    positions: Literal["learned", "scaled", "rope"] = "learned"
    rope_max_frequency: float = 10.0
    variational: bool = True
    next_position: bool = True
    separate_input_positions: bool = False
    use_bias: bool = False
    activation: Literal["silu", "relu"] = "silu"
    dropout: float = 0.0
    dtype: str = "float32"
    input_sees_context: bool = True
    num_slots: int = 0
    remat: bool = False

    def __post_init__(self):
        if self.positions not in POSITIONS:
            raise ValueError(
                f"positions is {self.positions!r}; choose one of {', '.join(POSITIONS)}."
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {self.activation!r}; choose one of {', '.join(ACTIVATIONS)}."
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}; choose float32 or bfloat16.")
        for name in ("max_rows", "max_cols", "latent_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1.")
        for name in ("encoder", "decoder"):
            if self.positions == "rope" and getattr(self, name).head_dim % 4:
                raise ValueError(
                    f"{name}.head_dim is {getattr(self, name).head_dim}; rotary positions need a "
                    "multiple of 4."
                )
        if self.decoder.num_layers < 1:
            raise ValueError("decoder.num_layers must be at least 1.")


class Posterior(NamedTuple):
    """Gaussian over latent programs.

    Attributes:
      mean: mu, `[..., H]`, float32.
      logvar: log sigma^2, `[..., H]`, float32; None when the encoder is not variational.
    """

    mean: Array
    logvar: Array | None


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
    """

    x: Array
    coords: Array
    valid: Array
    qkv: tuple[Array, Array, Array]


class Memory(NamedTuple):
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


class _Stack(nn.Module):
    """What encoder and decoder share: tables, positions, blocks."""

    config: Config
    block: Block

    def table(self, size: int, name: str) -> nn.Embed:
        return nn.Embed(size, self.block.width, dtype=jnp.dtype(self.config.dtype), name=name)

    def position_tables(self, prefix: str = "") -> tuple[nn.Embed, nn.Embed] | None:
        if self.config.positions == "rope":
            return None
        scaled = self.config.positions == "scaled"
        rows, cols = (1, 1) if scaled else (self.config.max_rows, self.config.max_cols)
        return (
            self.table(rows, f"{prefix}pos_row_embed"),
            self.table(cols, f"{prefix}pos_col_embed"),
        )

    def place(self, tables, rows: Array, cols: Array) -> Array:
        """Additive code of the cells at (rows, cols) `[...]`, `[..., D]`; 0 if they are rotary."""
        if tables is None:
            return jnp.zeros((), self.config.dtype)
        if self.config.positions == "scaled":
            zero = jnp.zeros((1,), jnp.int32)

            def scaled(table: nn.Embed, index: Array) -> Array:
                factor = (index + 1)[..., None].astype(self.config.dtype)
                return factor * lift(table(zero), index.ndim + 1)

            return scaled(tables[0], rows) + scaled(tables[1], cols)
        return tables[0](rows) + tables[1](cols)

    def coords(self, rows: Array, cols: Array) -> Array:
        """Centres of cells of an R x C grid on [-1, 1], `[..., 2]`."""
        centres = [
            (2 * index + 1) / size - 1
            for index, size in ((rows, self.config.max_rows), (cols, self.config.max_cols))
        ]
        return jnp.stack(centres, axis=-1)

    def blocks(self) -> list[Layer]:
        layer = Layer
        if self.config.remat:
            layer = nn.remat(Layer, methods=["project", "finish"])
        return [
            layer(
                self.block,
                self.config.use_bias,
                self.config.activation,
                self.config.dropout,
                jnp.dtype(self.config.dtype),
                self.config.rope_max_frequency if self.config.positions == "rope" else None,
                name=f"TransformerLayer_{i}",
            )
            for i in range(self.block.num_layers)
        ]

    def drop_embedding(self, x: Array) -> Array:
        return self.drop(x, deterministic=not self.has_rng("dropout"))


def _cat(*arrays: Array, axis: int = -2) -> Array:
    """Concatenates after broadcasting the leading (batch) dimensions."""
    trailing = -axis
    batch = jnp.broadcast_shapes(*(a.shape[: a.ndim - trailing] for a in arrays))
    return jnp.concatenate(
        [jnp.broadcast_to(a, batch + a.shape[a.ndim - trailing :]) for a in arrays], axis=axis
    )


class Encoder(_Stack):
    """q(z | input, output): one pair of grids to a Gaussian, read at a CLS token."""

    def setup(self):
        c = self.config
        self.colours = self.table(NUM_COLOURS, "colors_embed")
        self.channels = self.table(2, "channels_embed")
        self.cls = self.table(1, "cls_token")
        self.positions = self.position_tables()
        self.row_counts = self.table(c.max_rows, "grid_shapes_row_embed")
        self.col_counts = self.table(c.max_cols, "grid_shapes_col_embed")
        self.layers = self.blocks()
        self.drop = nn.Dropout(c.dropout)
        self.cls_norm = norm(c.use_bias, jnp.dtype(c.dtype), "cls_layer_norm")
        self.to_mean = nn.Dense(
            c.latent_dim, use_bias=False, dtype=jnp.dtype(c.dtype), name="Dense_0"
        )
        if c.variational:
            self.to_logvar = nn.Dense(
                c.latent_dim, use_bias=False, dtype=jnp.dtype(c.dtype), name="Dense_1"
            )

    def __call__(self, inputs: Grid, outputs: Grid) -> Posterior:
        tag = self.channels(jnp.arange(2))
        cls = self.cls(jnp.zeros((*inputs.shape.shape[:-1], 1), jnp.int32))
        tokens, coords = [cls], [jnp.zeros((*cls.shape[:-1], 2))]
        valid = [jnp.ones(cls.shape[:-1], bool)]
        for channel, grid in enumerate((inputs, outputs)):
            rows, cols, inside = coordinates(grid.shape, grid.cells.shape[-1])
            counts = jnp.stack(
                [self.row_counts(grid.shape[..., 0] - 1), self.col_counts(grid.shape[..., 1] - 1)],
                axis=-2,
            )
            cells = self.colours(grid.cells) + self.place(self.positions, rows, cols)
            here = lift(tag[channel], counts.ndim)
            tokens += [counts + here, cells + here]
            coords += [jnp.zeros((*counts.shape[:-1], 2)), self.coords(rows, cols)]
            valid += [jnp.ones(counts.shape[:-1], bool), inside]
        x, places = self.drop_embedding(_cat(*tokens)), _cat(*coords)
        mask = _cat(*valid, axis=-1)[..., None, None, :]
        for i, layer in enumerate(self.layers):
            q, k, v = layer.project(x, places)
            if i == self.block.num_layers - 1:  # Only the CLS token is read after the last block.
                x, q = x[..., :1, :], q[..., :1, :]
            x = layer.finish(x, q, k, v, mask)
        cls = self.cls_norm(x[..., 0, :])
        mean = self.to_mean(cls).astype(jnp.float32)
        logvar = self.to_logvar(cls).astype(jnp.float32) if self.config.variational else None
        return Posterior(mean, logvar)


class Decoder(_Stack):
    """p(output | input, z) as a prefix language model over raster streams."""

    def setup(self):
        c = self.config
        self.colours = self.table(NUM_COLOURS, "colors_embed")
        self.tags = self.table(2, "input_output_embed")
        self.positions = self.position_tables()
        self.input_positions = (
            self.position_tables("input_") if c.separate_input_positions else self.positions
        )
        self.row_counts = self.table(c.max_rows, "grid_shapes_row_embed")
        self.col_counts = self.table(c.max_cols, "grid_shapes_col_embed")
        dtype = jnp.dtype(c.dtype)
        self.to_context = nn.Dense(
            self.block.width, use_bias=c.use_bias, dtype=dtype, name="context_embed"
        )
        if c.num_slots:
            self.slots = self.table(c.num_slots, "slot_embed")
        self.layers = self.blocks()
        self.drop = nn.Dropout(c.dropout)
        self.row_norm = norm(c.use_bias, dtype, "row_logits_layer_norm")
        self.col_norm = norm(c.use_bias, dtype, "col_logits_layer_norm")
        self.cell_norm = norm(c.use_bias, dtype, "grid_logits_layer_norm")
        self.row_head = nn.Dense(
            c.max_rows, use_bias=False, dtype=dtype, name="shape_row_logits_proj"
        )
        self.col_head = nn.Dense(
            c.max_cols, use_bias=False, dtype=dtype, name="shape_col_logits_proj"
        )
        self.cell_head = nn.Dense(NUM_COLOURS, use_bias=False, dtype=dtype, name="grid_logits_proj")

    # Tokens that do not depend on the latent.

    def _tokens(self, x: Array, coords: Array, valid: Array | None = None) -> Tokens:
        x = self.drop_embedding(x)
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
        x = self.colours(cells) + self.place(self.positions, rows, cols)
        return self._tagged(x, 1), self.coords(rows, cols)

    def embed_inputs(self, grid: Grid) -> Tokens:
        """`[rows_in] [cols_in] [cells]` of an input grid: L_in + 2 tokens."""
        rows, cols, inside = coordinates(grid.shape, grid.cells.shape[-1])
        x = self.colours(grid.cells) + self.place(self.input_positions, rows, cols)
        parts = [
            self._counts(self.row_counts, grid.shape[..., 0], 0),
            self._counts(self.col_counts, grid.shape[..., 1], 0),
            (self._tagged(x, 0), self.coords(rows, cols)),
        ]
        valid = jnp.pad(inside, [(0, 0)] * (inside.ndim - 1) + [(2, 0)], constant_values=True)
        x, coords = (_cat(*part) for part in zip(*parts, strict=True))
        return self._tokens(x, coords, valid)

    def embed_outputs(self, grid: Grid) -> Tokens:
        """`[rows_out] [cols_out] [cells but the last]` of a known output grid: L_out + 1 tokens."""
        index = jnp.arange(grid.cells.shape[-1] - 1)
        parts = [
            self._counts(self.row_counts, grid.shape[..., 0], 1),
            self._counts(self.col_counts, grid.shape[..., 1], 1),
            self._output_cells(grid.cells[..., :-1], grid.shape, index),
        ]
        x, coords = (_cat(*part) for part in zip(*parts, strict=True))
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
        return self.drop_embedding(x)

    def read(self, inputs: Tokens, contexts: Array | None, context_valid: Array | None) -> Memory:
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
                    x = layer.finish(x, q, k, v, mask)
            return Memory(tuple(kept), inputs.valid, None)

        context = self._context(contexts)
        origin = jnp.zeros((*context.shape[:-1], 2))
        valid = _cat(inputs.valid, context_valid, axis=-1)
        mask, kept, x = valid[..., None, None, :], [], inputs.x
        for i, layer in enumerate(self.layers):
            q, k, v = inputs.qkv if i == 0 else layer.project(x, inputs.coords)
            qc, kc, vc = layer.project(context, origin)
            k, v = _cat(k, kc), _cat(v, vc)
            kept.append((k, v))
            # After the last block only the first context token is read (by the row head).
            if i + 1 == len(self.layers):
                context = layer.finish(context[..., :1, :], qc[..., :1, :], k, v, mask)
            else:
                context = layer.finish(context, qc, k, v, mask)
                x = layer.finish(x, q, k, v, mask)
        return Memory(tuple(kept), valid, context[..., 0, :])

    def append_context(self, memory: Memory, contexts: Array, context_valid: Array) -> Memory:
        """Adds context tokens after inputs that were read alone (`input_sees_context=False`)."""
        context = self._context(contexts)
        origin = jnp.zeros((*context.shape[:-1], 2))
        valid = _cat(memory.valid, context_valid, axis=-1)
        kept = []
        for layer, (k, v) in zip(self.layers, memory.layers, strict=True):
            qc, kc, vc = layer.project(context, origin)
            k, v = _cat(k, kc), _cat(v, vc)
            kept.append((k, v))
            context = layer.finish(context, qc, k, v, valid[..., None, None, :])
        return Memory(tuple(kept), valid, context[..., 0, :])

    def write(self, memory: Memory, tokens: Tokens) -> Array:
        """Reads known output tokens causally after `memory`: hidden vectors `[..., T, D]`."""
        length = tokens.x.shape[-2]
        causal = jnp.tril(jnp.ones((length, length), bool))
        before = jnp.broadcast_to(
            memory.valid[..., None, :], (*memory.valid.shape[:-1], length, memory.valid.shape[-1])
        )
        mask = _cat(before, causal, axis=-1)[..., None, :, :]
        x = tokens.x
        for i, (layer, (k, v)) in enumerate(zip(self.layers, memory.layers, strict=True)):
            q, kx, vx = tokens.qkv if i == 0 else layer.project(x, tokens.coords)
            x = layer.finish(x, q, _cat(k, kx), _cat(v, vx), mask)
        return x

    def write_next(self, memory: Memory, token: Tokens, slot: Array) -> tuple[Array, Memory]:
        """Reads one output token and keeps its keys and values at place `slot` `[]` of `memory`.

        The keys and values of `memory` must have room: `slot < memory.valid.shape[-1]`.

        Returns:
          Hidden vector `[..., D]` and the extended memory.
        """
        valid = memory.valid.at[..., slot].set(True)
        mask, x, kept = valid[..., None, None, :], token.x, []
        for i, (layer, (k, v)) in enumerate(zip(self.layers, memory.layers, strict=True)):
            q, kx, vx = token.qkv if i == 0 else layer.project(x, token.coords)
            k = jax.lax.dynamic_update_slice_in_dim(k, kx, slot, axis=-2)
            v = jax.lax.dynamic_update_slice_in_dim(v, vx, slot, axis=-2)
            kept.append((k, v))
            x = layer.finish(x, q, k, v, mask)
        return x[..., 0, :], Memory(tuple(kept), valid, memory.context)

    # Heads.

    def row_logits(self, context: Array) -> Array:
        return self.row_head(self.row_norm(context)).astype(jnp.float32)

    def col_logits(self, hidden: Array) -> Array:
        return self.col_head(self.col_norm(hidden)).astype(jnp.float32)

    def cell_logits(self, hidden: Array) -> Array:
        return self.cell_head(self.cell_norm(hidden)).astype(jnp.float32)

    def memory(self, inputs: Tokens | Memory, contexts: Array, context_valid: Array) -> Memory:
        """`read`, or `append_context` when the inputs were read already."""
        if isinstance(inputs, Memory):
            return self.append_context(inputs, contexts, context_valid)
        return self.read(inputs, contexts, context_valid)

    def __call__(
        self, inputs: Tokens | Memory, outputs: Tokens, contexts: Array, context_valid: Array
    ) -> Logits:
        memory = self.memory(inputs, contexts, context_valid)
        hidden = self.write(memory, outputs)
        return Logits(
            self.row_logits(memory.context),
            self.col_logits(hidden[..., 0, :]),
            self.cell_logits(hidden[..., 1:, :]),
        )

    def prepare_inputs(self, grid: Grid) -> Tokens | Memory:
        """Everything about an input grid that does not depend on the latent."""
        tokens = self.embed_inputs(grid)
        return tokens if self.config.input_sees_context else self.read(tokens, None, None)

    def everything(self, inputs: Grid, outputs: Grid, contexts: Array) -> Logits:
        """Touches every parameter; used to initialise."""
        valid = jnp.ones(contexts.shape[:-1], bool)
        return self(self.prepare_inputs(inputs), self.embed_outputs(outputs), contexts, valid)


class LPN:
    """The two networks as pure functions of one parameter tree `{"encoder": ..., "decoder": ...}`.

    All grids and latents may have any leading (batch) dimensions; `decode.py`, `loss.py` and
    `search.py` are written in terms of these functions.

    Args:
      config: structure of the network.
    """

    def __init__(self, config: Config):
        self.config = config
        self._encoder = Encoder(config, config.encoder)
        self._decoder = Decoder(config, config.decoder)

    def init(self, key: Array) -> Params:
        """Parameters, float32. Compile with `jax.jit` (no grid is needed)."""
        grid = Grid(jnp.zeros((1,), jnp.uint8), jnp.ones((2,), jnp.int32))
        key_encoder, key_decoder = jax.random.split(key)
        contexts = jnp.zeros((max(1, self.config.num_slots), self.config.latent_dim))
        encoder = self._encoder.init(key_encoder, grid, grid)
        decoder = self._decoder.init(key_decoder, grid, grid, contexts, method=Decoder.everything)
        return {"encoder": encoder["params"], "decoder": decoder["params"]}

    def encode(self, params: Params, pairs: Pairs, *, key: Array | None = None) -> Posterior:
        """Encodes every pair on its own.

        Args:
          params: parameters.
          pairs: `[..., N]` pairs.
          key: dropout key; None for no dropout.

        Returns:
          Mean and log-variance, `[..., N, H]`. Rows of masked pairs carry no information.
        """
        return self._apply("encoder", params, key, pairs.inputs, pairs.outputs)

    def decoder(self, params: Params, method: str, *args, key: Array | None = None) -> Any:
        """Calls a method of `Decoder` on `params`."""
        return self._apply("decoder", params, key, *args, method=method)

    def _apply(self, part: str, params: Params, key: Array | None, *args, method=None) -> Any:
        module = self._encoder if part == "encoder" else self._decoder
        rngs = None if key is None or not self.config.dropout else {"dropout": key}
        return module.apply({"params": params[part]}, *args, method=method, rngs=rngs)

    def prepare(self, params: Params, pairs: Pairs, *, key: Array | None = None) -> "Prepared":
        """What does not depend on the latent: do it once per pair, search many times."""
        # Separate keys: each call starts its random stream anew.
        key_inputs, key_outputs = (None, None) if key is None else jax.random.split(key)
        return Prepared(
            self.decoder(params, "prepare_inputs", pairs.inputs, key=key_inputs),
            self.decoder(params, "embed_outputs", pairs.outputs, key=key_outputs),
            pairs.outputs,
        )

    def logits(
        self,
        params: Params,
        contexts: Array,
        prepared: "Prepared",
        *,
        context_valid: Array | None = None,
        key: Array | None = None,
    ) -> Logits:
        """Teacher-forced predictions of the outputs of `prepared` under `contexts`.

        Args:
          params: parameters.
          contexts: latent programs `[..., H]`, one per pair; `[..., M, H]` when `num_slots > 0`.
          prepared: from `prepare`.
          context_valid: `[..., M]`, only with slots.
          key: dropout key; None for no dropout.
        """
        if not self.config.num_slots:
            contexts = contexts[..., None, :]
        if context_valid is None:
            context_valid = jnp.ones(contexts.shape[:-1], bool)
        return self.decoder(
            params, "__call__", prepared.inputs, prepared.outputs, contexts, context_valid, key=key
        )

    def num_parameters(self) -> dict[str, int]:
        """Exact parameter counts: `encoder`, `decoder` and `total`, of one copy."""
        tree = jax.eval_shape(self.init, jax.random.key(0))
        counts = {
            part: sum(leaf.size for leaf in jax.tree.leaves(tree[part]))
            for part in ("encoder", "decoder")
        }
        return {**counts, "total": sum(counts.values())}


class Prepared(NamedTuple):
    """Pairs, embedded once for many latents.

    Attributes:
      inputs: input side, tokens or (with `input_sees_context=False`) finished keys and values.
      outputs: output tokens.
      targets: the output grids themselves.
    """

    inputs: Tokens | Memory
    outputs: Tokens
    targets: Grid
