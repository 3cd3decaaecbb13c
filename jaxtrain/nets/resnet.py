"""Residual networks for 32 x 32 and 224 x 224 images.

Images enter as `[B, H, W, C]` in [0, 1] and are standardised inside. Layers are named so that
selection predicates and importers can rely on them: `conv*`, `norm*`, `stage<k>/block<i>/...`,
`norm_last` before pooling, `head`.

References:
  He et al., Deep Residual Learning for Image Recognition, CVPR 2016.
  Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016.
  Xie et al., Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017.
  Sun et al., Test-Time Training with Self-Supervision, ICML 2020 (ResNet-26 with group norm).
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxtrain.nets.classifier import Classified, chosen, standardised
from jaxtrain.nets.convolution import conv_general_dilated
from jaxtrain.nets.norm import BatchNorm, GroupNorm, Norm
from jaxtrain.parallel import AxisName

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Shortcut = Literal["pad", "mean_pad", "projection"]


class Layers(nn.Module):
    """Settings that all parts of a network share, and the layers made from them."""

    groups: int = 0
    axis_name: AxisName | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def shared(self) -> dict[str, Any]:
        """These settings, for a part of this network."""
        names = ("groups", "axis_name", "dtype", "param_dtype")
        return {name: getattr(self, name) for name in names}

    def conv(self, features: int, size: int, stride: int, name: str, groups: int = 1) -> nn.Conv:
        """A convolution without bias, padded alike on all sides as PyTorch does."""
        return nn.Conv(
            features,
            (size, size),
            stride,
            padding=size // 2,
            feature_group_count=groups,
            use_bias=False,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            conv_general_dilated=conv_general_dilated,
            name=name,
        )

    def norm(self, name: str) -> BatchNorm | GroupNorm:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype, "name": name}
        if self.groups:
            return GroupNorm(self.groups, **types)
        return BatchNorm(axis_name=self.axis_name, **types)

    def head(self, features: jax.Array, num_classes: int) -> Classified:
        linear = nn.Dense(num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="head")
        return Classified(linear(features), features)


def _padded(x: jax.Array, features: int, stride: int, kind: Shortcut) -> jax.Array:
    """A shortcut without parameters, on fewer positions and with zeros for the new channels."""
    missing = features - x.shape[-1]
    if kind == "pad":  # option A of He et al.: every other position, zeros on both sides
        x, before = x[:, ::stride, ::stride], missing // 2
    else:
        x, before = nn.avg_pool(x, (stride, stride), (stride, stride)), 0
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, missing - before)))


class Block(Layers):
    """Two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1 with `bottleneck`; activation after the sum.

    Attributes:
      features: of the 3 x 3 convolutions of a basic block.
      stride: of the block.
      bottleneck: width of the 3 x 3 convolution and its number of groups; the block then has
        4 * features channels. `None`: a basic block.
      shortcut: where the shape changes.
    """

    features: int = 16
    stride: int = 1
    bottleneck: tuple[int, int] | None = None
    shortcut: Shortcut = "projection"

    @nn.compact
    def __call__(self, x: jax.Array, norm: Norm, mask: jax.Array | None) -> jax.Array:
        if self.bottleneck is None:
            width, out = self.features, self.features
            y = self.conv(width, 3, self.stride, "conv1")(x)
            y = self.conv(out, 3, 1, "conv2")(nn.relu(self.norm("norm1")(y, norm, mask)))
            y = self.norm("norm2")(y, norm, mask)
        else:
            (width, cardinality), out = self.bottleneck, 4 * self.features
            y = nn.relu(self.norm("norm1")(self.conv(width, 1, 1, "conv1")(x), norm, mask))
            y = self.conv(width, 3, self.stride, "conv2", cardinality)(y)
            y = nn.relu(self.norm("norm2")(y, norm, mask))
            y = self.norm("norm3")(self.conv(out, 1, 1, "conv3")(y), norm, mask)
        if self.stride != 1 or x.shape[-1] != out:
            if self.shortcut == "projection":
                x = self.conv(out, 1, self.stride, "conv_shortcut")(x)
                x = self.norm("norm_shortcut")(x, norm, mask)
            else:
                x = _padded(x, out, self.stride, self.shortcut)
        return nn.relu(x + y)


class PreActBlock(Layers):
    """Two 3 x 3 convolutions, each after norm and activation.

    Attributes:
      features: channels.
      stride: of the block.
      shortcut: where the shape changes; a projection (bare convolution) sees the activated input.
    """

    features: int = 16
    stride: int = 1
    shortcut: Shortcut = "projection"

    @nn.compact
    def __call__(self, x: jax.Array, norm: Norm, mask: jax.Array | None) -> jax.Array:
        active = nn.relu(self.norm("norm1")(x, norm, mask))
        y = self.conv(self.features, 3, self.stride, "conv1")(active)
        y = nn.relu(self.norm("norm2")(y, norm, mask))
        y = self.conv(self.features, 3, 1, "conv2")(y)
        if self.stride != 1 or x.shape[-1] != self.features:
            if self.shortcut == "projection":
                x = self.conv(self.features, 1, self.stride, "conv_shortcut")(active)
            else:
                x = _padded(x, self.features, self.stride, self.shortcut)
        return x + y


class Stage(Layers):
    """Blocks named `block0`, `block1`, ...; the first one has the stride.

    Attributes:
      num_blocks: number of blocks.
      pre_activation: whether they are `PreActBlock`s.
      features, stride, bottleneck, shortcut: of the blocks.
    """

    num_blocks: int = 2
    pre_activation: bool = False
    features: int = 16
    stride: int = 1
    bottleneck: tuple[int, int] | None = None
    shortcut: Shortcut = "projection"

    @nn.compact
    def __call__(self, x: jax.Array, norm: Norm, mask: jax.Array | None) -> jax.Array:
        options: dict[str, Any] = {"features": self.features, "shortcut": self.shortcut}
        if not self.pre_activation:
            options["bottleneck"] = self.bottleneck
        block = PreActBlock if self.pre_activation else Block
        for i in range(self.num_blocks):
            stride = self.stride if i == 0 else 1
            x = block(stride=stride, name=f"block{i}", **options, **self.shared())(x, norm, mask)
        return x


class ResNet(Layers):
    """A residual network; the functions below make the published ones.

    Attributes:
      num_classes: length of the logits.
      blocks: number of blocks of each stage.
      widths: `features` of each stage's blocks.
      stem_features: channels of the first convolution.
      imagenet_stem: 7 x 7 convolution of stride 2 and max-pooling, else 3 x 3 of stride 1.
      pre_activation: `PreActBlock`s, and a last norm before pooling instead of one in the stem.
      bottleneck: `(groups, base width)` of bottleneck blocks; `None`: basic blocks.
      shortcut: where the shape changes.
      mean, std: of the pixels, per channel.
      groups: groups of group norm; 0: batch norm.
      axis_name: device axis of global batch statistics.
      dtype: of activations; `None`: that of input and parameters.
      param_dtype: of parameters and stored statistics.

    Returns:
      (when called with images `[B, H, W, C]`) `Classified`.

    Raises:
      ValueError: (when called) not floating-point images with the channels last.
    """

    num_classes: int = 10
    blocks: tuple[int, ...] = (3, 3, 3)
    widths: tuple[int, ...] = (16, 32, 64)
    stem_features: int = 16
    imagenet_stem: bool = False
    pre_activation: bool = False
    bottleneck: tuple[int, int] | None = None
    shortcut: Shortcut = "projection"
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
        used = chosen(norm, train)
        x = standardised(inputs, self.mean, self.std)
        size, stride = (7, 2) if self.imagenet_stem else (3, 1)
        x = self.conv(self.stem_features, size, stride, "conv")(x)
        if not self.pre_activation:
            x = nn.relu(self.norm("norm")(x, used, mask))
        if self.imagenet_stem:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for k, (num_blocks, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            bottleneck = None
            if self.bottleneck is not None:
                cardinality, base = self.bottleneck
                bottleneck = (width * base // 64 * cardinality, cardinality)
            x = Stage(
                num_blocks=num_blocks,
                pre_activation=self.pre_activation,
                features=width,
                stride=1 if k == 0 else 2,
                bottleneck=bottleneck,
                shortcut=self.shortcut,
                name=f"stage{k + 1}",
                **self.shared(),
            )(x, used, mask)
        if self.pre_activation:
            x = nn.relu(self.norm("norm_last")(x, used, mask))
        return self.head(x.mean((1, 2)), self.num_classes)


def _blocks(depth: int, extra: int, per_block: int) -> tuple[int, ...]:
    if depth < extra + per_block or (depth - extra) % per_block:
        raise ValueError(
            f"there is no such network of depth {depth}; take {extra} + {per_block} n, for example "
            f"{extra + 3 * per_block}."
        )
    return (((depth - extra) // per_block),) * 3


def cifar_resnet(depth: int = 20, **options: Any) -> ResNet:
    """ResNet-20, 32, 44, 56 or 110 for CIFAR, shortcuts of option A (He et al., sec. 4.2)."""
    return ResNet(blocks=_blocks(depth, 2, 6), shortcut="pad", **options)


def wide_resnet(depth: int = 28, widen: int = 10, **options: Any) -> ResNet:
    """WRN-`depth`-`widen` without dropout; pixels are only scaled to [0, 1] unless options say."""
    unscaled: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    widths = (16 * widen, 32 * widen, 64 * widen)
    blocks = _blocks(depth, 4, 6)
    return ResNet(blocks=blocks, widths=widths, pre_activation=True, **(unscaled | options))


def resnet26_gn(groups: int = 8, **options: Any) -> ResNet:
    """ResNet-26 with group norm (Sun et al.): pre-activation, mean-pooled zero-padded shortcuts.

    Pixels are standardised with mean and deviation 0.5, as its weights expect.
    """
    half: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    return ResNet(
        blocks=_blocks(26, 2, 6),
        pre_activation=True,
        shortcut="mean_pad",
        groups=groups,
        **(half | options),
    )


def resnext29(cardinality: int = 4, base_width: int = 32, **options: Any) -> ResNet:
    """ResNeXt-29, `cardinality` x `base_width`d, for CIFAR; 4 x 32d is the one of AugMix.

    Pixels are standardised with mean and deviation 0.5, as the AugMix weights expect.
    """
    half: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    return ResNet(
        blocks=_blocks(29, 2, 9),
        widths=(64, 128, 256),
        stem_features=64,
        bottleneck=(cardinality, base_width),
        **(half | options),
    )


def _imagenet(blocks: tuple[int, ...], bottleneck: tuple[int, int] | None, options: Any) -> ResNet:
    settings: dict[str, Any] = {
        "num_classes": 1000,
        "blocks": blocks,
        "widths": (64, 128, 256, 512),
        "stem_features": 64,
        "imagenet_stem": True,
        "bottleneck": bottleneck,
    }
    return ResNet(**(settings | options))


def resnet18(**options: Any) -> ResNet:
    """ResNet-18 for ImageNet, as in torchvision."""
    return _imagenet((2, 2, 2, 2), None, options)


def resnet50(**options: Any) -> ResNet:
    """ResNet-50 for ImageNet, stride in the 3 x 3 convolution as in torchvision."""
    return _imagenet((3, 4, 6, 3), (1, 64), options)
