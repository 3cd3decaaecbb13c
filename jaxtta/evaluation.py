"""Evaluation of adapters: scanned runs over a `Stream`. Scores of what they return: `scores`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxtrain.core import Core
from jaxtta.adaptation import where
from jaxtta.streams import Stream


class Evaluation(NamedTuple):
    """What an adapter did over a stream of T batches of B rows.

    Attributes:
      logits: scored outputs, `[T, B, C]`.
      selected: rows that updates learned from, `[T, B]`, bool.
      metrics: of every batch, `[T]` each.
      state: after the last batch.
    """

    logits: Array
    selected: Array
    metrics: dict[str, Array]
    state: Any


def _batch(images: Array, domain: Array, index: Array, mask: Array) -> dict[str, Array]:
    x = images[domain, index]
    if jnp.issubdtype(x.dtype, jnp.integer):
        x = x.astype(jnp.float32) / 255
    return {"inputs": x, "mask": mask}


def _on_device(stream: Stream) -> Any:
    return tuple(jnp.asarray(x) for x in stream)


def evaluate(
    core: Core, init_args: tuple[Any, ...], images: Array, stream: Stream, key: Array
) -> Evaluation:
    """Runs an adapter over a stream in one scan; nothing returns to the host in between.

    Batch t uses `fold_in(key, t)`. Jit it, and vmap it over keys, hyper-parameters or streams.

    Args:
      core: the adapter.
      init_args: of `core.init`, usually `(params, model_state)`.
      images: `[domains, N, H, W, C]`, uint8, or floating point in [0, 1].
      stream: indices into `images`.
      key: of the run.

    Returns:
      The evaluation, in stream order.
    """
    return continued(core, init_args, core.init(*init_args), images, stream, key)


def continued(
    core: Core,
    init_args: tuple[Any, ...],
    state: Any,
    images: Array,
    stream: Stream,
    key: Array,
    first: ArrayLike = 0,
) -> Evaluation:
    """`evaluate` from a given state: a long stream in parts, for images too many to hold at once.

    Args:
      core, init_args: as in `evaluate`; resets of the stream return to that state.
      state: after the batches before.
      images: those that this part needs, as in `evaluate`.
      stream: this part, with domains counted within `images`.
      key: of the whole run.
      first: number of batches before.

    Returns:
      The evaluation of this part.
    """
    images, initial = jnp.asarray(images), core.init(*init_args)

    def body(state: Any, given: Any) -> tuple[Any, Any]:
        step, (domain, index, mask, reset) = given
        state = where(reset, initial, state)
        batch = _batch(images, domain, index, mask)
        state, out = core.update(state, batch, jax.random.fold_in(key, step))
        return state, (out.outputs.logits, out.outputs.selected, out.metrics)

    steps = first + jnp.arange(stream.reset.shape[0])
    state, found = jax.lax.scan(body, state, (steps, _on_device(stream)))
    logits, selected, values = found
    return Evaluation(logits, selected, values, state)


def predict(core: Core, state: Any, images: Array, stream: Stream, key: Array) -> Array:
    """Scored logits of an adapted state that no batch changes: clean error after a stream.

    Args: as in `evaluate`, with the state to look at.

    Returns:
      `[T, B, C]`.
    """

    images = jnp.asarray(images)

    def one(given: Any) -> Array:
        step, (domain, index, mask, _) = given
        batch = _batch(images, domain, index, mask)
        _, out = core.update(state, batch, jax.random.fold_in(key, step))
        return out.outputs.logits

    steps = jnp.arange(stream.reset.shape[0])
    return jax.lax.map(one, (steps, _on_device(stream)))


def check_images(images: np.ndarray) -> None:
    """Host check of test images before a run.

    Raises:
      ValueError: NaN or infinite values, values outside [0, 1], or channels that are not last.
    """
    if images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images have shape {images.shape}; the last axis holds the channels, 1 or 3 of them."
        )
    if not np.issubdtype(images.dtype, np.floating):
        if images.dtype != np.uint8:
            raise ValueError(f"images are {images.dtype}; give uint8, or floats in [0, 1].")
        return
    if not np.isfinite(images).all():
        raise ValueError("images hold NaN or infinite values; remove or repair them first.")
    low, high = images.min(), images.max()
    if low < 0 or high > 1:
        raise ValueError(
            f"images range from {low:.4g} to {high:.4g} but must be in [0, 1]; networks "
            "standardise inside, so give plain pixels divided by 255."
        )
