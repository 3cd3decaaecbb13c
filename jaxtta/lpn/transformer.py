"""The transformer block of the Latent Program Network, split where callers need to reuse work.

A block is three calls instead of one: `project` turns tokens into queries, keys and values,
`attend` mixes values, and `finish` adds the residual branches. Keys and values can then be computed
once and kept (generation), queries can be asked for a few tokens only (the last block of the
encoder needs just the CLS token), and tokens that do not depend on the latent are projected outside
the search loop.

Parameter names are those of the authors' checkpoints (Flax's `MultiHeadAttention` and `Dense`
defaults).
"""

import dataclasses
import math

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array

from jaxtrain.nets.attention import attend, rotate

ACTIVATIONS = {"silu": nn.silu, "relu": nn.relu}


@dataclasses.dataclass(frozen=True)
class Block:
    """Sizes of one stack of transformer blocks.

    Attributes:
      num_layers: number of blocks; 0 is allowed (the published single-task encoders have none).
      num_heads: attention heads per block.
      head_dim: channels per head; the width is `num_heads * head_dim`.
      mlp_factor: width of the feed-forward layer over the width of the block.
    """

    num_layers: int = 2
    num_heads: int = 8
    head_dim: int = 16
    mlp_factor: float = 4.0

    def __post_init__(self):
        if self.num_layers < 0 or min(self.num_heads, self.head_dim) < 1 or self.mlp_factor <= 0:
            raise ValueError(
                f"{self} is impossible; num_layers must be at least 0, num_heads and head_dim at "
                "least 1 and mlp_factor above 0."
            )

    @property
    def width(self) -> int:
        return self.num_heads * self.head_dim


def lift(x: Array, rank: int) -> Array:
    """Adds leading axes of size 1 until `x` has `rank` dimensions, so that it can be broadcast."""
    return jnp.expand_dims(x, tuple(range(rank - x.ndim)))


def _log_frequencies(max_frequency: float):
    def init(key, shape, dtype=jnp.float32):
        del key
        return jnp.broadcast_to(
            jnp.log(math.pi * jnp.linspace(1.0, max_frequency / 2, shape[-1])), shape
        ).astype(dtype)

    return init


class _Attention(nn.Module):
    block: Block
    use_bias: bool
    dtype: jnp.dtype
    rope_max_frequency: float | None

    def setup(self):
        def heads(name):
            return nn.DenseGeneral(
                (self.block.num_heads, self.block.head_dim),
                use_bias=self.use_bias,
                dtype=self.dtype,
                name=name,
            )

        self.query, self.key, self.value = heads("query"), heads("key"), heads("value")
        self.out = nn.DenseGeneral(
            self.block.width, axis=(-2, -1), use_bias=self.use_bias, dtype=self.dtype, name="out"
        )
        if self.rope_max_frequency is not None:
            # Axial rotary code: per head and axis head_dim / 4 learnable log-frequencies.
            shape = (self.block.num_heads, self.block.head_dim // 4)
            init = _log_frequencies(self.rope_max_frequency)
            self.row_frequencies = self.param("row_log_frequencies", init, shape)
            self.col_frequencies = self.param("col_log_frequencies", init, shape)

    def _angles(self, coords: Array) -> Array:
        """`coords` `[..., T, 2]` in [-1, 1] -> angles `[..., heads, T, head_dim / 2]`, radians."""
        axes = [
            coords[..., None, :, axis, None]
            * lift(jnp.exp(frequencies)[:, None, :], coords.ndim + 1)
            for axis, frequencies in enumerate((self.row_frequencies, self.col_frequencies))
        ]
        return jnp.concatenate(axes, axis=-1)

    def project(self, x: Array, coords: Array) -> tuple[Array, Array, Array]:
        q, k, v = (
            rearrange(f(x), "... token head dim -> ... head token dim")
            for f in (self.query, self.key, self.value)
        )
        if self.rope_max_frequency is not None:
            angles = self._angles(coords)
            q, k = rotate(q, angles), rotate(k, angles)
        return q, k, v

    def __call__(self, q: Array, k: Array, v: Array, mask: Array) -> Array:
        mixed = attend(q, k, v, mask)
        return self.out(rearrange(mixed, "... head token dim -> ... token head dim"))


class _Mlp(nn.Module):
    block: Block
    use_bias: bool
    activation: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = int(self.block.mlp_factor * self.block.width)
        x = nn.Dense(hidden, self.use_bias, dtype=self.dtype, name="Dense_0")(x)
        return nn.Dense(self.block.width, self.use_bias, dtype=self.dtype, name="Dense_1")(
            ACTIVATIONS[self.activation](x)
        )


class Layer(nn.Module):
    """Pre-norm block: `x += MHA(LN(x))`, then `x += MLP(LN(x))`, LN without learned scale."""

    block: Block
    use_bias: bool = False
    activation: str = "silu"
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    rope_max_frequency: float | None = None

    def setup(self):
        self.attention = _Attention(
            self.block,
            self.use_bias,
            self.dtype,
            self.rope_max_frequency,
            name="MultiHeadAttention_0",
        )
        self.mlp = _Mlp(self.block, self.use_bias, self.activation, self.dtype, name="MlpBlock_0")
        self.attention_norm = norm(self.use_bias, self.dtype, "LayerNorm_0")
        self.mlp_norm = norm(self.use_bias, self.dtype, "LayerNorm_1")
        self.drop = nn.Dropout(self.dropout)

    def project(self, x: Array, coords: Array) -> tuple[Array, Array, Array]:
        """Queries, keys and values of tokens `x` `[..., T, D]`, each `[..., heads, T, head_dim]`.

        `coords` `[..., T, 2]` are the rotary coordinates, (0, 0) for tokens without a place; they
        are ignored unless the positions are rotary.
        """
        return self.attention.project(self.attention_norm(x), coords)

    def finish(self, x: Array, q: Array, k: Array, v: Array, mask: Array) -> Array:
        """New values `[..., Q, D]` of the tokens `x` whose queries are `q`, reading `k` and `v`.

        Dropout is on exactly when the caller provides a `dropout` key.
        """
        deterministic = not self.has_rng("dropout")
        x = x + self.drop(self.attention(q, k, v, mask), deterministic=deterministic)
        return x + self.drop(self.mlp(self.mlp_norm(x)), deterministic=deterministic)


def norm(use_bias: bool, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """Layer normalisation without a learned scale (epsilon 1e-6), statistics in float32."""
    return nn.LayerNorm(use_bias=use_bias, use_scale=False, dtype=dtype, name=name)
