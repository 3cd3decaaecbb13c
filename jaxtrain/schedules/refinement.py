"""Schedules from the gradient norms of an earlier run (Defazio et al., arXiv 2310.07831).

Train once with a reasonable schedule and `record_grad_norms` first in the optimiser's chain; turn
the recorded norms into a shape with `refine_schedule`; train again with that shape, its peak tuned
anew and no further warm-up. For the last iterate of convex problems the shape minimises a bound
(`last_iterate_bound`); warm-up appears by itself where norms fall early, and fast annealing where
they rise late.
"""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

_SHORTEST = 20  # shorter traces say nothing about a shape
_LATEST_PEAK = 0.6  # healthy published traces peak at 45 % or earlier, collapsed ones at 68 to 97 %
_POWERS = {"sgd": 2.0, "adam": 1.0}


class RecordState(NamedTuple):
    """State of `record_grad_norms`.

    Attributes:
      norms: norm of every update's gradient, `[num_steps]`, float32; 0 where none was made yet.
      count: gradients seen, int32 `[]`.
    """

    norms: Array
    count: Array  # type: ignore[assignment]  # shadows tuple.count


def record_grad_norms(num_steps: int, ord: str = "l1") -> optax.GradientTransformation:
    """Passes gradients through and keeps the norm of each; goes first in `optax.chain`.

    There it sees the raw gradient of the whole batch, before clipping and preconditioning. The norm
    is over all parameters, in float32. Gradients after the first `num_steps` are not recorded.

    Args:
      num_steps: updates of the run.
      ord: `l1` to refine for Adam, `l2` to refine for SGD.

    Raises:
      ValueError: another norm, or no steps.
    """
    if ord not in ("l1", "l2"):
        raise ValueError(f"ord is {ord!r}; the norms are l1 (for Adam) and l2 (for SGD).")
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; record at least one step.")

    def init(params: Any) -> RecordState:
        return RecordState(jnp.zeros(num_steps, jnp.float32), jnp.int32(0))

    def update(updates: Any, state: RecordState, params: Any = None) -> tuple[Any, RecordState]:
        full = jax.tree.map(lambda g: jnp.abs(g).astype(jnp.float32), updates)
        sums = jax.tree.map(lambda g: (g if ord == "l1" else g**2).sum(), full)
        total = optax.tree.sum(sums)
        norm = total if ord == "l1" else jnp.sqrt(total)
        norms = state.norms.at[state.count].set(norm, mode="drop")
        return updates, RecordState(norms, optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def recorded_norms(state: Any) -> np.ndarray:
    """The norms recorded so far in any state that holds a `RecordState`: `[..., steps]`.

    A leading axis is one of trials, as a sweep has it. Warns if there were more gradients than the
    record has places for: a shape from a part of a run is not that of the run.

    Raises:
      ValueError: the state holds no record.
    """
    is_record = lambda x: isinstance(x, RecordState)
    found = [x for x in jax.tree.leaves(state, is_leaf=is_record) if is_record(x)]
    if not found:
        raise ValueError("the state holds no gradient norms; chain record_grad_norms first.")
    norms, count = np.asarray(found[0].norms), int(np.max(found[0].count))
    if count > norms.shape[-1]:
        _warn(
            f"only the first {norms.shape[-1]} of {count} gradient norms were recorded; give "
            "record_grad_norms the number of updates of the run"
        )
    return norms[..., : int(np.min(found[0].count))]


def refined_weights(norms: ArrayLike, mode: str = "adam") -> np.ndarray:
    """w_t = |g_t|^-2 for SGD (L2 norms) or |g_t|^-1 for Adam (L1 norms), the largest being 1.

    Args:
      norms: positive, `[T]`.
      mode: `sgd` or `adam`.

    Raises:
      ValueError: another mode, or norms that are not positive and finite.
    """
    if mode not in _POWERS:
        raise ValueError(f"mode is {mode!r}; the modes are sgd (L2 norms) and adam (L1 norms).")
    g = np.asarray(norms, np.float64)
    if not (np.isfinite(g).all() and g.min(initial=np.inf) > 0):
        raise ValueError("norms must be positive and finite; refine_schedule repairs single ones.")
    return (g.min() / g) ** _POWERS[mode]


def schedule_from_weights(weights: ArrayLike) -> np.ndarray:
    """eta_t = w_t sum_{p > t} w_p / sum_p w_p, float64 `[T]`; the last one is 0.

    With these rates the last iterate of SGD inherits the regret bound of the weighted average.

    Raises:
      ValueError: weights that are negative or not finite, or none above 0.
    """
    w = np.asarray(weights, np.float64)
    if w.ndim != 1 or not np.isfinite(w).all() or w.min(initial=0) < 0 or w.max(initial=0) == 0:
        raise ValueError("weights must be finite and not negative, [T], and one of them above 0.")
    tails = np.cumsum(w[::-1])[::-1]  # sum over p >= t
    return w * np.append(tails[1:], 0.0) / tails[0]


def last_iterate_bound(distance: float, weights: ArrayLike, norms: ArrayLike) -> float:
    """(D^2 + sum_t w_t^2 |g_t|^2) / (2 sum_t w_t), the bound on E f(x_T) - f* for convex f.

    Holds for the rates of `schedule_from_weights` when weights do not depend on the gradients. With
    w_t = D / (G sqrt T), which gives linear decay, it is D G / sqrt T.

    Args:
      distance: D, from the start to a minimiser.
      weights: w, `[T]`.
      norms: L2 norms of the gradients (or bounds on them), `[T]` or one number.
    """
    w = np.asarray(weights, np.float64)
    return float((distance**2 + ((w * np.asarray(norms)) ** 2).sum()) / (2 * w.sum()))


def smooth_norms(norms: ArrayLike, tau: float = 0.1, ends: str = "mirror") -> np.ndarray:
    """Running median over 2 floor(tau T / 2) + 1 samples.

    At the end the last two windows are mirrored before filtering and dropped afterwards, so that a
    rise of the norms at the very end survives. The same is done at the start, where a median is
    then one of half a window of norms. The official code (`ends="official"`) pads the start with
    copies of the first norm instead: the first smoothed norm is that single one, however far it is
    from its neighbours.

    Args:
      norms: `[T]`.
      tau: share of the trace that the filter covers.
      ends: `mirror` or `official`.

    Raises:
      ValueError: not a vector, or an impossible tau or treatment of the ends.
    """
    from scipy.ndimage import median_filter

    g = np.asarray(norms, np.float64)
    _check_smoothing(g, tau, ends)
    window = 2 * int(tau * g.size / 2) + 1
    before = g[: 2 * window][::-1] if ends == "mirror" else g[:0]
    padded = np.concatenate([before, g, g[::-1][: 2 * window]])
    filtered = median_filter(padded, size=window, mode="nearest")
    return filtered[before.size : before.size + g.size]


def _check_smoothing(g: np.ndarray, tau: float, ends: str) -> None:
    if g.ndim != 1 or not g.size:
        raise ValueError(
            f"norms must have shape [T], but have {g.shape}; refine one run at a time."
        )
    if not 0 <= tau < 1:
        raise ValueError(f"tau is {tau}, but must be at least 0 and below 1.")
    if ends not in ("mirror", "official"):
        raise ValueError(f"ends is {ends!r}; the treatments of the ends are mirror and official.")


def refine_schedule(
    norms: ArrayLike,
    mode: str = "adam",
    tau: float = 0.1,
    floor: float = 0.0,
    ends: str = "mirror",
) -> np.ndarray:
    """The refined shape of a schedule, float32 `[T]`, largest value 1 and last value 0.

    Runs on the host in float64. Differs from the official code in taking the window from the length
    of the trace (as the paper says), in using the whole trace at its own length, and in what
    happens at its start (`ends`).

    Norms that are NaN, infinite or zero are replaced by the running median of the others, with a
    warning. Linear decay is returned, with a warning, for traces under 20 steps and when the shape
    would peak after 60 % of the run: there the problem is being interpolated, norms collapse with
    the loss, and the shape would waste the run.

    Args:
      norms: norm of the gradient of every update, `[T]`.
      mode: `sgd` for L2 norms, `adam` for L1 norms.
      tau: share of the trace that the median filter covers.
      floor: smoothed norms below this share of their median are raised to it.
      ends: of `smooth_norms`: `mirror`, or `official`, with which one small first norm makes the
        shape start at a multiple of what follows.

    Raises:
      ValueError: not a vector, negative norms, fewer than half usable ones, or a bad option.
    """
    g = np.asarray(norms, np.float64)
    _check_smoothing(g, tau, ends)
    if not 0 <= floor < 1:
        raise ValueError(f"floor is {floor}, but must be at least 0 and below 1.")
    if mode not in _POWERS:
        raise ValueError(f"mode is {mode!r}; the modes are sgd (L2 norms) and adam (L1 norms).")
    if (g < 0).any():
        raise ValueError(f"norm {int(np.argmax(g < 0))} is negative; pass norms of gradients.")
    steps = np.arange(g.size)
    linear = (1 - (steps + 1) / g.size) / max(1 - 1 / g.size, 1 / g.size)
    usable = np.isfinite(g) & (g > 0)
    if 2 * usable.sum() <= g.size:
        raise ValueError(
            f"only {usable.sum()} of {g.size} gradient norms are positive and finite; check that "
            "the recording run was finished and did not diverge."
        )
    if not usable.all():
        _warn(
            f"{g.size - usable.sum()} of {g.size} gradient norms are zero or not finite (the first "
            f"at step {int(np.argmin(usable))}); the running median of the others replaces them"
        )
        median = np.interp(steps, steps[usable], smooth_norms(g[usable], tau, ends))
        g = np.where(usable, g, median)
    if g.size < _SHORTEST:
        _warn(f"a trace of {g.size} steps is too short to refine; linear decay is used")
        return linear.astype(np.float32)
    smooth = smooth_norms(g, tau, ends)
    smooth = np.maximum(smooth, floor * np.median(smooth))
    shape = schedule_from_weights(refined_weights(smooth, mode))
    peak = int(np.argmax(shape))
    if peak > _LATEST_PEAK * g.size:
        _warn(
            f"the refined schedule would peak at {peak / g.size:.0%} of the run, as on problems "
            "that are interpolated; linear decay is used"
        )
        return linear.astype(np.float32)
    return (shape / shape.max()).astype(np.float32)


def _warn(sentence: str) -> None:
    warnings.warn(f"{sentence}.", UserWarning, stacklevel=3)
