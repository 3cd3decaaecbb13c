"""Two towers in one space: a text tower, and contrastive loss between things that belong together.

An image tower is any image classifier whose logits are the embedding, such as `ViT(clip=True)`.

Reference: Radford et al., Learning Transferable Visual Models From Natural Language Supervision,
ICML 2021, arXiv 2103.00020.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel
from jaxtrain.nets.transformer import FeedForward, TransformerBlock
from jaxtrain.nets.vit import PackedAttention, quick_gelu


def unit(x: Array) -> Array:
    """Vectors at length 1, `[..., E]`; 0 stays 0."""
    return x * jax.lax.rsqrt(jnp.maximum((x**2).sum(-1, keepdims=True), 1e-12))


class TextTower(nn.Module):
    """The text tower of CLIP: a causal transformer that is read at the last word.

    Attributes:
      num_words: size of the vocabulary; the word that ends a text has the highest number in it.
      length: most words of a text.
      width, depth, num_heads: of the transformer.
      size: E, of the embedding.

    Returns:
      (when called with words `[B, T]`, int, and perhaps `context` `[n, D]`, vectors in the place of
      words 1 to n) the embedding `[B, E]`, not of length 1.
    """

    num_words: int = 49_408
    length: int = 77
    width: int = 512
    depth: int = 12
    num_heads: int = 8
    size: int = 512

    @nn.compact
    def __call__(self, words: Array, context: Array | None = None) -> Array:
        x = nn.Embed(self.num_words, self.width, name="words")(words)
        if context is not None:
            own = jnp.broadcast_to(context, (len(x), *context.shape))
            x = jnp.concatenate([x[:, :1], own, x[:, 1 + len(context) :]], axis=1)
        small = nn.initializers.normal(0.01)
        places = self.param("positions", small, (self.length, self.width))
        number = words.shape[1]
        x = x + places[None, :number]
        block = functools.partial(
            TransformerBlock,
            functools.partial(
                PackedAttention, self.width, self.num_heads, self.width // self.num_heads
            ),
            functools.partial(FeedForward, 4 * self.width, quick_gelu, names=("fc1", "fc2")),
            functools.partial(nn.LayerNorm, 1e-5),
            names=("norm1", "attention", "norm2", ""),
        )
        before = jnp.tril(jnp.ones((number, number), bool))
        for i in range(self.depth):
            x = block(name=f"block{i}")(x, before)
        x = nn.LayerNorm(1e-5, name="norm_last")(x)[jnp.arange(len(x)), words.argmax(1)]
        return nn.Dense(self.size, use_bias=False, name="head")(x)


def contrastive_loss(
    a: Array,
    b: Array,
    scale: ArrayLike,
    texts: Array | None = None,
    axis_name: parallel.AxisName | None = None,
) -> Array:
    """InfoNCE in both directions, averaged over the pairs and the directions.

    -log softmax of scale a.b at the own partner, among all partners of the batch. Partners that say
    the same are no negatives: being right about one would be punished by the others.

    Args:
      a: unit vectors, `[B, E]`.
      b: their partners, unit vectors, `[B, E]`.
      scale: inverse temperature; may be traced.
      texts: which text each pair has, `[B]`, int; pairs of one number are left out of each other's
        negatives. None: all differ.
      axis_name: mapped device axis, `None` for global arrays; pairs are compared with those of all
        devices.

    Returns:
      `[]`, of this shard's pairs.

    Raises:
      ValueError: shapes that do not belong together.
    """
    number = len(a)
    if a.shape != b.shape or a.ndim != 2 or (texts is not None and texts.shape != (number,)):
        given = "" if texts is None else f" with texts {texts.shape}"
        raise ValueError(f"pairs are rows [B, E], but have shapes {a.shape} and {b.shape}{given}.")
    own = jnp.arange(number)
    if axis_name is not None:
        own = own + number * jax.lax.axis_index(axis_name)
    whole_a, whole_b = parallel.gather((a, b), axis_name)
    place = jnp.arange(len(whole_a))
    same = jnp.zeros((number, len(whole_a)), bool)
    if texts is not None:
        same = texts[:, None] == parallel.gather(texts, axis_name)[None]
    masked = same & (own[:, None] != place[None])

    def one_way(x: Array, others: Array) -> Array:
        logits = jnp.where(masked, -jnp.inf, scale * x @ others.T)
        return -jax.nn.log_softmax(logits)[jnp.arange(number), own].mean()

    return (one_way(a, whole_b) + one_way(b, whole_a)) / 2
