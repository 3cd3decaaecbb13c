"""The infinite learning-rate schedule: warm-up, cool-down, constant for ever, anneal when asked.

Ibrahim et al. 2024 (arXiv 2403.08763), Singh et al. 2025 (arXiv 2503.02844). Annealing is a side
branch that gives a model to use; training goes on from the checkpoint taken before it.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain.schedules.checks import check_lengths, check_rates, known, share

SHAPES = ("cosine", "inverse_sqrt", "linear")  # of the cool-down
NEVER = int(np.iinfo(np.int32).max)  # an annealing start that does not come


def _check(
    peak: ArrayLike,
    const: ArrayLike,
    end: ArrayLike,
    warmup_steps: ArrayLike,
    cooldown_steps: ArrayLike,
    anneal_steps: ArrayLike | None,
    cooldown: str,
) -> None:
    """What every door to the schedule refuses, as far as the numbers are known."""
    if cooldown not in SHAPES:
        raise ValueError(
            f"cooldown is {cooldown!r}; the shapes are cosine, inverse_sqrt and linear."
        )
    check_rates(peak=peak, const=const, end=end)
    check_lengths(warmup_steps=warmup_steps, cooldown_steps=cooldown_steps)
    if anneal_steps is not None:
        check_lengths(anneal_steps=anneal_steps)
        if known(anneal_steps) and anneal_steps == 0:
            raise ValueError("anneal_steps is 0; annealing needs at least 1 step.")
    if all(map(known, (peak, const, end))) and not 0 < end <= const <= peak:  # type: ignore[operator]
        raise ValueError(
            f"the rates must keep 0 < end <= const <= peak, but end is {end}, const is {const} and "
            f"peak is {peak}."
        )
    rates_known = known(const) and known(peak)
    if known(cooldown_steps) and cooldown_steps == 0 and rates_known and const != peak:
        raise ValueError(
            f"without cool-down the rate would jump from peak {peak} to const {const}; make them "
            "equal or give cooldown_steps."
        )


def infinite_lr(
    step: ArrayLike,
    anneal_start: ArrayLike = NEVER,
    *,
    peak: ArrayLike,
    const: ArrayLike,
    end: ArrayLike,
    warmup_steps: ArrayLike,
    cooldown_steps: ArrayLike,
    anneal_steps: ArrayLike | None = None,
    cooldown: str = "cosine",
) -> Array:
    """Rate of the infinite schedule; everything but `cooldown` may be traced.

    Phases by update n: warm-up [0, W) peak (n + 1) / W, so that no update is wasted (the papers
    have n / W); cool-down [W, W + C) from `peak` to `const`;
    then `const` for as long as wanted; from `anneal_start` on r (end / r)^u with
    u = (n - anneal_start) / anneal_steps, where r is the rate at which annealing started: `const`,
    or whatever the cool-down or warm-up had reached. Stays at `end` afterwards. Annealing never
    raises the rate: from a rate below `end` (early in the warm-up) it stays at that rate.

    The cool-down, with u from 0 to 1 in it, is
      cosine: const + (peak - const) (1 + cos(pi u)) / 2;
      inverse_sqrt: peak + (const - peak) h(u) / h(1), h(u) = 1 / sqrt(1 + 10 u) - 1;
      linear: peak - (peak - const) u.

    Arguments are those of `infinite_schedule`, and so are the checks of what is known.

    Raises:
      ValueError: as `infinite_schedule`; an annealing without `anneal_steps`, whatever its start.

    Sources: Ibrahim et al. 2024 (arXiv 2403.08763), Singh et al. 2025 (arXiv 2503.02844).
    """
    _check(peak, const, end, warmup_steps, cooldown_steps, anneal_steps, cooldown)
    never = known(anneal_start) and anneal_start == NEVER
    if anneal_steps is None and not never:
        raise ValueError("anneal_start needs anneal_steps, the length of the annealing.")
    check_lengths(anneal_start=anneal_start)
    n = jnp.asarray(step)

    def unannealed(n: Array) -> Array:
        u = share(n, warmup_steps, cooldown_steps)
        if cooldown == "cosine":
            remaining = (1 + jnp.cos(jnp.pi * u)) / 2
        elif cooldown == "inverse_sqrt":
            h = lambda u: 1 / jnp.sqrt(1 + 10.0 * u) - 1
            remaining = 1 - h(u) / h(1.0)
        else:
            remaining = 1 - u
        cooling = const + (peak - const) * remaining  # type: ignore[operator]
        cooling = jnp.where(n < warmup_steps + cooldown_steps, cooling, const)
        return jnp.where(n < warmup_steps, peak * (n + 1) / jnp.maximum(warmup_steps, 1), cooling)

    current = unannealed(n)
    top = unannealed(jnp.minimum(jnp.asarray(anneal_start), n))
    u = share(n, jnp.minimum(anneal_start, n), 1 if anneal_steps is None else anneal_steps)
    annealed = jnp.where(top > end, top * (end / jnp.maximum(top, end)) ** u, top)
    return jnp.where(n >= anneal_start, annealed, current)


def infinite_schedule(
    peak: ArrayLike,
    const: ArrayLike,
    end: ArrayLike,
    warmup_steps: ArrayLike,
    cooldown_steps: ArrayLike,
    anneal_start: ArrayLike | None = None,
    anneal_steps: ArrayLike | None = None,
    cooldown: str = "cosine",
    offset: ArrayLike = 0,
) -> optax.Schedule:
    """The infinite schedule as a function of the step; see `infinite_lr` for the phases.

    Annealing is a side branch that gives a model to use: the next task goes on from the checkpoint
    taken *before* it, with parameters, moments and step counter restored, at the constant rate and
    without warming up again. When the moment is not known beforehand, use `annealable`.

    Args:
      peak: rate after the warm-up.
      const: rate of the constant phase.
      end: rate at the end of annealing, above 0.
      warmup_steps: W, 0 for none.
      cooldown_steps: C, from the end of the warm-up; 0 needs `const` equal to `peak`.
      anneal_start: first update of the annealing; None for never.
      anneal_steps: its length; None without annealing.
      cooldown: `cosine`, `inverse_sqrt` or `linear`.
      offset: updates already done when the optimiser's own count is 0. A fresh optimiser in the
        second task resumes the constant rate with `offset` of at least W + C.

    Raises:
      ValueError: rates out of order, a jump of the rate, an annealing start without length, or a
        negative number.
    """
    _check(peak, const, end, warmup_steps, cooldown_steps, anneal_steps, cooldown)
    check_lengths(offset=offset)
    if (anneal_start is None) != (anneal_steps is None):
        raise ValueError("give anneal_start and anneal_steps together, or neither.")
    if anneal_start is not None:
        check_lengths(anneal_start=anneal_start)
    rate = functools.partial(
        infinite_lr,
        peak=peak,
        const=const,
        end=end,
        warmup_steps=warmup_steps,
        cooldown_steps=cooldown_steps,
        anneal_steps=anneal_steps,
        cooldown=cooldown,
    )
    start = NEVER if anneal_start is None else anneal_start
    return lambda step: rate(jnp.asarray(step) + offset, start)


class AnnealState(NamedTuple):
    """State of `annealable`.

    Attributes:
      count: updates done, int32 `[]`.
      anneal_start: first update of the annealing, int32 `[]`; `NEVER` until it is set.
    """

    count: Array  # type: ignore[assignment]  # shadows tuple.count
    anneal_start: Array


class annealable:
    """An infinite schedule whose annealing starts when told: a stateful schedule of Optax.

    `schedules.scheduled(optax.adamw, annealable(...))` makes an optimiser whose state holds
    `anneal_start`. `start_anneal(state)` begins the annealing, on a copy; an update may also be
    told directly, `optimizer.update(grads, state, params, anneal_start=n)`.

    Args:
      offset: of `infinite_schedule`.
      **options: keyword arguments of `infinite_lr`; `anneal_steps` has to be among them.

    Raises:
      ValueError: whatever `infinite_schedule` refuses.
    """

    def __init__(self, *, offset: ArrayLike = 0, **options: Any) -> None:
        given = inspect.signature(infinite_lr).bind(0, NEVER, **options)
        if options.get("anneal_steps") is None:
            raise ValueError("give anneal_steps, the length of an annealing once it starts.")
        given.apply_defaults()
        names = inspect.signature(_check).parameters
        _check(**{name: given.arguments[name] for name in names})
        check_lengths(offset=offset)
        self._offset, self._options = offset, options

    def init(self) -> AnnealState:
        return AnnealState(jnp.asarray(self._offset, jnp.int32), jnp.int32(NEVER))

    def update(
        self, state: AnnealState, *, anneal_start: ArrayLike | None = None, **_: Any
    ) -> AnnealState:
        start = state.anneal_start if anneal_start is None else jnp.int32(anneal_start)
        return AnnealState(optax.safe_increment(state.count), start)

    def __call__(
        self, state: AnnealState, *, anneal_start: ArrayLike | None = None, **_: Any
    ) -> Array:
        start = state.anneal_start if anneal_start is None else anneal_start
        return infinite_lr(state.count, start, **self._options)


def start_anneal(state: Any) -> Any:
    """The same state with annealing started at the present step; the given one is untouched.

    Args:
      state: any pytree that holds the state of an `annealable` schedule.

    Raises:
      ValueError: it holds none.
    """
    is_ours = lambda x: isinstance(x, AnnealState)
    if not any(map(is_ours, jax.tree.leaves(state, is_leaf=is_ours))):
        raise ValueError("the state has no annealable schedule; build the optimiser with one.")
    start = lambda x: AnnealState(x.count, x.count) if is_ours(x) else x
    return jax.tree.map(start, state, is_leaf=is_ours)


def branch_anneal(
    update: Callable[[Any, Any, Any], tuple[Any, Any]], state: Any, batches: Any, keys: Array
) -> tuple[Any, Any]:
    """Anneals on a side branch: what comes back is for use, and training goes on from `state`.

    Args:
      update: of a core whose optimiser follows an `annealable` schedule.
      state: its state; not changed.
      batches: batches of the branch, stacked `[steps, ...]`.
      keys: `[steps]`.

    Returns:
      The annealed state, and the step outputs `[steps, ...]`.
    """
    return jax.lax.scan(lambda s, x: update(s, *x), start_anneal(state), (batches, keys))
