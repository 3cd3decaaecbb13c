"""Source model, adaptation and scores: one program each, over pictures with a class per pixel."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.data.images.masks import Masked
from experiments.dense.rows import Row
from jaxtrain.core import Model, on_arrays, supervised
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import Norm
from jaxtrain.nets.segmenter import labelled_cross_entropy
from jaxtrain.optimizers import adam


def _pixels(images: Array) -> Array:
    return images.astype(jnp.float32) / 255


def source_model(
    model: Model,
    given: Masked,
    key: Array,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
) -> tuple[Any, Any]:
    """Parameters and statistics of a network trained on the labelled pictures."""

    def loss(found: Any, batch: Any) -> tuple[Array, dict[str, Array]]:
        return labelled_cross_entropy(found.logits, batch["labels"]), {}

    core = supervised(model, loss, adam(learning_rate))
    prepare = lambda rows: {"inputs": _pixels(rows["inputs"]), "labels": rows["labels"]}

    @jax.jit
    def train(key: Array, arrays: Any) -> Any:
        key_init, key_train = jax.random.split(key)
        state = core.init(key_init, prepare(jax.tree.map(lambda x: x[:1], arrays)))
        options: Any = dict(batch_size=batch_size, num_steps=num_steps, prepare=prepare)
        return on_arrays(core, state, arrays, key_train, **options)[0]

    state = train(key, {"inputs": given.images, "labels": given.labels})
    return state.params, state.model_state


class Adapted(NamedTuple):
    """A model that predicts, and the share of right pseudo-labels of every update, `[steps]`."""

    params: Any
    model_state: Any
    right: Array


def adapting(row: Row, batch_size: int) -> Callable[..., Adapted]:
    """`(params, model_state, source, target, key) -> Adapted`, compiled; both sets are `Masked`
    arrays. The truth of the target is read by the share of right labels alone."""

    @jax.jit
    def run(params: Any, model_state: Any, source: Any, target: Any, key: Array) -> Adapted:
        def update(state: Any, i: Array) -> tuple[Any, Array]:
            keys = jax.random.split(jax.random.fold_in(key, i))

            def drawn(key: Array) -> tuple[Any, Array]:
                keys = jax.random.split(key)
                draw = lambda k, one: jax.random.randint(k, (batch_size,), 0, len(one.images))
                here, there = draw(keys[0], source), draw(keys[1], target)
                images = _pixels(target.images[there])
                if not row.with_source:
                    return {"inputs": images}, target.labels[there]
                own = {"inputs": _pixels(source.images[here]), "labels": source.labels[here]}
                return own | {"target": images}, target.labels[there]

            batch, truth = drawn(keys[0])
            if row.ahead:
                later = [jax.random.fold_in(key, i + 1 + j) for j in range(row.ahead)]
                coming = [drawn(jax.random.split(k)[0])[0] for k in later]
                ahead = jax.tree.map(lambda *x: jnp.stack(x, 1), *coming)
                batch = {"now": batch, "ahead": ahead}
            state, out = row.core.update(state, batch, keys[1])
            guessed, known = out.outputs.logits.argmax(-1), truth >= 0
            return state, ((guessed == truth) & known).sum() / jnp.maximum(known.sum(), 1)

        state, right = jax.lax.scan(
            update, row.core.init(params, model_state), jnp.arange(row.num_steps)
        )
        return Adapted(row.model(state), getattr(state, "model_state", model_state), right)

    def arrays(one: Masked) -> Any:
        return _Arrays(one.images, one.labels)

    return lambda params, stats, source, target, key: run(
        params, stats, arrays(source), arrays(target), key
    )


class _Arrays(NamedTuple):
    images: Any
    labels: Any


class Scores(NamedTuple):
    """What a model says of a set.

    Attributes:
      right: pixels that are right, of each picture, `[N]`.
      known: pixels that have a class, `[N]`.
      confusion: pixels of class i that were called j, `[K, K]`.
      shown: classes of the first pictures, `[n, H, W]`.
    """

    right: np.ndarray
    known: np.ndarray
    confusion: np.ndarray
    shown: np.ndarray


def scored(
    network: ClassifierFn,
    params: Any,
    model_state: Any,
    given: Masked,
    *,
    norm: Norm,
    num_classes: int,
    batch_size: int,
    num_shown: int = 4,
) -> Scores:
    """Predicts a set in batches, in its order, with the statistics that `norm` says."""
    batches = (given.images[i : i + batch_size] for i in range(0, len(given.images), batch_size))
    padded = (_padded(images, batch_size) for images in batches)
    parts = [_predicted(network, norm, params, model_state, *batch) for batch in padded]
    found = np.concatenate(parts)[: len(given.images)]
    known = given.labels >= 0
    place = num_classes * given.labels[known] + found[known]
    confusion = np.bincount(place, minlength=num_classes**2).reshape(num_classes, num_classes)
    right = ((found == given.labels) & known).sum((1, 2))
    return Scores(right, known.sum((1, 2)), confusion, found[:num_shown].astype(np.int32))


def _padded(images: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    missing = size - len(images)
    mask = np.arange(size) < len(images)
    return np.concatenate([images, np.repeat(images[:1], missing, 0)]), mask


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predicted(
    network: ClassifierFn, norm: Norm, params: Any, stats: Any, images: Array, mask: Array
) -> Array:
    found, _ = network(params, stats, _pixels(images), norm=norm, mask=mask)
    return found.logits.argmax(-1)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean over the classes that occur of intersection over union."""
    both = np.diag(confusion)
    either = confusion.sum(0) + confusion.sum(1) - both
    there = confusion.sum(1) > 0
    return float((both[there] / either[there]).mean())
