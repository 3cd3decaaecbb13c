"""Tasks of classes, and the program that learns one more of them for all rows that begin alike.

Rows with a second phase share the first one, since nothing that a second phase does is seen by
later first phases.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from experiments.data.images.labelled import Images
from jaxtrain.core import on_arrays
from jaxtrain.nets import ViT
from jaxtta.ovor import (
    Head,
    Learned,
    logits_of,
    new_head,
    ovor,
    prompt_phase,
    quarter_cosine,
    virtual_outliers,
)
from jaxtta.prompts import new_pool, new_prompt, one_prompt, prompt_pool

# What a row's second phase changes of `outliers`; rows without a second phase are not here.
SECOND: dict[str, dict[str, Any]] = {
    "head_only": dict(weight=0.0),
    "ovor": {},
    "inside_only": dict(high=-1e6),
    "on_data": dict(scale=0.0),
    "released": dict(around_origin=True),
}
POOL = ("pool",)


class Tasks(NamedTuple):
    """Images by task, with labels in the order of learning.

    Attributes:
      images, labels: `[tasks, N, ...]`, as many of every class.
      test, test_labels: all test images, `[M, ...]`.
    """

    images: np.ndarray
    labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


class Stage(NamedTuple):
    """After a task: what the first phase learned; heads of the rows; and the classes, among those
    seen, that they give to the test images, `[M]` each."""

    params: Learned
    heads: dict[str, Head]
    predicted: dict[str, Any]


def in_tasks(train: Images, test: Images, num_tasks: int, seed: int) -> Tasks:
    """The classes in a random order, the first ones being the first task."""
    num_classes = int(train.labels.max()) + 1
    place = np.random.default_rng(seed).permutation(num_classes).astype(np.int32)
    labels = place[train.labels]
    number = np.bincount(labels).min()
    rows = np.concatenate([np.flatnonzero(labels == c)[:number] for c in range(num_classes)])
    rows = rows.reshape(num_tasks, -1)
    return Tasks(train.images[rows], labels[rows], test.images, place[test.labels])


def pixels(images: Array) -> Array:
    """Levels of 0 to 255 as numbers from 0 to 1."""
    return images.astype(jnp.float32) / 255


def begin(
    config: ConfigDict, rows: tuple[str, ...], num_classes: int, num_test: int
) -> Callable[[Array], Stage]:
    """`key -> Stage` before the first task."""
    width, lengths, num_tasks = config.model.width, config.prompts.lengths, config.data.num_tasks

    def start(key: Array) -> Stage:
        key_prompts, key_head = jax.random.split(key)
        if rows == POOL:
            shared = min(2, len(lengths) - 1)
            prompts: Any = new_pool(key_prompts, lengths, width, num_tasks, shared)
        else:
            prompts = new_prompt(key_prompts, lengths, width)
        head, nothing = new_head(key_head, width, num_classes), jnp.zeros(num_test, jnp.int32)
        each = dict.fromkeys(rows, head), dict.fromkeys(rows, nothing)
        return Stage(Learned(prompts, head), *each)

    return start


def learning(
    config: ConfigDict, module: ViT, rows: tuple[str, ...], classes: int, number: int
) -> Callable[..., Stage]:
    """`(weights, stage, task, images, labels, test, key) -> Stage` after one more task, compiled.

    Args:
      config: of the run.
      module: the transformer.
      rows: those that share their first phase.
      classes: of a task.
      number: images of a task.
    """
    network = (prompt_pool if rows == POOL else one_prompt)(module)
    epochs, batch_size, at_once = config.num_epochs, config.batch_size, config.evaluation.batch_size
    outliers = config.outliers.to_dict()
    last, per_class = outliers.pop("num_epochs"), outliers.pop("per_class")
    last = last if set(rows) & set(SECOND) else 0
    steps = -(-number // batch_size)
    optimizer = optax.adam(quarter_cosine(config.optimizer.learning_rate, epochs, steps))
    first = prompt_phase(network, optimizer, classes_per_task=classes)

    def represented(weights: Any, prompts: Any, images: Array, task: Array) -> Array:
        count = -(-len(images) // at_once)
        batches = jnp.resize(images, (count, at_once, *images.shape[1:]))
        one = lambda x: network(weights, prompts, pixels(x), task)[0]
        found = jax.lax.map(one, batches)
        return found.reshape(-1, found.shape[-1])[: len(images)]

    def second(row: str, state: Any, features: Array, labels: Array, key: Array) -> Head:
        if row not in SECOND:
            return state.params.head
        options = outliers | SECOND[row]
        bounds = {name: options.pop(name) for name in ("weight", "low", "high")}
        core = ovor(optimizer, classes_per_task=classes, **bounds)
        wanted = per_class * classes
        share = max(wanted // steps, 1)

        def epoch(state: Any, i: Array) -> tuple[Any, None]:
            key_draw, key_order, key_step = jax.random.split(jax.random.fold_in(key, i), 3)
            found = virtual_outliers(key_draw, features, wanted, **options)
            order = jnp.resize(jax.random.permutation(key_order, number), (steps, batch_size))
            batches = {
                "features": features[order],
                "labels": labels[order],
                "outliers": jnp.resize(found, (steps, share, found.shape[1])),
            }
            step = lambda state, batch: (core.update(state, batch, key_step)[0], None)
            return jax.lax.scan(step, state, batches)

        return jax.lax.scan(epoch, state, jnp.arange(last))[0].params.head

    @jax.jit
    def run(
        weights: Any, stage: Stage, task: Array, images: Array, labels: Array, test: Any, key: Array
    ) -> Stage:
        key_first, key_second = jax.random.split(key)
        state = first.init(weights, *stage.params, task)
        options: Any = dict(batch_size=batch_size, num_steps=(epochs - last) * steps)
        prepare = lambda rows: {**rows, "inputs": pixels(rows["inputs"])}
        given = {"inputs": images, "labels": labels}
        state, _ = on_arrays(first, state, given, key_first, prepare=prepare, **options)
        features = represented(weights, state.params.prompts, images, task)
        shown = represented(weights, state.params.prompts, test, jnp.int32(-1))
        mine = jnp.arange(len(state.params.head.bias)) // classes == task
        pick = lambda new, old: jnp.where(mine[None] if new.ndim > 1 else mine, new, old)
        heads, predicted = {}, {}
        for row in rows:
            found = second(row, state, features, labels, key_second)
            heads[row] = jax.tree.map(pick, found, stage.heads[row])
            logits = logits_of(heads[row], shown, task, classes, seen=True)
            predicted[row] = logits.argmax(1).astype(jnp.int32)
        return Stage(state.params, heads, predicted)

    return run
