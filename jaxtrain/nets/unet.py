"""The U-Net that predicts noise in diffusion models.

Layers are named by place: `down<level>_<i>`, `middle<i>`, `up<level>_<i>`, each with `attention`
where it has one; `shrink<level>` and `grow<level>` between levels.

References:
  Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020.
  Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, NeurIPS 2021 (ADM), whose
  blocks these are: scale and shift from the embedding, resampling inside residual blocks.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from flax import linen as nn

from jaxtrain.nets.convolution import conv_general_dilated
from jaxtrain.nets.vit import PackedAttention


def sinusoids(times: jax.Array, width: int) -> jax.Array:
    """Cosines and sines of t f_k with f_k = 10000^(-k / (width / 2)), `[B] -> [B, width]`."""
    frequencies = jnp.exp(-jnp.log(1e4) * jnp.arange(width // 2) / (width // 2))
    angles = times[:, None].astype(jnp.float32) * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


def resampled(x: jax.Array, how: str) -> jax.Array:
    """Half the side by means of 2 x 2, or twice by repetition; `same` leaves it."""
    if how == "shrink":
        return reduce(x, "b (h 2) (w 2) c -> b h w c", "mean")
    return repeat(x, "b h w c -> b (h 2) (w 2) c") if how == "grow" else x


class _Layers(nn.Module):
    """Settings that all parts share, and the layers made from them."""

    groups: int = 32
    head_dim: int = 64
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def types(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def shared(self) -> dict[str, Any]:
        return {"groups": self.groups, "head_dim": self.head_dim, **self.types()}

    def conv(self, features: int, size: int, name: str, **options: Any) -> nn.Conv:
        options |= {"conv_general_dilated": conv_general_dilated, **self.types()}
        return nn.Conv(features, (size, size), name=name, **options)

    def norm(self, name: str) -> nn.GroupNorm:
        options: dict[str, Any] = {"epsilon": 1e-5, "use_fast_variance": False, **self.types()}
        return nn.GroupNorm(self.groups, name=name, **options)


class ResidualBlock(_Layers):
    """Two 3 x 3 convolutions after norms, and attention over all positions after them.

    Attributes:
      features: of the result.
      how: in which way the side changes.
      attention: whether there is attention.
    """

    features: int = 16
    how: Literal["same", "shrink", "grow"] = "same"
    attention: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        y = resampled(nn.silu(self.norm("norm1")(x)), self.how)
        y = self.conv(self.features, 3, "conv1")(y)
        dense = nn.Dense(2 * self.features, name="embedding", **self.types())
        scale, shift = jnp.split(dense(nn.silu(embedding))[:, None, None], 2, -1)
        y = nn.silu(self.norm("norm2")(y) * (1 + scale) + shift)
        y = self.conv(self.features, 3, "conv2", kernel_init=nn.initializers.zeros)(y)
        x = resampled(x, self.how)
        if x.shape[-1] != self.features:
            x = self.conv(self.features, 1, "conv_shortcut")(x)
        x = x + y
        if self.attention:
            heads = max(self.features // self.head_dim, 1)
            sizes = (self.features, heads, self.features // heads)
            attend = PackedAttention(*sizes, **self.types(), name="attention")
            tokens = self.norm("norm_attention")(x).reshape(len(x), -1, self.features)
            x = x + attend(tokens).reshape(x.shape)
        return x


class UNet(_Layers):
    """Predicts the noise in images; zero before training.

    The defaults are ADM for 256 x 256 pixels without classes, less its learned variances.

    Attributes:
      width: channels of the first level.
      multipliers: channels of every level, as multiples of `width`; each halves the side.
      num_blocks: residual blocks of a level on the way down; one more on the way up.
      attention_at: sides of the feature maps that have attention.
      num_classes: K; labels are 0 to K - 1, and K stands for no class. 0: without labels.
      patch: side of the patches that enter as channels of one position; 1 in published networks.
      groups: of group norm; divides all channels.
      head_dim: channels of an attention head.
      dtype: of activations; `None`: that of input and parameters.
      param_dtype: of the parameters.

    Returns:
      (when called with images `[B, H, W, C]` in [-1, 1], times `[B]` and perhaps labels `[B]`)
      noise, in the shape of the images.

    Raises:
      ValueError: (when called) a side that levels and patches do not divide, or labels without
        `num_classes`.
    """

    width: int = 256
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    num_blocks: int = 2
    attention_at: tuple[int, ...] = (32, 16, 8)
    num_classes: int = 0
    patch: int = 1

    @nn.compact
    def __call__(
        self, x: jax.Array, times: jax.Array, labels: jax.Array | None = None
    ) -> jax.Array:
        unit, channels = self.patch * 2 ** (len(self.multipliers) - 1), x.shape[-1]
        if x.shape[1] % unit or x.shape[2] % unit:
            raise ValueError(
                f"images of {x.shape[1]} x {x.shape[2]} pixels must have sides divisible by {unit}:"
                f" patches of {self.patch} and {len(self.multipliers)} levels."
            )
        if labels is not None and not self.num_classes:
            raise ValueError("labels were given, but the network has num_classes=0.")
        dense = lambda name: nn.Dense(4 * self.width, name=name, **self.types())
        embedding = dense("time1")(sinusoids(times, self.width).astype(x.dtype))
        embedding = dense("time2")(nn.silu(embedding))
        if self.num_classes:
            given = jnp.full_like(times, self.num_classes, jnp.int32) if labels is None else labels
            options = {"embedding_init": nn.initializers.normal(1.0), **self.types()}
            table = nn.Embed(self.num_classes + 1, 4 * self.width, name="classes", **options)
            embedding = embedding + table(given)

        def block(x: jax.Array, level: int, name: str, **options: Any) -> jax.Array:
            features = self.multipliers[level] * self.width
            layer = ResidualBlock(features=features, name=name, **options, **self.shared())
            return layer(x, embedding)

        def attended(x: jax.Array, level: int, name: str) -> jax.Array:
            return block(x, level, name, attention=x.shape[1] in self.attention_at)

        sides = {"p": self.patch, "q": self.patch}
        x = rearrange(x, "b (h p) (w q) c -> b h w (p q c)", **sides)
        x = self.conv(self.width, 3, "conv_in")(x)
        kept, last = [x], len(self.multipliers) - 1
        for level in range(last + 1):
            for i in range(self.num_blocks):
                kept.append(x := attended(x, level, f"down{level}_{i}"))
            if level < last:
                kept.append(x := block(x, level, f"shrink{level}", how="shrink"))
        x = block(block(x, last, "middle0", attention=True), last, "middle1")
        for level in range(last, -1, -1):
            for i in range(self.num_blocks + 1):
                x = attended(jnp.concatenate([x, kept.pop()], -1), level, f"up{level}_{i}")
            if level:
                x = block(x, level, f"grow{level}", how="grow")
        x = nn.silu(self.norm("norm_out")(x))
        x = self.conv(channels * self.patch**2, 3, "conv_out", kernel_init=nn.initializers.zeros)(x)
        return rearrange(x, "b h w (p q c) -> b (h p) (w q) c", **sides)
