"""Boxes of any dimension: overlap, suppression, matching and average precision.

A box of n dimensions is 2n numbers, its lower corner and then its upper one: `(start, end)` is a
time segment, `(x0, y0, x1, y1)` a rectangle. All sizes are fixed, so that everything can be
compiled; what does not exist has score -inf.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def iou(a: Array, b: Array) -> Array:
    """Intersection over union of all pairs.

    Args:
      a: `[M, 2n]`.
      b: `[N, 2n]`.

    Returns:
      `[M, N]`, 0 where neither box has a volume.

    Raises:
      ValueError: boxes of different or of odd length.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] % 2:
        raise ValueError(
            f"boxes are rows [M, 2n], lower corner first, but have shapes {a.shape} and {b.shape}."
        )
    n = a.shape[1] // 2
    volume = lambda box: jnp.maximum(box[:, n:] - box[:, :n], 0).prod(-1)
    low = jnp.maximum(a[:, None, :n], b[None, :, :n])
    high = jnp.minimum(a[:, None, n:], b[None, :, n:])
    common = jnp.maximum(high - low, 0).prod(-1)
    union = volume(a)[:, None] + volume(b)[None] - common
    return jnp.where(union > 0, common / jnp.where(union > 0, union, 1), 0)


def suppress(boxes: Array, scores: Array, threshold: ArrayLike) -> Array:
    """Greedy non-maximum suppression.

    From the highest score down, a box is kept if it overlaps no kept box by more than the
    threshold.

    Args:
      boxes: `[M, 2n]`.
      scores: `[M]`; -inf for boxes that do not exist.
      threshold: of `iou`; may be traced.

    Returns:
      Which are kept, `[M]`, bool.
    """
    boxes, scores = jnp.asarray(boxes), jnp.asarray(scores)
    order = jnp.argsort(-scores)
    close = iou(boxes, boxes) > threshold

    def step(keep: Array, i: Array) -> tuple[Array, None]:
        good = (scores[i] > -jnp.inf) & ~(close[i] & keep).any()
        return keep.at[i].set(good), None

    keep, _ = jax.lax.scan(step, jnp.zeros(len(boxes), bool), order)
    return keep


def match(overlap: Array, scores: Array, threshold: ArrayLike) -> Array:
    """Which detections find a true box of their own.

    From the highest score down, each takes the true box it overlaps most among those that are left,
    if by the threshold at least; the rule of COCO.

    Args:
      overlap: `iou` of detections and true boxes, `[M, N]`; columns of -1 for none.
      scores: `[M]`; -inf for detections that do not exist.
      threshold: may be traced.

    Returns:
      `[M]`, bool.
    """
    overlap, scores = jnp.asarray(overlap), jnp.asarray(scores)

    def step(free: Array, i: Array) -> tuple[Array, Array]:
        left = jnp.where(free, overlap[i], -1)
        best = left.argmax()
        hit = (scores[i] > -jnp.inf) & (left[best] >= threshold)
        return free & ~((jnp.arange(len(free)) == best) & hit), hit

    order = jnp.argsort(-scores)
    _, found = jax.lax.scan(step, jnp.ones(overlap.shape[1], bool), order)
    return jnp.zeros(len(scores), bool).at[order].set(found)


def average_precision(
    scores: Array, hit: Array, num_truth: ArrayLike, points: int | None = None
) -> Array:
    """Area below precision over recall, `[]`; precision at a recall is the best at any higher one.

    Args:
      scores: of the detections of all images, `[M]`; -inf for those that do not exist.
      hit: from `match`, `[M]`, bool.
      num_truth: how many true boxes there are.
      points: recalls from 0 to 1 at which precision is averaged, 101 in COCO; None for the area
        under the curve.

    Returns:
      0 where there are no true boxes.
    """
    scores, hit = jnp.asarray(scores), jnp.asarray(hit)
    order = jnp.argsort(-scores)
    exists = (scores[order] > -jnp.inf).astype(jnp.float32)
    good = hit[order] * exists
    found, counted = jnp.cumsum(good), jnp.cumsum(exists)
    precision = jnp.where(exists > 0, found / jnp.maximum(counted, 1), 0)
    best = jax.lax.cummax(precision, reverse=True)
    total = jnp.maximum(jnp.asarray(num_truth, jnp.float32), 1)
    if points is None:
        return (best * good).sum() / total
    recall = found / total
    wanted = jnp.linspace(0, 1, points)
    # A recall that is reached exactly must not be missed by a rounding.
    place = jnp.searchsorted(recall, wanted - 1e-6)
    reached = place < len(recall)
    return jnp.where(reached, best[jnp.minimum(place, len(recall) - 1)], 0).mean()
