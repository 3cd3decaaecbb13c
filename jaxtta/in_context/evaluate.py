"""Meta-testing: accuracy and loss at every position of sequences of a task, with fixed weights.

A learner that learns in context gets better along the sequence. `meta_test` measures that on the
tasks of meta-training (with unseen images), on unseen tasks, on the raw data set and on foreign
ones; the control feeds labels that have been shuffled against their images. `online` does the same
step by step with kept memory, and `predict` answers many queries from one context.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtta.in_context.learner import (
    Learner,
    Memory,
    Params,
    check,
    check_labels,
    check_room,
)
from jaxtta.in_context.sequences import Data, sampler
from jaxtta.in_context.tasks import FIRST_UNSEEN, Projection


class Curve(NamedTuple):
    """Means over sequences at each position, with their standard errors.

    Attributes:
      accuracy: `[T]`.
      accuracy_error: `[T]`.
      loss: cross-entropy in nats, `[T]`.
      loss_error: `[T]`.
    """

    accuracy: Array
    accuracy_error: Array
    loss: Array
    loss_error: Array


class Probe(NamedTuple):
    """One data set to be meta-tested on.

    Attributes:
      data: base data set.
      raw: images as they are instead of projected.
      replace: draw images with replacement.
      shuffled: control: the labels in the context are a random permutation of the sequence's, while
        predictions are scored against the true ones.
      seen: tasks of meta-training instead of unseen ones.
    """

    data: Data
    raw: bool = False
    replace: bool = False
    shuffled: bool = False
    seen: bool = False


def score(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Whether each prediction is right and its cross-entropy, both float32 `[B, T]`.

    Raises:
      ValueError: not one label per prediction, or labels outside 0 .. C - 1 where they are known.
    """
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"logits {logits.shape} need labels {logits.shape[:-1]}, not {labels.shape}."
        )
    check_labels(logits.shape[-1], labels)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    return (logits.argmax(-1) == labels).astype(jnp.float32), loss


def online(learner: Learner, params: Params, x: Array, y: Array) -> Array:
    """`learner.logits` computed one example at a time: predict, take in the label, go on.

    Args:
      learner: the learner.
      params: its parameters.
      x: `[B, T, N]`.
      y: `[B, T]`, integers from 0 to C - 1.

    Returns:
      `[B, T, C]`; NaN for a sequence whose traced labels are not of this range.

    Raises:
      ValueError: wrong shapes or labels, or more examples than the learner has places for.
    """
    check(learner, x, y)
    memory = learner.start(params, x.shape[0])

    def body(memory: Memory, example: tuple[Array, Array]) -> tuple[Memory, Array]:
        return learner.step(params, memory, *example)

    _, logits = jax.lax.scan(body, memory, (x.swapaxes(0, 1), y.swapaxes(0, 1)))
    return _nan_where_wrong(learner, y, logits.swapaxes(0, 1))


def _check_queries(learner: Learner, size: int, queries: Array) -> None:
    if queries.ndim != 3 or queries.shape[::2] != (size, learner.num_inputs):
        raise ValueError(
            f"queries need shape [{size}, Q, {learner.num_inputs}], one list per sequence of the "
            f"memory, but have {queries.shape}."
        )


def _nan_where_wrong(learner: Learner, y: Array, numbers: Array) -> Array:
    """`numbers` `[B, ...]`, NaN for sequences with labels `[B, T]` outside 0 .. C - 1."""
    right = ((y >= 0) & (y < learner.num_classes)).all(1)
    return jnp.where(right.reshape(-1, *(1,) * (numbers.ndim - 1)), numbers, jnp.nan)


def answer(learner: Learner, params: Params, memory: Memory, queries: Array) -> Array:
    """Logits of many queries on the same context, none of which sees another.

    The memory is shared, not copied: each query costs one token.

    Args:
      learner: the learner.
      params: its parameters.
      memory: from `learner.read`.
      queries: `[B, Q, N]`.

    Returns:
      `[B, Q, C]`; NaN if the memory turns out to be too full in a compiled program.

    Raises:
      ValueError: queries of another shape, or a memory that is known to be too full.
    """
    _check_queries(learner, memory.label.shape[0], queries)
    check_room(learner, memory)
    label = jnp.zeros_like(memory.label)
    one = lambda query: learner.step(params, memory, query, label)[1]
    return jax.vmap(one, in_axes=1, out_axes=1)(queries)


