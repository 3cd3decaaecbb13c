"""Laplacian adjustment of predictions within a batch: LAME. No parameter changes."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel
from jaxtrain.core import Core, StepOutput
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import SOURCE, Norm
from jaxtta import adaptation, batches
from jaxtta.check_apply import checked
from jaxtta.images.batch_statistics import PredictState

Affinity = Literal["rbf", "knn", "cosine"]


def affinity(features: Array, mask: Array, kind: Affinity = "rbf", num_neighbors: int = 5) -> Array:
    """How alike the rows of a batch are, from L2-normalised features.

    `rbf`: exp(-d^2 / (2 s^2)), s the mean over rows of the distance to the `num_neighbors`-th
    nearest, the row itself counted as the first. `knn`: 1 for the `num_neighbors` nearest other
    rows. `cosine`: inner product.

    Args:
      features: `[N, D]`.
      mask: rows that count, `[N]`, bool.
      kind: see above.
      num_neighbors: k; as many as there are when the batch is smaller.

    Returns:
      `[N, N]`, 0 in rows and columns that do not count.

    Raises:
      ValueError: unknown kind.
    """
    length = jnp.linalg.norm(features, axis=-1, keepdims=True)
    unit = jnp.where(mask[:, None], features / jnp.maximum(length, 1e-12), 0)
    both = mask[:, None] & mask[None]
    if kind == "cosine":
        return jnp.where(both, unit @ unit.T, 0)
    square = ((unit[:, None] - unit[None]) ** 2).sum(-1)
    distance = jnp.where(both, jnp.sqrt(square), jnp.inf)
    number = mask.sum()
    rank = jnp.argsort(jnp.argsort(distance, axis=-1), axis=-1)
    if kind == "knn":
        itself = jnp.eye(len(mask), dtype=bool)
        rank = jnp.argsort(jnp.argsort(jnp.where(itself, -1.0, distance), axis=-1), axis=-1)
        near = (rank >= 1) & (rank <= jnp.minimum(num_neighbors, number - 1))
        return (near & both).astype(unit.dtype)
    if kind != "rbf":
        raise ValueError(f"unknown affinity {kind!r}; use rbf, knn or cosine.")
    last = jnp.minimum(num_neighbors, number) - 1
    kth = jnp.where((rank == last) & both, distance, 0).sum(-1)
    width = kth.sum() / jnp.maximum(number, 1)
    scaled = jnp.where(both, square, 0) / (2 * jnp.maximum(width, 1e-12) ** 2)
    return jnp.where(both, jnp.exp(-scaled), 0)


def adjusted(
    p: Array, weights: Array, mask: Array, strength: ArrayLike = 1.0, num_steps: int = 100
) -> Array:
    """Minimises sum_i KL(y_i | p_i) - strength * sum_ij w_ij y_i . y_j by its fixed point.

    Y <- softmax(log(p + 1e-10) + strength W Y) from Y = softmax(log(p + 1e-10)), until the energy
    changes by a share of 1e-8 or less, after at least three steps.

    Args:
      p: probabilities, `[N, C]`.
      weights: W, `[N, N]`.
      mask: rows that count, `[N]`, bool.
      strength: lambda; may be traced.
      num_steps: at most.

    Returns:
      Y, `[N, C]`.
    """
    unary = -jnp.log(p + 1e-10)

    def body(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        step, y, before, _ = carry
        pairwise = strength * (weights @ y)
        y = jax.nn.softmax(pairwise - unary)
        each = unary * y - pairwise * y + y * jnp.log(jnp.maximum(y, 1e-20))
        energy = jnp.where(mask[:, None], each, 0).sum()
        done = (step > 1) & (jnp.abs(energy - before) <= 1e-8 * jnp.abs(before))
        return step + 1, y, energy, done

    start = jax.nn.softmax(-unary)
    zero = start.sum() * 0  # of the axes of the data under shard_map
    carry = (zero.astype(jnp.int32), start, zero + jnp.inf, zero > 0)
    going = lambda carry: (carry[0] < num_steps) & ~carry[3]
    return jax.lax.while_loop(going, body, carry)[1]


def lame(
    apply_fn: ClassifierFn,
    *,
    kind: Affinity = "rbf",
    num_neighbors: int = 5,
    strength: ArrayLike = 1.0,
    norm: Norm = SOURCE,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """LAME: rows of a batch that look alike get alike predictions; the model stays as it is.

    Wins where neighbours in a batch share their class (sorted streams) and loses where they do not.

    Args:
      apply_fn: the network; must return features.
      kind: of the affinity.
      num_neighbors: k of the affinity.
      strength: lambda; 0 returns the model's predictions. May be traced.
      norm: which batch statistics are used.
      axis_name: mapped device axis, `None` for global arrays; the batch is gathered over it.

    Returns:
      A core with `init(params, model_state)`. The scored logits are log Y: their softmax is Y, so
      calibration scores are those of Y, not of the network.

    Raises:
      ValueError: (when called) the network returns no features, or unknown kind.

    References:
      Boudiaf et al., Parameter-free Online Test-time Adaptation, CVPR 2022. Official code:
      fiveai/LAME.
    """
    apply_fn = checked(apply_fn)

    def init(params: Any, model_state: Any) -> PredictState:
        return jax.tree.map(jnp.copy, PredictState(params, model_state))

    def update(state: PredictState, batch: Any, key: Array) -> tuple[PredictState, StepOutput]:
        inputs, rows, valid = batches.given(batch)
        found, _ = apply_fn(state.params, state.model_state, inputs, norm=norm, mask=valid)
        if isinstance(found.features, tuple):
            raise ValueError(
                "LAME compares features but the network returns none; let it return "
                "Classified(logits, features)."
            )
        counted, own_logits, features = batches.sound(valid, found.logits, found.features)
        whole = (jax.nn.softmax(own_logits), features, counted)
        if axis_name is not None:
            gather = lambda x: jax.lax.all_gather(x, axis_name, tiled=True)
            whole = jax.tree.map(gather, whole)
        p, features, joined = whole
        y = adjusted(p, affinity(features, joined, kind, num_neighbors), joined, strength)
        if axis_name is not None:
            first = jax.lax.axis_index(axis_name) * len(inputs)
            y = jax.lax.dynamic_slice_in_dim(y, first, len(inputs))
        logits = jnp.log(jnp.maximum(y, 1e-20))
        metrics = {
            "entropy": parallel.masked_mean(adaptation.entropy(logits), counted, axis_name),
            "num_nonfinite": adaptation.count(rows & ~counted, axis_name),
        }
        return state, adaptation.report(metrics, logits, jnp.zeros_like(valid))

    return Core(init, update)
