"""Entropy minimisation on rows whose prediction depends on the shape of the object: DeYO."""

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel
from jaxtrain.core import Core
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import BATCH, Norm
from jaxtta import adaptation, draws
from jaxtta.check_apply import checked
from jaxtta.images.entropy import Choice, Seen, minimiser
from jaxtta.selection import Predicate, norm_parameters

Destruction = Literal["patch", "pixel", "occlusion"]


class DeyoDraws(NamedTuple):
    """New order of the tiles of every image, `[B, num_patches**2]`; of pixels `[H * W]`; or `()`.

    Place k gets tile (or pixel) `order[k]`, counted row by row.
    """

    order: Any


def deyo_draws(
    key: Array,
    image_shape: tuple[int, ...],
    batch_size: int,
    *,
    destruction: Destruction = "patch",
    num_patches: int = 4,
    axis_name: parallel.AxisName | None = None,
) -> DeyoDraws:
    """The draws that `deyo` makes of the key of an update.

    Every image has its own order of tiles, by `adaptation.row_keys`; pixels have one for all.

    Args:
      key: of the update.
      image_shape: `(H, W, C)`.
      batch_size: rows, of this shard.
      destruction, num_patches, axis_name: of the method.
    """
    if destruction == "pixel":  # one order for the whole batch, on every device
        return DeyoDraws(jax.random.permutation(key, image_shape[0] * image_shape[1]))
    if destruction != "patch":
        return DeyoDraws(())
    keys = adaptation.row_keys(key, batch_size, axis_name)
    return DeyoDraws(jax.vmap(lambda k: jax.random.permutation(k, num_patches**2))(keys))


def destroyed(
    images: Array, drawn: DeyoDraws, kind: Destruction = "patch", num_patches: int = 4
) -> Array:
    """Images whose object shape is gone while colours and textures remain.

    `patch`: a grid of num_patches x num_patches tiles in a random order, another one for each
    image; sides that do not divide are resized bilinearly and back. `pixel`: the pixels of all
    images in one random order. `occlusion`: the central half of each side replaced by the image's
    mean colour.

    Args:
      images: `[B, H, W, C]`.
      drawn: from `deyo_draws`.
      kind: see above.
      num_patches: tiles per side.

    Returns:
      `[B, H, W, C]`.

    Raises:
      ValueError: unknown kind.
    """
    batch, height, width, channels = images.shape
    if kind == "occlusion":
        y, x = jnp.arange(height), jnp.arange(width)
        inside = lambda i, n: (i >= n // 4) & (i < n // 4 + n // 2)
        hole = (inside(y, height)[:, None] & inside(x, width)[None])[None, :, :, None]
        return jnp.where(hole, images.mean((1, 2), keepdims=True), images)
    if kind == "pixel":
        return images.reshape(batch, -1, channels)[:, drawn.order].reshape(images.shape)
    if kind != "patch":
        raise ValueError(f"unknown way {kind!r} to destroy shapes; use patch, pixel or occlusion.")
    n = num_patches
    tall, wide = height // n * n, width // n * n
    fitted = (tall, wide) == (height, width)
    resize = lambda x, size: jax.image.resize(x, (batch, *size, channels), "bilinear")
    x = images if fitted else resize(images, (tall, wide))
    tiles = x.reshape(batch, n, tall // n, n, wide // n, channels).swapaxes(2, 3)
    tiles = tiles.reshape(batch, n * n, tall // n, wide // n, channels)
    tiles = jax.vmap(lambda t, order: t[order])(tiles, drawn.order)
    x = tiles.reshape(batch, n, n, tall // n, wide // n, channels).swapaxes(2, 3)
    x = x.reshape(batch, tall, wide, channels)
    return x if fitted else resize(x, (height, width))


def deyo(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    num_classes: int,
    *,
    threshold: ArrayLike | None = None,
    margin: ArrayLike | None = None,
    min_difference: ArrayLike = 0.2,
    destruction: Destruction = "patch",
    num_patches: int = 4,
    open_set_filter: bool = False,
    norm: Norm = BATCH,
    select: Predicate = norm_parameters,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """DeYO: entropy of rows whose prediction depends on the shape of the object.

    1. M1 = rows with H < threshold. 2. x' = `destroyed` images; p' = prediction on the rows M1,
    with their statistics and without gradient. 3. D = p[y] - p'[y], y the predicted class (PLPD).
    4. M = M1 with D > min_difference. 5. L = mean over M of (exp(margin - H) + exp(D)) H, the
    factor without gradient. With M1 or M empty nothing changes. The model is never reset.

    Args:
      apply_fn: the network.
      optimizer: SGD with momentum 0.9, learning rates as for SAR.
      num_classes: C.
      threshold: in nats; `None`: 0.5 ln C. May be traced.
      margin: E0 in nats; `None`: 0.4 ln C. May be traced.
      min_difference: 0.3 for i.i.d. ImageNet-C, 0.2 for the wild settings, 0.5 for biased data.
        May be traced.
      destruction: see `destroyed`.
      num_patches: tiles per side.
      open_set_filter: see `agrees_with_source`.
      norm: which batch statistics are used.
      select: adapted parameters, by path; the authors use
        `jaxtta.selection.shallow_norm_parameters(params)`.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core as in `tent`; its update takes a key or `DeyoDraws`, as `deyo_draws` makes them.

    References:
      Lee et al., Entropy is not Enough for Test-Time Adaptation: From the Perspective of
      Disentangled Factors, ICLR 2024.
    """
    limit = 0.5 * math.log(num_classes) if threshold is None else threshold
    reference = 0.4 * math.log(num_classes) if margin is None else margin

    draw = functools.partial(
        deyo_draws, destruction=destruction, num_patches=num_patches, axis_name=axis_name
    )

    def choose(seen: Seen) -> Choice:
        uncertainty = adaptation.entropy(seen.logits)
        sure = seen.rows & (uncertainty < limit)
        size, *shape = seen.inputs.shape
        drawn = draws.either(seen.key, DeyoDraws, lambda key: draw(key, tuple(shape), size))
        changed = destroyed(seen.inputs, drawn, destruction, num_patches)
        predicted = seen.logits.argmax(-1)[:, None]
        confidence = lambda z: jnp.take_along_axis(jax.nn.softmax(z), predicted, -1)[:, 0]
        difference = confidence(seen.logits) - confidence(seen.probe(changed, sure))
        weights = jnp.exp(reference - uncertainty) + jnp.exp(difference)
        return Choice(sure & (difference > min_difference), weights, seen.memory)

    return minimiser(
        checked(apply_fn, num_classes),
        optimizer,
        choose,
        open_set_filter=open_set_filter,
        norm=norm,
        select=select,
        axis_name=axis_name,
    )
