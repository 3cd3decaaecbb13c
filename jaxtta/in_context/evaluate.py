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

from jaxtta.in_context.learner import Learner, Memory, Params
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
    """Whether each prediction is right and its cross-entropy, both float32 `[B, T]`."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    return (logits.argmax(-1) == labels).astype(jnp.float32), loss


def online(learner: Learner, params: Params, x: Array, y: Array) -> Array:
    """`learner.logits` computed one example at a time: predict, take in the label, go on."""
    memory = learner.start(params, x.shape[0])

    def body(memory: Memory, example: tuple[Array, Array]) -> tuple[Memory, Array]:
        return learner.step(params, memory, *example)

    _, logits = jax.lax.scan(body, memory, (x.swapaxes(0, 1), y.swapaxes(0, 1)))
    return logits.swapaxes(0, 1)


def answer(learner: Learner, params: Params, memory: Memory, queries: Array) -> Array:
    """Logits of many queries on the same context, none of which sees another.

    The memory is shared, not copied: each query costs one token.

    Args:
      learner: the learner.
      params: its parameters.
      memory: from `learner.read`.
      queries: `[B, Q, N]`.

    Returns:
      `[B, Q, C]`.
    """
    label = jnp.zeros_like(memory.label)
    one = lambda query: learner.step(params, memory, query, label)[1]
    return jax.vmap(one, in_axes=1, out_axes=1)(queries)


def predict(learner: Learner, params: Params, x: Array, y: Array, queries: Array) -> Array:
    """Class probabilities of `queries` `[Q, N]` after reading the labelled set `x` `[n, N]`, `y`
    `[n]`, as `[Q, C]`. Inputs are standardised as in meta-training."""
    x, queries = (jnp.asarray(a, jnp.float32)[None] for a in (x, queries))
    memory = learner.read(params, x, jnp.asarray(y, jnp.int32)[None])
    return jax.nn.softmax(answer(learner, params, memory, queries)[0])


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
      ValueError: the batch size does not divide.
    """
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
