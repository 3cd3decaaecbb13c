"""Sequences of labelled examples of random tasks, made on the device from keys.

Sequence i of a batch takes its task from `fold_in(key, i // sequences_per_task)`, and its examples
from the stream of the base data set in an order that all sequences of the step share. It does not
depend on the number of devices, and nothing is stored or sent from the host.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxtrain.schedules.checks import check_counts
from jaxtta.in_context import tasks
from jaxtta.in_context.learner import check_labels, known
from jaxtta.in_context.tasks import Projection

BiasDraw = Literal["task", "sequence"]


class Data(NamedTuple):
    """A base data set.

    Attributes:
      inputs: examples, standardised with one mean and one standard deviation for the whole set,
        `[n, N]`.
      labels: classes 0 .. C - 1, `[n]`, int32.
    """

    inputs: Array
    labels: Array


class Sequences(NamedTuple):
    """A batch of sequences.

    Attributes:
      x: inputs, `[B, T, D]`, float32.
      y: labels, `[B, T]`, int32.
    """

    x: Array
    y: Array


Sample = Callable[..., Sequences]


def sampler(
    data: Data,
    base_key: Array,
    projection: Projection,
    num_classes: int,
    *,
    length: int,
    batch_size: int,
    num_tasks: ArrayLike,
    first_task: int = 0,
    sequences_per_task: int = 1,
    bias: ArrayLike = 0.0,
    bias_draw: BiasDraw = "task",
    bias_steps: ArrayLike = 0,
    single_task: ArrayLike = 0.0,
    raw: bool = False,
    replace: bool = False,
) -> Sample:
    """The generator of batches.

    Args:
      data: base data set. Give it as an argument of the jitted function, or let `jaxtrain.holding`
        keep it in the state: closed over, it would be constants of the program.
      base_key: fixes the tasks (not which of them are drawn).
      projection: structure of the linear maps.
      num_classes: C.
      length: T, examples per sequence.
      batch_size: sequences per batch over all devices.
      num_tasks: K; task indices are uniform in `first_task` .. `first_task` + K - 1; may be traced.
      first_task: 0, or `tasks.FIRST_UNSEEN`.
      sequences_per_task: how many consecutive sequences of a batch share a task; the number of
        tasks per batch is `batch_size / sequences_per_task`.
      bias: probability of the identity in place of a random label permutation; may be traced.
      bias_draw: whether a task index is always or never permuted (`"task"`, the official code), or
        each sequence decides anew (`"sequence"`).
      bias_steps: length of the schedule of `tasks.bias_at`, 0 for none; may be traced.
      single_task: probability that a drawn index is replaced by `first_task`, which biases map and
        permutation alike (1 - project_prob of the official code); may be traced.
      raw: inputs are left as they are instead of projected.
      replace: whether examples are drawn with replacement. Without, the T examples of a sequence
        are different ones: consecutive items of a shuffled stream, as in the official code.

    Returns:
      `sample(key, index, step=0) -> Sequences`: the sequences with these places in the batch
      (`[b]`, int32); `step` counts updates, for the schedule of the bias.

    Raises:
      ValueError: impossible sizes; labels that are not integers, one per input, or that are known
        and not from 0 to C - 1. (Traced ones cannot be refused and are taken as the nearest class.)
    """
    projection.check()
    check_counts(length=length, batch_size=batch_size, sequences_per_task=sequences_per_task)
    if data.inputs.ndim != 2 or data.labels.shape != data.inputs.shape[:1]:
        raise ValueError(
            "a data set needs inputs [n, N] and labels [n], but they have "
            f"{data.inputs.shape} and {data.labels.shape}."
        )
    check_labels(num_classes, data.labels)
    n, num_inputs = data.inputs.shape
    if num_inputs != projection.num_inputs:
        raise ValueError(
            f"the projection takes {projection.num_inputs} inputs but the data have {num_inputs}; "
            "make them equal."
        )
    if raw and projection.num_outputs != num_inputs:
        raise ValueError(
            f"raw inputs have {num_inputs} numbers but the model expects {projection.num_outputs}; "
            "raw data need num_outputs = num_inputs."
        )
    if not replace and length > n:
        raise ValueError(
            f"{length} different examples cannot be drawn from {n}; shorten the sequences or draw "
            "with replacement."
        )
    if batch_size % sequences_per_task:
        raise ValueError(
            f"batch_size is {batch_size}, which is not a multiple of sequences_per_task = "
            f"{sequences_per_task}; change one of them."
        )
    if bias_draw not in ("task", "sequence"):
        raise ValueError(f"bias_draw is {bias_draw!r}; choose task or sequence.")
    per_pass = n // length  # sequences that one pass over the data serves

    def rows(key: Array, index: Array) -> Array:
        """Which examples, `[b, T]`."""
        if replace:
            draw = lambda i: jax.random.randint(jax.random.fold_in(key, i), (length,), 0, n)
            return jax.vmap(draw)(index)
        passes = jnp.arange(-(-batch_size // per_pass))
        order = jax.vmap(lambda p: jax.random.permutation(jax.random.fold_in(key, p), n))(passes)
        places = (index % per_pass * length)[:, None] + jnp.arange(length)[None]
        return order[(index // per_pass)[:, None], places]

    def one(
        keys: tuple[Array, Array], index: Array, x: Array, y: Array, bias: Array
    ) -> tuple[Array, Array]:
        key_task, key_sequence = (
            jax.random.fold_in(keys[0], index // sequences_per_task),
            jax.random.fold_in(keys[1], index),
        )
        key_index, key_single = jax.random.split(key_task)
        k = jax.random.randint(key_index, (), 0, jnp.asarray(num_tasks, jnp.uint32), jnp.uint32)
        k = jnp.where(jax.random.uniform(key_single) < single_task, jnp.uint32(0), k)
        own = tasks.task_key(base_key, k + jnp.uint32(first_task))
        key_projection, key_permutation, key_bias = jax.random.split(own, 3)
        key_bias = key_sequence if bias_draw == "sequence" else key_bias
        permuted = jax.random.uniform(key_bias) >= bias
        if not raw:
            x = tasks.project(key_projection, x, projection)
        return x, tasks.permute(key_permutation, num_classes, permuted)[y]

    def sample(key: Array, index: Array, step: ArrayLike = 0) -> Sequences:
        # As NumPy's: a surrounding jit would trace comparisons of JAX.
        places = np.asarray(index) if known(index) else np.zeros(0, int)
        if index.shape[0] > batch_size or not ((0 <= places) & (places < batch_size)).all():
            raise ValueError(
                f"the places of sequences in a batch go from 0 to {batch_size - 1}, each at most "
                f"once; {index.shape[0]} were asked for, or ones outside of it."
            )
        key_task, key_sequence, key_rows = jax.random.split(key, 3)
        chosen = rows(key_rows, index)
        x, y = data.inputs[chosen].astype(jnp.float32), data.labels[chosen].astype(jnp.int32)
        now = tasks.bias_at(step, bias, bias_steps)
        return Sequences(
            *jax.vmap(one, (None, 0, 0, 0, None))((key_task, key_sequence), index, x, y, now)
        )

    return sample
