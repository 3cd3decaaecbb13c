"""The transformer block, in three calls so that work can be put between them.

`project` turns tokens into queries, keys and values, `attend` mixes values, and `finish` adds the
two residual branches:

    q, k, v = block.project(x, places)
    x = block.finish(x, block.attend(q, k, v, mask))

Which tokens may read which is thereby the caller's: keys and values can be kept and read again
(`keep`, `with_room`), joined with those of other tokens, computed once for many queries, or taken
from another sequence (`source`). A block is pre-norm: x + attention(norm(x)), then
x + feed_forward(norm(x)).

Networks choose its parts by partial application:

    TransformerBlock(
        functools.partial(Attention, width=64, num_heads=4, head_dim=16),
        functools.partial(FeedForward, hidden=256),
        functools.partial(nn.LayerNorm, epsilon=1e-5),
    )

References:
  Vaswani et al., Attention Is All You Need, NeurIPS 2017, arXiv 1706.03762.
  Shazeer, GLU Variants Improve Transformer, arXiv 2002.05202 (`gated`).
  Ainslie et al., GQA, EMNLP 2023, arXiv 2305.13245 (`num_kv_heads`).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxtrain.nets.attention import Fused, attend, attend_fused, rotate

Projected = tuple[Array, Array, Array]
NAMES = ("attention_norm", "attention", "feed_forward_norm", "feed_forward")


class Attention(nn.Module):
    """Multi-head attention, split where callers reuse work.

    Attributes:
      width: channels of a token.
      num_heads: query heads.
      head_dim: channels of a head.
      num_kv_heads: key and value heads; None: one per query head.
      use_bias: whether the output has a bias.
      qkv_bias: whether queries, keys and values have one; None: as `use_bias` says.
      rotary: angles `[..., heads or 1, T, n]` from the places of the tokens; None: no rotary code.
      fused: implementation of `attend_fused` that mixes values; None: `attend`, as for a single
        query, whose weights are few.
      kernel_init: of all kernels.
      dtype: of activations; None: that of input and parameters.
      param_dtype: of the parameters.

    Raises:
      ValueError: (when called) `num_kv_heads` does not divide `num_heads`.
    """

    width: int
    num_heads: int
    head_dim: int
    num_kv_heads: int | None = None
    use_bias: bool = True
    qkv_bias: bool | None = None
    rotary: Callable[[Array], Array] | None = None
    fused: Fused | None = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        kv_heads = self.num_kv_heads or self.num_heads
        if self.num_heads % kv_heads:
            raise ValueError(
                f"num_kv_heads is {kv_heads}; it must divide num_heads, which is {self.num_heads}."
            )
        dense = functools.partial(
            nn.DenseGeneral,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        bias = self.use_bias if self.qkv_bias is None else self.qkv_bias
        self.query = dense((self.num_heads, self.head_dim), use_bias=bias)
        self.key = dense((kv_heads, self.head_dim), use_bias=bias)
        self.value = dense((kv_heads, self.head_dim), use_bias=bias)
        self.out = dense(self.width, axis=(-2, -1), use_bias=self.use_bias)

    def angles(self, places: Any) -> Array | None:
        """Rotary angles of tokens at `places`; None for no rotation."""
        return None if self.rotary is None else self.rotary(places)

    def project(self, x: Array, places: Any = None, source: Array | None = None) -> Projected:
        """Queries `[..., heads, T, head_dim]`, keys and values `[..., kv_heads, T, head_dim]`.

        Args:
          x: tokens `[..., T, D]`.
          places: what `rotary` takes.
          source: tokens `[..., S, D']` of another sequence, whose keys and values are returned
            instead; nothing is rotated then.
        """
        read = x if source is None else source
        layers = ((self.query, x), (self.key, read), (self.value, read))
        q, k, v = (layer(tokens).swapaxes(-3, -2) for layer, tokens in layers)
        angles = self.angles(places) if source is None else None
        return (q, k, v) if angles is None else (rotate(q, angles), rotate(k, angles), v)

    def attend(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        """Mixed values `[..., heads, Q, head_dim]`, as `jaxtrain.nets.attention.attend`."""
        if self.fused is None or q.shape[-2] == 1:
            return attend(q, k, v, mask)
        return attend_fused(q, k, v, mask, self.fused)

    def merge(self, mixed: Array) -> Array:
        """Tokens `[..., Q, D]` from mixed values `[..., heads, Q, head_dim]`."""
        return self.out(mixed.swapaxes(-3, -2))

    def __call__(self, x: Array, mask: Array | None = None, places: Any = None) -> Array:
        """Self-attention of `x` `[..., T, D]`."""
        return self.merge(self.attend(*self.project(x, places), mask))


class FeedForward(nn.Module):
    """Two layers on every token: `down(f(up(x)))`, or `down(f(gate(x)) * up(x))` when gated.

    Attributes:
      hidden: width between them.
      activation: f.
      gated: whether there is a gate (SwiGLU with `nn.silu`).
      use_bias: biases in all layers.
      names: of the parameters of `up` and `down`.
      kernel_init, dtype, param_dtype: as in `Attention`.
    """

    hidden: int
    activation: Callable[[Array], Array] = nn.gelu
    gated: bool = False
    use_bias: bool = True
    names: tuple[str, str] = ("up", "down")
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dense = functools.partial(
            nn.Dense,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        up = dense(self.hidden, name=self.names[0])(x)
        if self.gated:
            up = self.activation(dense(self.hidden, name="gate")(x)) * up
        else:
            up = self.activation(up)
        return dense(x.shape[-1], name=self.names[1])(up)


class TransformerBlock(nn.Module):
    """Attention and a feed-forward network, each after a norm and around a shortcut.

    Attributes:
      attention: makes the attention.
      feed_forward: makes the feed-forward network.
      norm: makes each of the two norms (`nn.LayerNorm`, `nn.RMSNorm`, with their options).
      dropout: rate on both residual branches; on exactly when the caller gives a `dropout` key.
      names: of the parameters of first norm, attention, second norm and feed-forward network, for
        networks whose checkpoints have names already; under an empty name the parameters of
        attention or feed-forward network lie among those of the block itself.
    """

    attention: Callable[..., Attention]
    feed_forward: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] = nn.LayerNorm
    dropout: float = 0.0
    names: tuple[str, str, str, str] = NAMES

    def setup(self) -> None:
        first, attention, second, feed_forward = self.names
        inside = lambda make, name: (
            make(name=name) if name else make(name="inside", parent=self.scope)
        )
        self.first_norm = self.norm(name=first)
        self.attention_layer = inside(self.attention, attention)
        self.second_norm = self.norm(name=second)
        self.feed_forward_layer = inside(self.feed_forward, feed_forward)
        if self.dropout:
            self.drop = nn.Dropout(self.dropout)

    def project(self, x: Array, places: Any = None, source: Array | None = None) -> Projected:
        """Queries, keys and values of the tokens `x` `[..., T, D]`, as `Attention.project`.

        `source` is read as it is, without this block's norm.
        """
        return self.attention_layer.project(self.first_norm(x), places, source)

    def attend(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        """Mixed values `[..., heads, Q, head_dim]`, as `Attention.attend`."""
        return self.attention_layer.attend(q, k, v, mask)

    def finish(self, x: Array, mixed: Array) -> Array:
        """New values `[..., Q, D]` of the tokens `x` whose queries gave the values `mixed`."""
        x = x + self._dropped(self.attention_layer.merge(mixed))
        return x + self._dropped(self.feed_forward_layer(self.second_norm(x)))

    def __call__(self, x: Array, mask: Array | None = None, places: Any = None) -> Array:
        """Self-attention of `x` `[..., T, D]` and what follows, in one call."""
        return self.finish(x, self.attend(*self.project(x, places), mask))

    def _dropped(self, x: Array) -> Array:
        if not self.dropout:
            return x
        return self.drop(x, deterministic=not self.has_rng("dropout"))
