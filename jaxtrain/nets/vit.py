"""Vision transformers with a class token.

References:
  Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021. Parameter names follow the layers of
  the timm weights that `import_torch` reads.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxtrain.nets.classifier import Classified, standardised
from jaxtrain.nets.convolution import conv_general_dilated
from jaxtrain.nets.norm import Norm


class Attention(nn.Module):
    """Multi-head self-attention over `[B, T, D]`, softmax in float32.

    Attributes:
      num_heads: divides D.
      dtype, param_dtype: as in `ViT`.
    """

    num_heads: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = lambda size, name: nn.Dense(
            size, dtype=self.dtype, param_dtype=self.param_dtype, name=name
        )
        width = x.shape[-1]
        qkv = dense(3 * width, "qkv")(x).reshape(*x.shape[:2], 3, self.num_heads, -1)
        query, key, value = jnp.moveaxis(qkv, 2, 0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * (width // self.num_heads) ** -0.5
        wide = jnp.promote_types(scores.dtype, jnp.float32)
        weights = jax.nn.softmax(scores.astype(wide)).astype(value.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
        return dense(width, "proj")(mixed)


class EncoderBlock(nn.Module):
    """Attention and a two-layer perceptron, each after layer norm and around a shortcut."""

    num_heads: int
    mlp_factor: int = 4
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = lambda name: nn.LayerNorm(1e-6, **types, use_fast_variance=False, name=name)
        x = x + Attention(self.num_heads, **types, name="attention")(norm("norm1")(x))
        hidden = nn.Dense(self.mlp_factor * x.shape[-1], **types, name="fc1")(norm("norm2")(x))
        return x + nn.Dense(x.shape[-1], **types, name="fc2")(nn.gelu(hidden, approximate=False))


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
        for i in range(self.depth):
            x = EncoderBlock(self.num_heads, **types, name=f"block{i}")(x)
        x = nn.LayerNorm(1e-6, **types, use_fast_variance=False, name="norm_last")(x)[:, 0]
        return Classified(nn.Dense(self.num_classes, **types, name="head")(x), x)


def vit_small(**options: Any) -> ViT:
    """ViT-S/16: width 384, 6 heads, 12 blocks."""
    return ViT(**({"width": 384, "num_heads": 6} | options))


def vit_base(**options: Any) -> ViT:
    """ViT-B/16: width 768, 12 heads, 12 blocks."""
    return ViT(**options)
