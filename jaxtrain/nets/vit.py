"""Vision transformers with a class token.

References:
  Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021. Parameter names follow the layers of
  the timm weights that `import_torch` reads.
"""

import functools
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


class ViT(nn.Module):
    """A vision transformer; blocks are `block0`, ..., the last norm is `norm_last`.

    Attributes:
      num_classes: length of the logits.
      patch: side of a patch in pixels; divides the image.
      width: D, length of a token.
      depth: number of blocks.
      num_heads: attention heads.
      mean, std: of the pixels, per channel.
      dtype: of activations; `None`: that of input and parameters.
      param_dtype: of the parameters.

    Returns:
      (when called with images `[B, H, W, C]` in [0, 1]) `Classified`; features are the normalised
      class token.

    Raises:
      ValueError: (when called) not floating-point images with the channels last, or a side that
        patches do not divide.
    """

    num_classes: int = 1000
    patch: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
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
    ) -> Classified:
        del train, norm, mask  # every row is normalised by itself
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = standardised(inputs, self.mean, self.std)
        if x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise ValueError(
                f"images of {x.shape[1]} x {x.shape[2]} pixels do not divide into patches of "
                f"{self.patch}; resize them."
            )
        size = (self.patch, self.patch)
        x = nn.Conv(
            self.width,
            size,
            size,
            padding="VALID",
            conv_general_dilated=conv_general_dilated,
            name="patches",
            **types,
        )(x)
        x = x.reshape(x.shape[0], -1, self.width)
        small = nn.initializers.truncated_normal(0.02)
        token = self.param("token", small, (1, 1, self.width), self.param_dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), x], axis=1)
        x = x + self.param("positions", small, (1, *x.shape[1:]), self.param_dtype)
        heads = (self.num_heads, self.width // self.num_heads)
        layer_norm = functools.partial(nn.LayerNorm, 1e-6, **types, use_fast_variance=False)
        block = functools.partial(
            TransformerBlock,
            functools.partial(PackedAttention, self.width, *heads, **types),
            functools.partial(
                FeedForward,
                4 * self.width,
                functools.partial(nn.gelu, approximate=False),
                names=("fc1", "fc2"),
                **types,
            ),
            layer_norm,
            names=("norm1", "attention", "norm2", ""),
        )
        for i in range(self.depth):
            x = block(name=f"block{i}")(x)
        x = layer_norm(name="norm_last")(x)[:, 0]
        return Classified(nn.Dense(self.num_classes, **types, name="head")(x), x)


def vit_small(**options: Any) -> ViT:
    """ViT-S/16: width 384, 6 heads, 12 blocks."""
    return ViT(**({"width": 384, "num_heads": 6} | options))


def vit_base(**options: Any) -> ViT:
    """ViT-B/16: width 768, 12 heads, 12 blocks."""
    return ViT(**options)
