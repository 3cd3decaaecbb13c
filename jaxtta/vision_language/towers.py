"""Pairs of towers as policies and rewards, and crops of an image as its views: for RLCF and TPT.

The logits of an image tower and what a text tower returns are embeddings; they meet at length 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import SOURCE
from jaxtrain.nets.two_tower import unit
from jaxtta.images.changes.two_views import Photo, resized_crop
from jaxtta.vision_language.rlcf import Policy, Reward


class Pair(NamedTuple):
    """Parameters of both towers, `image_state` of the one for images, and `log_scale` `[]`."""

    image: Any
    image_state: Any
    text: Any
    log_scale: Any


class Known(NamedTuple):
    """What policies and rewards know.

    Attributes:
      policy, reward: the pairs.
      words: of the texts of the classes, `[C, T]`.
      texts: their embeddings by the policy, `[C, E]`.
      reward_texts: and by the reward, `[C, E']`.
    """

    policy: Pair
    reward: Pair
    words: Any
    texts: Any
    reward_texts: Any


def resized(apply_fn: ClassifierFn, side: int) -> ClassifierFn:
    """The same network on images that are first brought to `side` x `side` pixels."""

    def apply(params: Any, state: Any, inputs: Array, **options: Any) -> Any:
        shape = (len(inputs), side, side, inputs.shape[-1])
        if inputs.shape != shape:
            inputs = jax.image.resize(inputs, shape, "linear")
        return apply_fn(params, state, inputs, **options)

    return apply


def embedded(apply_fn: ClassifierFn, params: Any, state: Any, images: Array) -> Array:
    """Images as vectors of length 1, `[V, E]`."""
    return unit(apply_fn(params, state, images, norm=SOURCE, mask=None)[0].logits)


def texts_of(module: nn.Module, params: Any, words: Array, context: Array | None = None) -> Array:
    """Texts as vectors of length 1, `[C, E]`; `context` as in `TextTower`."""
    return unit(module.apply({"params": params}, words, context))  # type: ignore[arg-type]


def image_policy(apply_fn: ClassifierFn) -> Policy:
    """Adapts the image tower; for `Known`."""

    def policy(params: Any, known: Known, images: Array) -> Array:
        seen = embedded(apply_fn, params, known.policy.image_state, images)
        return jnp.exp(known.policy.log_scale) * seen @ known.texts.T

    return policy


def context_policy(apply_fn: ClassifierFn, text: nn.Module) -> Policy:
    """Adapts vectors `[n, D]` in the place of words 1 to n of all texts; for `Known`."""

    def policy(params: Any, known: Known, images: Array) -> Array:
        pair = known.policy
        seen = embedded(apply_fn, pair.image, pair.image_state, images)
        return jnp.exp(pair.log_scale) * seen @ texts_of(text, pair.text, known.words, params).T

    return policy


def towers_reward(apply_fn: ClassifierFn) -> Reward:
    """Cosines by the reward's towers; for `Known`."""

    def reward(known: Known, images: Array) -> Array:
        pair = known.reward
        return embedded(apply_fn, pair.image, pair.image_state, images) @ known.reward_texts.T

    return reward


def context_of(pair: Pair, words: Array, number: int) -> Array:
    """The vectors that words 1 to `number` of the first text have in the text tower, `[n, D]`."""
    return pair.text["words"]["embedding"][words[0, 1 : 1 + number]]


def crops(image: Array, key: Array, *, number: int, scale: float = 0.08) -> Array:
    """Views of an image `[H, W, C]`: itself, and random parts at its size, half of them mirrored.

    Args:
      image: in [0, 1].
      key: of the draws.
      number: V, the image included.
      scale: least share of the area in a part.

    Returns:
      `[V, H, W, C]`.
    """

    def one(key: Array) -> Array:
        key_crop, key_flip = jax.random.split(key)
        part = jnp.clip(resized_crop(image, key_crop, Photo(scale=(scale, 1.0))), 0, 1)
        return jnp.where(jax.random.bernoulli(key_flip), part[:, ::-1], part)

    parts = jax.vmap(one)(jax.random.split(key, number - 1))
    return jnp.concatenate([image[None], parts])
