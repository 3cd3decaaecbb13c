"""A network that classifies every pixel, and losses of pixels.

The residual blocks are those of `resnet`, the changes of resolution those of `unet`. Layers are
named by place: `down<level>_<i>` and `up<level>_<i>` with a `norm1` and a `norm2` each, `norm_last`
before `head`.

References:
  Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

from jaxtrain.nets.classifier import Classified, chosen, standardised
from jaxtrain.nets.norm import Norm
from jaxtrain.nets.resnet import IMAGENET_MEAN, IMAGENET_STD, Layers, PreActBlock
from jaxtrain.nets.unet import resampled
from jaxtrain.parallel import AxisName, masked_mean


def per_pixel(loss: Callable[..., Array]) -> Callable[..., Array]:
    """A loss of images from a loss of rows: its mean over the pixels of each.

    Args:
      loss: `(logits [..., K], ...) -> [...]`, such as an entropy.

    Returns:
      The loss of `[B, ..., K]`, `[B]`. Logits `[B, K]` have no pixels, and theirs is the loss as it
      was given.
    """

    def of_images(logits: Array, *others: Array) -> Array:
        each = loss(logits, *others)
        return each if each.ndim == 1 else each.reshape(len(each), -1).mean(-1)

    return of_images


def labelled_cross_entropy(
    logits: Array,
    labels: Array,
    weights: ArrayLike = 1.0,
    axis_name: AxisName | None = None,
) -> Array:
    """Mean cross-entropy of the pixels that have a label, each times its weight.

    Args:
      logits: `[B, H, W, K]`.
      labels: `[B, H, W]`, whole numbers; below 0 for pixels without a label.
      weights: of the pixels, `[B, H, W]` or one number; they are not divided by their sum.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      `[]`; 0 when no pixel has a label.
    """
    each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return masked_mean(weights * each, labels >= 0, axis_name)


class Segmenter(Layers):
    """A U-Net of residual blocks, whose batch norms use the statistics that the caller chooses.

    Attributes:
      num_classes: K.
      width: channels of the first level.
      multipliers: channels of every level, as multiples of `width`; each halves the sides.
      num_blocks: residual blocks of a level on the way down, and on the way up.
      patch: side of the patches that enter as channels of one position.
      mean, std: of the pixels, per channel.
      groups: groups of group norm; 0: batch norm.
      axis_name: device axis of global batch statistics.
      dtype: of activations; `None`: that of input and parameters.
      param_dtype: of parameters and stored statistics.

    Returns:
      (when called with images `[B, H, W, C]` in [0, 1]) `Classified` with logits `[B, H, W, K]` and
      features `[B, H / patch, W / patch, width]`.

    Raises:
      ValueError: (when called) sides that levels and patches do not divide, or not floating-point
        images with the channels last.
    """

    num_classes: int = 10
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    num_blocks: int = 1
    patch: int = 1
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        *,
        train: bool = False,
        norm: Norm | None = None,
        mask: jax.Array | None = None,
    ) -> Classified:
        used, last = chosen(norm, train), len(self.multipliers) - 1
        x = standardised(inputs, self.mean, self.std)
        unit = self.patch * 2**last
        if x.shape[1] % unit or x.shape[2] % unit:
            raise ValueError(
                f"images of {x.shape[1]} x {x.shape[2]} pixels must have sides divisible by {unit}:"
                f" patches of {self.patch} and {last + 1} levels."
            )

        def blocks(x: jax.Array, level: int, name: str) -> jax.Array:
            features = self.multipliers[level] * self.width
            for i in range(self.num_blocks):
                block = PreActBlock(features=features, name=f"{name}{level}_{i}", **self.shared())
                x = block(x, used, mask)
            return x

        sides = {"p": self.patch, "q": self.patch}
        x = rearrange(x, "b (h p) (w q) c -> b h w (p q c)", **sides)
        x, kept = self.conv(self.width, 3, 1, "conv_in")(x), []
        for level in range(last):
            kept.append(x := blocks(x, level, "down"))
            x = resampled(x, "shrink")
        x = blocks(x, last, "down")
        for level in range(last - 1, -1, -1):
            x = jnp.concatenate([resampled(x, "grow"), kept[level]], -1)
            x = blocks(x, level, "up")
        x = nn.relu(self.norm("norm_last")(x, used, mask))
        logits, features = self.head(x, self.num_classes * self.patch**2)
        logits = rearrange(logits, "b h w (p q k) -> b (h p) (w q) k", **sides)
        return Classified(logits, features)
