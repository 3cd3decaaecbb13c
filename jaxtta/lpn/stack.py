"""What encoder and decoder share: tables of vectors, positions of cells, transformer blocks.

Parameter names are those of the authors' checkpoints (Flax's `MultiHeadAttention` and `Dense`
defaults).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxtrain.nets.transformer import Attention, FeedForward, TransformerBlock
from jaxtta.lpn.config import ACTIVATIONS, Block, Config

Place = Callable[[Array, Array], Array]


def lift(x: Array, rank: int) -> Array:
    """Adds leading axes of size 1 until `x` has `rank` dimensions, so that it can be broadcast."""
    return jnp.expand_dims(x, tuple(range(rank - x.ndim)))


def cat(*arrays: Array, axis: int = -2) -> Array:
    """Concatenates after broadcasting the leading (batch) dimensions."""
    trailing = -axis
    batch = jnp.broadcast_shapes(*(a.shape[: a.ndim - trailing] for a in arrays))
    return jnp.concatenate(
        [jnp.broadcast_to(a, batch + a.shape[a.ndim - trailing :]) for a in arrays], axis=axis
    )


class AxialAttention(Attention):
    """Attention whose rotary code of rows and columns has learned frequencies.

    Per head and axis there are head_dim / 4 log-frequencies; the first half of the channel pairs
    turns by row, the rest by column.

    Attributes:
      max_frequency: largest initial frequency, over pi / 2.
    """

    max_frequency: float = 10.0

    def setup(self) -> None:
        def log_frequencies(key: Array, shape: tuple[int, int]) -> Array:
            spread = jnp.linspace(1.0, self.max_frequency / 2, shape[-1])
            return jnp.broadcast_to(jnp.log(math.pi * spread), shape).astype(jnp.float32)

        shape = (self.num_heads, self.head_dim // 4)
        self.row_frequencies = self.param("row_log_frequencies", log_frequencies, shape)
        self.col_frequencies = self.param("col_log_frequencies", log_frequencies, shape)
        super().setup()

    def angles(self, places: Array) -> Array:
        """`places` `[..., T, 2]` in [-1, 1] -> angles `[..., heads, T, head_dim / 2]`, radians."""
        axes = [
            places[..., None, :, axis, None]
            * lift(jnp.exp(frequencies)[:, None, :], places.ndim + 1)
            for axis, frequencies in enumerate((self.row_frequencies, self.col_frequencies))
        ]
        return jnp.concatenate(axes, axis=-1)


class Stack(nn.Module):
    """Maker of the parts of an encoder or decoder."""

    config: Config
    block: Block

    @property
    def dtype(self) -> Any:
        return jnp.dtype(self.config.dtype)

    def table(self, size: int, name: str) -> nn.Embed:
        """Vectors in float32, since a gradient of one sums over all tokens that have it."""
        return nn.Embed(size, self.block.width, dtype=jnp.float32, name=name)

    def head(self, size: int, name: str) -> nn.Dense:
        """A readout, in float32."""
        return nn.Dense(size, use_bias=False, dtype=jnp.float32, name=name)

    def norm(self, name: str) -> nn.LayerNorm:
        """Layer normalisation of a readout without a learned scale (epsilon 1e-6), in float32."""
        return nn.LayerNorm(
            use_bias=self.config.use_bias, use_scale=False, dtype=jnp.float32, name=name
        )

    def places(self, prefix: str = "") -> Place:
        """Additive code `[..., D]` of cells at (rows, cols) `[...]`; 0 if they are rotary."""
        c = self.config
        if c.positions == "rope":
            return lambda rows, cols: jnp.zeros(())
        scaled = c.positions == "scaled"
        row_table = self.table(1 if scaled else c.max_rows, f"{prefix}pos_row_embed")
        col_table = self.table(1 if scaled else c.max_cols, f"{prefix}pos_col_embed")
        code = _scaled if scaled else lambda table, index: table(index)
        return lambda rows, cols: code(row_table, rows) + code(col_table, cols)

    def coords(self, rows: Array, cols: Array) -> Array:
        """Centres of cells of an R x C grid on [-1, 1], `[..., 2]`."""
        centres = [
            (2 * index + 1) / size - 1
            for index, size in ((rows, self.config.max_rows), (cols, self.config.max_cols))
        ]
        return jnp.stack(centres, axis=-1)

    def blocks(self) -> list[TransformerBlock]:
        c, sizes = self.config, self.block
        attention: Callable[..., Attention] = Attention
        if c.positions == "rope":
            attention = functools.partial(AxialAttention, max_frequency=c.rope_max_frequency)
        block = TransformerBlock
        if c.remat:
            block = nn.remat(TransformerBlock, methods=["project", "attend", "finish"])
        options: dict[str, Any] = dict(use_bias=c.use_bias, dtype=self.dtype)
        heads = (sizes.width, sizes.num_heads, sizes.head_dim)
        return [
            block(
                functools.partial(attention, *heads, fused=c.fused, **options),
                functools.partial(
                    FeedForward,
                    int(sizes.mlp_factor * sizes.width),
                    ACTIVATIONS[c.activation],
                    names=("Dense_0", "Dense_1"),
                    **options,
                ),
                functools.partial(nn.LayerNorm, use_scale=False, **options),
                c.dropout,
                ("LayerNorm_0", "MultiHeadAttention_0", "LayerNorm_1", "MlpBlock_0"),
                name=f"TransformerLayer_{i}",
            )
            for i in range(sizes.num_layers)
        ]

    def embedded(self, x: Array) -> Array:
        """Sums of vectors from tables as activations: of their type, and dropped out."""
        return self.drop(x.astype(self.dtype), deterministic=not self.has_rng("dropout"))


def _scaled(table: nn.Embed, index: Array) -> Array:
    """The only vector of `table` times index + 1."""
    factor = (index + 1)[..., None].astype(table.dtype)
    return factor * lift(table(jnp.zeros((1,), jnp.int32)), index.ndim + 1)
