r"""Tasks: a random linear map of the inputs and a permutation of the labels.

Task k of a base data set is D_k = {(A_k x, rho_k(y))} with (A_k)_ab ~ Normal(0, variance 1/N) and
rho_k a uniformly random permutation. Both are pure functions of (base key, k), so 2^24 tasks take
no memory and a task is the same wherever and whenever it is drawn.

Index ranges: meta-training and the test on seen tasks use 0 .. K - 1 with K <= `MAX_TASKS` = 2^31,
the test on unseen tasks uses `FIRST_UNSEEN` = 2^31 and up. The two never meet. (The official code
uses the indices -1 .. -32, which wrap to the top of the same upper half.)

References:
  Kirsch, Harrison, Sohl-Dickstein and Metz, General-Purpose In-Context Learning by Meta-Learning
  Transformers, arXiv 2212.04458. Official code: google/learned_optimization,
  research/data_driven/mnist_projections.py.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

MAX_TASKS = 2**31
FIRST_UNSEEN = 2**31


class Projection(NamedTuple):
    """Structure of the linear map.

    Attributes:
      num_inputs: N, numbers per example of the base data set.
      num_outputs: D, numbers per example of the task. N in the paper; fewer is its shrink option.
      column_blocks: the map is drawn and applied in this many groups of columns, which bounds the
        memory of large N; must divide N, and is part of what task k is.
      softmax: replaces A x by D softmax(A x), an option of the official code.
    """

    num_inputs: int
    num_outputs: int
    column_blocks: int = 1
    softmax: bool = False

    def check(self) -> None:
        """Raises ValueError for impossible sizes."""
        if min(self) < 0 or not 1 <= self.num_outputs or self.num_inputs < 1:
            raise ValueError(f"{self} has impossible sizes; give at least one input and output.")
        if self.column_blocks < 1 or self.num_inputs % self.column_blocks:
            raise ValueError(
                f"{self.num_inputs} inputs do not divide into {self.column_blocks} blocks of "
                "columns; choose a divisor."
            )


class Task(NamedTuple):
    """One task as arrays.

    Attributes:
      projection: A, `[D, N]`.
      permutation: rho, `[C]`, int32: label y becomes `permutation[y]`.
    """

    projection: Array
    permutation: Array


def task_key(base_key: Array, index: ArrayLike) -> Array:
    """Key of task `index`, an integer in 0 .. 2^32 - 1."""
    return jax.random.fold_in(base_key, jnp.asarray(index, jnp.uint32))


def sample_task(
    base_key: Array,
    index: ArrayLike,
    projection: Projection,
    num_classes: int,
    *,
    bias: ArrayLike = 0.0,
) -> Task:
    """Task `index`; the generator of sequences draws the same numbers without storing A.

    Args:
      base_key: fixes all tasks of a run.
      index: which task, uint32; may be traced.
      projection: structure of A.
      num_classes: C.
      bias: probability that a task keeps the identity as its permutation, decided by the task's
        own key; may be traced.
    """
    key_projection, key_permutation, key_bias = jax.random.split(task_key(base_key, index), 3)
    blocks = [_block(key_projection, b, projection) for b in range(projection.column_blocks)]
    return Task(
        jnp.concatenate(blocks, axis=1),
        permute(key_permutation, num_classes, jax.random.uniform(key_bias) >= bias),
    )


def permute(key: Array, num_classes: int, permuted: ArrayLike = True) -> Array:
    """A uniformly random permutation `[C]`, or the identity where `permuted` is False."""
    identity = jnp.arange(num_classes)
    return jnp.where(permuted, jax.random.permutation(key, num_classes), identity)


def project(key: Array, x: Array, projection: Projection) -> Array:
    """A x for the rows of `x` `[T, N]`, `[T, D]`, with A drawn from its own key."""
    if projection.column_blocks == 1:
        mapped = x @ _block(key, 0, projection).T
    else:
        parts = x.reshape(len(x), projection.column_blocks, -1)

        def add(total: Array, b: Array) -> tuple[Array, None]:
            return total + parts[:, b] @ _block(key, b, projection).T, None

        first = parts[:, 0] @ _block(key, 0, projection).T
        mapped, _ = jax.lax.scan(add, first, jnp.arange(1, projection.column_blocks))
    if projection.softmax:
        mapped = projection.num_outputs * jax.nn.softmax(mapped)
    return mapped


def _block(key: Array, index: ArrayLike, projection: Projection) -> Array:
    """Block `index` of the columns of A. The scale is 1/sqrt(N) (a standard deviation of 1/N, found
    in replications, would shrink unit-variance inputs by sqrt(N))."""
    n, d, blocks, _ = projection
    return jax.random.normal(jax.random.fold_in(key, index), (d, n // blocks)) / jnp.sqrt(1.0 * n)


def bias_at(step: ArrayLike, bias: ArrayLike, decay_steps: ArrayLike) -> Array:
    """Bias after `step` updates: 1 at first, then `bias` from `decay_steps` on.

    The share of permuted tasks rises linearly, p(step) = (1 - bias) min(step / decay_steps, 1).
    The official code multiplies by max(step / decay_steps, 1), which never lowers p; min was
    evidently meant. `decay_steps` = 0 means `bias` throughout. All arguments may be traced.
    """
    step, decay_steps = jnp.asarray(step, jnp.float32), jnp.asarray(decay_steps, jnp.float32)
    grown = jnp.minimum(step / jnp.maximum(decay_steps, 1.0), 1.0)
    return 1.0 - (1.0 - jnp.asarray(bias)) * jnp.where(decay_steps > 0, grown, 1.0)
