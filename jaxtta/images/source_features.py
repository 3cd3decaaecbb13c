"""What a source model says about its own training images: the start of most source statistics."""

from typing import Any

import jax
from jax import Array

from jaxtrain.nets.classifier import Classified, ClassifierFn
from jaxtrain.nets.norm import SOURCE, Norm
from jaxtta.check_apply import checked


def features_of(found: Classified, method: str) -> Array:
    """The features of a result, `[B, D]`.

    Raises:
      ValueError: the network returns none; the sentence names `method`.
    """
    if isinstance(found.features, tuple):
        raise ValueError(
            f"{method} looks at features but the network returns none; let it return "
            "Classified(logits, features)."
        )
    return found.features


def extracted(
    apply_fn: ClassifierFn,
    params: Any,
    model_state: Any,
    batches: Array,
    *,
    norm: Norm = SOURCE,
) -> Classified:
    """Logits and features of clean images, batch after batch.

    Args:
      apply_fn: the network.
      params: of the source.
      model_state: of the source.
      batches: images `[N, B, H, W, C]`.
      norm: which batch statistics are used; with the stored ones the batches do not matter.

    Returns:
      `Classified` of `[N * B, ...]`.
    """
    apply_fn = checked(apply_fn)
    one = lambda x: apply_fn(params, model_state, x, norm=norm)[0]
    found = jax.lax.map(one, batches)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)
