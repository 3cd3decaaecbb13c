"""Vision transformers with a class token.

References:
  Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021. Parameter names follow the layers of
  the timm weights that `import_torch` reads.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from jaxtrain.nets.classifier import Classified, standardised
from jaxtrain.nets.convolution import conv_general_dilated
from jaxtrain.nets.norm import Norm
from jaxtrain.nets.transformer import Attention, FeedForward, TransformerBlock


class PackedAttention(Attention):
    """Attention whose parameters are timm's: one matrix `qkv` and one matrix `proj`."""

    def setup(self) -> None:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.qkv = nn.Dense(3 * self.num_heads * self.head_dim, **types)
        self.proj = nn.Dense(self.width, **types)

    def project(self, x: jax.Array, places: Any = None, source: jax.Array | None = None) -> Any:
        """Queries, keys and values `[B, heads, T, head_dim]`; one matrix has no other source."""
        return rearrange(self.qkv(x), "b t (three h d) -> three b h t d", three=3, d=self.head_dim)

    def merge(self, mixed: jax.Array) -> jax.Array:
        return self.proj(rearrange(mixed, "b h t d -> b t (h d)"))


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x), the activation of CLIP."""
    return x * nn.sigmoid(1.702 * x)


Prefix = tuple[jax.Array, jax.Array]
"""Keys and values of a block, `[P, D]` or of every row `[B, P, D]`, before those of its tokens."""


def in_front(prefix: jax.Array, x: jax.Array) -> jax.Array:
    """Keys or values of a prefix in front of those of the tokens.

    Args:
      prefix: all heads side by side, `[P, heads * d]`, or of every row `[B, P, heads * d]`.
      x: of the tokens, `[B, heads, T, d]`.
    """
    rows = jnp.broadcast_to(prefix, (len(x), *prefix.shape[-2:])).astype(x.dtype)
    split = rearrange(rows, "b p (h d) -> b h p d", h=x.shape[1])
    return jnp.concatenate([split, x], axis=2)


class ViT(nn.Module):
    """A vision transformer; blocks are `block0`, ..., the last norm is `norm_last`.

    Its first blocks attend to `prefixes` too, if it is called with some.

    Attributes:
      num_classes: length of the logits.
      patch: side of a patch in pixels; divides the image.
      width: D, length of a token.
      depth: number of blocks.
      num_heads: attention heads.
      clip: the image tower of CLIP, whose logits are the embedding: no bias of patches and head, a
        norm `norm_first` before the blocks, `quick_gelu`.
      mean, std: of the pixels, per channel.
      dtype: of activations; `None`: that of input and parameters.
      param_dtype: of the parameters.

    Returns:
      (when called with images `[B, H, W, C]` in [0, 1]) `Classified`; features are the normalised
      class token.

    Raises:
      ValueError: (when called) not floating-point images with the channels last, a side that
        patches do not divide, or more prefixes than blocks.
    """

    num_classes: int = 1000
    patch: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    clip: bool = False
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        *,
        train: bool = False,
        norm: Norm | None = None,
        mask: jax.Array | None = None,
        prefixes: Sequence[Prefix] = (),
    ) -> Classified:
        del train, norm, mask  # every row is normalised by itself
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = standardised(inputs, self.mean, self.std)
        if x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise ValueError(
                f"images of {x.shape[1]} x {x.shape[2]} pixels do not divide into patches of "
                f"{self.patch}; resize them."
            )
        if len(prefixes) > self.depth:
            raise ValueError(f"{len(prefixes)} prefixes are more than the {self.depth} blocks.")
        size = (self.patch, self.patch)
        x = nn.Conv(
            self.width,
            size,
            size,
            padding="VALID",
            use_bias=not self.clip,
            conv_general_dilated=conv_general_dilated,
            name="patches",
            **types,
        )(x)
        x = x.reshape(x.shape[0], -1, self.width)
        small = nn.initializers.truncated_normal(0.02)
        token = self.param("token", small, (1, 1, self.width), self.param_dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), x], axis=1)
        x = x + self.param("positions", small, (1, *x.shape[1:]), self.param_dtype)
        epsilon = 1e-5 if self.clip else 1e-6
        gelu = quick_gelu if self.clip else functools.partial(nn.gelu, approximate=False)
        heads = (self.num_heads, self.width // self.num_heads)
        layer_norm = functools.partial(nn.LayerNorm, epsilon, **types, use_fast_variance=False)
        block = functools.partial(
            TransformerBlock,
            functools.partial(PackedAttention, self.width, *heads, **types),
            functools.partial(
                FeedForward,
                4 * self.width,
                gelu,
                names=("fc1", "fc2"),
                **types,
            ),
            layer_norm,
            names=("norm1", "attention", "norm2", ""),
        )
        x = layer_norm(name="norm_first")(x) if self.clip else x
        for i in range(self.depth):
            layer = block(name=f"block{i}")
            q, k, v = layer.project(x)
            if i < len(prefixes):
                k, v = in_front(prefixes[i][0], k), in_front(prefixes[i][1], v)
            x = layer.finish(x, layer.attend(q, k, v))
        x = layer_norm(name="norm_last")(x)[:, 0]
        head = nn.Dense(self.num_classes, use_bias=not self.clip, **types, name="head")
        return Classified(head(x), x)


def vit_small(**options: Any) -> ViT:
    """ViT-S/16: width 384, 6 heads, 12 blocks."""
    return ViT(**({"width": 384, "num_heads": 6} | options))


def vit_base(**options: Any) -> ViT:
    """ViT-B/16: width 768, 12 heads, 12 blocks."""
    return ViT(**options)
