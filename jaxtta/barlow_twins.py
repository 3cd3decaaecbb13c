"""Barlow Twins: representations without labels, from two views whose components are decorrelated.

Both views of a batch of B images go through the same network to embeddings of D numbers, each
standardised over the batch. Of their cross-correlation C = Za' Zb / B the diagonal is drawn to 1
(what the views share is kept) and the rest to 0 (components do not repeat each other):

    loss = sum_i (1 - C_ii)^2 + redundancy * sum_{i /= j} C_ij^2

No negatives, no second network, no stopped gradients. The first term alone lets all components say
the same. What is used afterwards is the representation below the projector.

Differs from the released code: momentum follows the rate instead of coming before it, as
`optax.lars` has it, which matters while the rate changes only.

Reference: Zbontar, Jing, Misra, LeCun and Deny, Barlow Twins: Self-Supervised Learning via
Redundancy Reduction, ICML 2021, arXiv 2103.03230. Official code: facebookresearch/barlowtwins.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel
from jaxtrain.core import Core, StepOutput, supervised
from jaxtrain.nets.norm import SOURCE, TRAIN, BatchNorm, Statistics, batch_moments, normalised
from jaxtrain.protocol import Model
from jaxtrain.schedules.applied import scheduled
from jaxtta.adaptation import row_keys

Mode = Literal["feature", "gram"]
Views = Callable[[Array, Array], tuple[Array, Array]]
"""`(images [B, ...], keys [B]) -> (view, view)`, each `[B, ...]`."""


class Twin(NamedTuple):
    """What the network gives: `representation` `[B, F]`, of the encoder, and `embedding` `[B, D]`,
    of the projector on top of it."""

    representation: Any
    embedding: Any


def _standard(z: Array, axis_name: parallel.AxisName | None) -> Array:
    moments = batch_moments(z, None, axis_name)
    return normalised(z.astype(jnp.float32), Statistics(moments.mean, moments.variance))


def barlow_loss(
    a: Array,
    b: Array,
    *,
    redundancy: ArrayLike = 5e-3,
    invariance: ArrayLike = 1.0,
    mode: Mode = "feature",
    axis_name: parallel.AxisName | None = None,
) -> tuple[Array, dict[str, Array]]:
    """The loss of two batches of embeddings.

    Args:
      a, b: `[B, D]`.
      redundancy: weight of what is off the diagonal; 0.005 in the paper, 0.0051 in the code. May be
        traced.
      invariance: weight of the diagonal, 1; may be traced.
      mode: `feature` makes the matrix C `[D, D]`; `gram` the two of inner products `[B, B]`, which
        give the same numbers and are smaller where B < D.
      axis_name: mapped device axis, `None` for global arrays; C is that of the global batch.

    Returns:
      The loss `[]` and, `[]` each, `diagonal`, the mean of C_ii, and `off_diagonal`, the root of
      the mean square of the others. Constant embeddings give D times the invariance.

    Raises:
      ValueError: an unknown mode, or shapes that differ.
    """
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] < 2:
        raise ValueError(
            f"the loss takes two batches of embeddings [B, D] of one shape, D at least 2, but got "
            f"{a.shape} and {b.shape}."
        )
    a, b = _standard(a, axis_name), _standard(b, axis_name)
    number, size = a.shape[0] * parallel.axis_size(axis_name), a.shape[1]
    if mode == "feature":
        c = parallel.psum(a.T @ b, axis_name) / number
        diagonal, square = jnp.diagonal(c), (c**2).sum()
    elif mode == "gram":
        diagonal = parallel.psum((a * b).sum(0), axis_name) / number
        whole = parallel.gather((a, b), axis_name)
        products = (a @ whole[0].T) * (b @ whole[1].T)
        square = parallel.psum(products.sum(), axis_name) / number**2
    else:
        raise ValueError(f"mode is {mode!r}; it must be feature or gram.")
    off = square - (diagonal**2).sum()
    loss = invariance * ((1 - diagonal) ** 2).sum() + redundancy * off
    # The difference of two sums may be rounded to below 0.
    spread = jnp.sqrt(jnp.maximum(off, 0) / (size * (size - 1)))
    return loss, {"diagonal": diagonal.mean(), "off_diagonal": jax.lax.stop_gradient(spread)}


class Projector(nn.Module):
    """Linear layers without biases, each but the last with batch norm and ReLU behind it.

    Attributes:
      widths: of the layers; 8192 three times in the paper.
      axis_name: device axis of global batch statistics.
    """

    widths: tuple[int, ...] = (8192, 8192, 8192)
    axis_name: parallel.AxisName | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        norm = TRAIN if train else SOURCE
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, use_bias=False, name=f"linear{i}")(x)
            if i + 1 < len(self.widths):
                x = nn.relu(BatchNorm(axis_name=self.axis_name, name=f"norm{i}")(x, norm))
        return x


class Twins(nn.Module):
    """An encoder with a projector on top.

    Attributes:
      encoder: called as `encoder(images, train=...)`; gives features `[B, F]`, or something that
        has `features`, such as `Classified`.
      projector: called in the same way with the features.
    """

    encoder: nn.Module
    projector: nn.Module

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Twin:
        found = self.encoder(inputs, train=train)
        features = getattr(found, "features", found)
        return Twin(features, self.projector(features, train=train))


def lars(
    learning_rate: ArrayLike | optax.Schedule,
    *,
    vector_rate: float = 0.024,
    weight_decay: float = 1e-6,
    momentum: float = 0.9,
    trust_coefficient: float = 0.001,
) -> optax.GradientTransformation:
    """`optax.lars` for matrices; biases and norms have neither decay nor a trust ratio.

    Args:
      learning_rate: number or schedule; 0.2 batch / 256 in the paper.
      vector_rate: rate of biases and norms, relative to it; 0.0048 / 0.2 in the paper.
      weight_decay: 1e-6 with the released weights, 1.5e-6 in the paper.
      momentum: of both.
      trust_coefficient: of the ratio of norms.
    """
    rates = learning_rate if callable(learning_rate) else optax.constant_schedule(learning_rate)
    matrices = functools.partial(
        optax.lars,
        weight_decay=weight_decay,
        momentum=momentum,
        trust_coefficient=trust_coefficient,
    )
    groups = {
        "matrix": scheduled(lambda learning_rate: matrices(learning_rate), rates),
        "vector": optax.sgd(lambda step: vector_rate * rates(step), momentum),
    }
    kind = lambda x: "matrix" if jnp.ndim(x) > 1 else "vector"
    return optax.partition(groups, lambda params: jax.tree.map(kind, params))


def barlow_twins(
    model: Model,
    views: Views,
    optimizer: optax.GradientTransformation,
    *,
    redundancy: ArrayLike = 5e-3,
    invariance: ArrayLike = 1.0,
    mode: Mode = "feature",
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """Ordinary training on the loss of two views of every batch.

    Args:
      model: gives a `Twin`; batch statistics are those of each view by itself.
      views: makes both views of images with a key each.
      optimizer: `lars` in the paper.
      redundancy: of `barlow_loss`; may be traced.
      invariance: of `barlow_loss`; may be traced.
      mode: of `barlow_loss`.
      axis_name: mapped device axis, `None` for global arrays. Batch norms of the model need the
        same one.

    Returns:
      A core with `init(key, batch)`; a batch is a dict with `inputs`, the images. Metrics: `loss`,
      `diagonal` and `off_diagonal`, and `learning_rate` where the optimiser keeps it.

    Raises:
      ValueError: (when called) whatever `barlow_loss` and `jaxtrain.core.supervised` refuse.
    """

    def init_pair(key: Array, images: Any) -> tuple[Any, Any]:
        return model.init(key, images)

    def apply_pair(params: Any, state: Any, pair: Any, **options: Any) -> tuple[Any, Any]:
        first, state = model.apply(params, state, pair[0], **options)
        second, state = model.apply(params, state, pair[1], **options)
        return (first.embedding, second.embedding), state

    def loss(embeddings: Any, batch: Any) -> tuple[Array, dict[str, Array]]:
        options: Any = dict(redundancy=redundancy, invariance=invariance, mode=mode)
        return barlow_loss(*embeddings, **options, axis_name=axis_name)

    pairs = supervised(Model(init_pair, apply_pair), loss, optimizer, axis_name=axis_name)

    def update(state: Any, batch: Any, key: Array) -> tuple[Any, StepOutput]:
        if not isinstance(batch, dict) or "inputs" not in batch:
            raise ValueError(
                "Barlow Twins takes batches that are a dict with 'inputs', the images."
            )
        key_views, key_update = jax.random.split(key)
        images = batch["inputs"]
        pair = views(images, row_keys(key_views, len(images), axis_name))
        return pairs.update(state, {"inputs": pair}, key_update)

    return Core(pairs.init, update)