def predict(learner: Learner, params: Params, x: Array, y: Array, queries: Array) -> Array:
    """Class probabilities of `queries` after reading a labelled set.

    Args:
      learner: the learner.
      params: its parameters.
      x: the set, `[n, N]`, standardised as in meta-training.
      y: its labels, `[n]`, integers from 0 to C - 1.
      queries: `[Q, N]`, standardised likewise.

    Returns:
      `[Q, C]`; NaN if traced labels are not of this range.

    Raises:
      ValueError: wrong shapes or labels, an empty set, or one so large that no query fits after it.
    """
    x, queries = (jnp.asarray(a, jnp.float32)[None] for a in (x, queries))
    y = jnp.asarray(y)[None]
    check(learner, x, y)
    _check_queries(learner, 1, queries)
    y = y.astype(jnp.int32)
    if learner.max_context is not None and x.shape[1] > learner.max_context:
        raise ValueError(
            f"the set holds {x.shape[1]} examples but the learner can predict after at most "
            f"{learner.max_context}; shorten it or build the learner with a larger length."
        )
    memory = learner.read(params, x, y)
    probabilities = jax.nn.softmax(answer(learner, params, memory, queries))
    return _nan_where_wrong(learner, y, probabilities)[0]


def meta_test(
    learner: Learner,
    params: Params,
    key: Array,
    base_key: Array,
    probes: Mapping[str, Probe],
    projection: Projection,
    *,
    length: int,
    num_tasks: ArrayLike,
    num_unseen: int = 2**16,
    num_sequences: int = 512,
    batch_size: int = 128,
) -> dict[str, Curve]:
    """Curves of every probe; label permutations are always fully random.

    Args:
      learner: the learner.
      params: its parameters.
      key: draws the sequences; each probe folds in its place.
      base_key: that of meta-training, so that seen tasks are seen.
      probes: name -> what to test on.
      projection: structure of the linear maps.
      length: T.
      num_tasks: K of meta-training, for probes of seen tasks; may be traced.
      num_unseen: number of unseen tasks to draw from.
      num_sequences: sequences per probe.
      batch_size: sequences at a time; must divide `num_sequences`.

    Raises:
      ValueError: the batch size does not divide, or a single sequence, which has no standard error.
    """
    if num_sequences < 2 or batch_size < 1:
        raise ValueError(
            f"num_sequences is {num_sequences} and batch_size is {batch_size}; a standard error "
            "needs two sequences and a batch at least one."
        )
    if num_sequences % batch_size:
        raise ValueError(
            f"{num_sequences} sequences are not a multiple of the batch of {batch_size}; choose a "
            "divisor."
        )
    index = jnp.arange(num_sequences).reshape(-1, batch_size)

    def curve(probe: Probe, key: Array) -> Curve:
        sample = sampler(
            probe.data,
            base_key,
            projection,
            learner.num_classes,
            length=length,
            batch_size=num_sequences,
            num_tasks=num_tasks if probe.seen else num_unseen,
            first_task=0 if probe.seen else FIRST_UNSEEN,
            raw=probe.raw,
            replace=probe.replace,
        )
        key_sample, key_shuffle = jax.random.split(key)

        def batch(index: Array) -> tuple[Array, Array]:
            x, y = sample(key_sample, index)
            context = _shuffle(key_shuffle, index, y) if probe.shuffled else y
            return score(learner.logits(params, x, context), y)

        right, loss = (a.reshape(num_sequences, length) for a in jax.lax.map(batch, index))
        error = lambda a: a.std(0, ddof=1) / jnp.sqrt(1.0 * num_sequences)
        return Curve(right.mean(0), error(right), loss.mean(0), error(loss))

    return {
        name: curve(probe, jax.random.fold_in(key, i))
        for i, (name, probe) in enumerate(probes.items())
    }


def _shuffle(key: Array, index: Array, y: Array) -> Array:
    one = lambda i, row: jax.random.permutation(jax.random.fold_in(key, i), row)
    return jax.vmap(one)(index, y)
