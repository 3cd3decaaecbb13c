"""Learning-rate schedules that Optax lacks, and the table from config names to schedules.

A schedule is a pure function of the update index t (0 for the first update) that returns the rate
of that update: an ordinary `optax.Schedule`. A warm-up of W updates has the rates peak (t + 1) / W:
the first update moves, and the last one of the warm-up has the peak. Rates and numbers of steps may
be traced unless a docstring says otherwise. `make_schedule` is what experiments call with the text
of their config. The infinite schedule is in `infinite.py`; `refinement.py` derives a schedule from
the gradient norms of an earlier run.
"""

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxtrain.schedules.checks import (
    check_counts,
    check_fit,
    check_lengths,
    check_rates,
    known,
    share,
)
from jaxtrain.schedules.infinite import infinite_schedule
from jaxtrain.schedules.refinement import refine_schedule


def warmup_constant(peak: ArrayLike, warmup_steps: int) -> optax.Schedule:
    """Linear warm-up from `peak / 100`, then constant: what LPN's authors train with.

    Theirs is not the warm-up of the other schedules: it reaches `peak` at update `warmup_steps`,
    which may not be traced.
    """
    check_rates(peak=peak)
    check_lengths(warmup_steps=warmup_steps)
    if warmup_steps == 0:  # Optax would stay at the first value for a warm-up of 0 steps.
        return optax.constant_schedule(peak)
    return optax.linear_schedule(peak / 100, peak, warmup_steps)


def warmup_linear(
    peak: ArrayLike, total_steps: ArrayLike, warmup_steps: ArrayLike = 0, power: ArrayLike = 1.0
) -> optax.Schedule:
    """Warm-up, then linear (or polynomial) decay to zero, which the last update has.

    peak (t + 1) / W for t < W, then peak ((T - 1 - t) / (T - W))^power. Without warm-up this is
    peak (1 - (t + 1) / T), worst-case optimal for the last iterate (Defazio et al. 2023,
    arXiv 2310.07831).

    Args:
      peak: highest rate.
      total_steps: T; later updates have rate 0.
      warmup_steps: W.
      power: 1 for linear; the paper's fits of refined schedules lie between 0.8 and 3.

    Raises:
      ValueError: the warm-up is longer than the run, or a number is negative.
    """
    check_rates(peak=peak, power=power)
    check_fit(total_steps, warmup_steps=warmup_steps)

    def schedule(step: ArrayLike) -> ArrayLike:
        t = jnp.asarray(step)
        decay = (1 - share(t, warmup_steps - 1, total_steps - warmup_steps)) ** power  # type: ignore[operator]
        rise = (t + 1) / jnp.maximum(warmup_steps, 1)
        return peak * jnp.where(t < warmup_steps, rise, decay)

    return schedule


def warmup_cosine(
    peak: ArrayLike, total_steps: int, warmup_steps: int = 0, end: float = 0.0
) -> optax.Schedule:
    """Warm-up, then Optax's cosine decay to `end * peak`, which update T would have.

    peak (t + 1) / W for t < W, then peak (end + (1 - end) (1 + cos(pi u)) / 2) with
    u = (t - W) / (T - W). Optax's own warm-up is t / W, whose first update does not move.

    Args:
      peak: highest rate; may be traced.
      total_steps: T; later updates keep the last rate.
      warmup_steps: W.
      end: rate at the end over the peak, at most 1.

    Raises:
      ValueError: no updates are left for the decay, a negative number, or an end above the peak.
    """
    check_rates(peak=peak, end=end)
    if known(end) and end > 1:
        raise ValueError(f"end is {end}, but is relative to the peak and at most 1.")
    check_fit(total_steps, warmup_steps=warmup_steps)
    if warmup_steps == total_steps:
        raise ValueError(f"the warm-up takes all {total_steps} steps; leave some for the decay.")
    decay = optax.cosine_decay_schedule(1.0, total_steps - warmup_steps, end)

    def schedule(step: ArrayLike) -> ArrayLike:
        t = jnp.asarray(step)
        rise = (t + 1) / max(warmup_steps, 1)
        return peak * jnp.where(t < warmup_steps, rise, decay(t - warmup_steps))

    return schedule


def repeated_cosine(
    peak: ArrayLike, period: int, warmup_steps: int = 0, end: float = 0.0
) -> optax.Schedule:
    """`warmup_cosine` started again every `period` updates: warm restarts, one per task."""
    check_rates(peak=peak)
    check_counts(period=period)
    shape = warmup_cosine(1.0, period, warmup_steps, end)
    return lambda step: peak * shape(jnp.asarray(step) % period)


def wsd(
    peak: ArrayLike,
    total_steps: ArrayLike,
    warmup_steps: ArrayLike = 0,
    decay_steps: ArrayLike = 0,
    decay: str = "linear",
) -> optax.Schedule:
    """Warm-up, stable, decay: constant until the last `decay_steps` updates.

    min(1, (t + 1) / W) peak until T - D, then peak (1 - u) or peak (1 - sqrt u) with
    u = (t - (T - D)) / D, which reaches zero at t = T.

    Args:
      peak: the constant rate.
      total_steps: T.
      warmup_steps: W.
      decay_steps: D, usually 10 to 20 % of T.
      decay: `linear` or `sqrt`.

    Raises:
      ValueError: the phases are longer than the run, a negative number, or an unknown decay.
    """
    if decay not in ("linear", "sqrt"):
        raise ValueError(f"decay is {decay!r}; the decays are linear and sqrt.")
    check_rates(peak=peak)
    check_fit(total_steps, warmup_steps=warmup_steps, decay_steps=decay_steps)

    def schedule(step: ArrayLike) -> ArrayLike:
        t = jnp.asarray(step)
        u = share(t, total_steps - decay_steps, decay_steps)  # type: ignore[operator]
        rise = jnp.minimum((t + 1) / jnp.maximum(warmup_steps, 1), 1.0)
        return peak * rise * (1 - (u if decay == "linear" else jnp.sqrt(u)))

    return schedule


def inverse_sqrt(peak: ArrayLike, warmup_steps: ArrayLike = 1) -> optax.Schedule:
    """peak min((t + 1) / W, sqrt(W / (t + 1))), with a warm-up W of at least one update."""
    check_rates(peak=peak)
    check_lengths(warmup_steps=warmup_steps)

    def schedule(step: ArrayLike) -> ArrayLike:
        t = jnp.asarray(step) + 1.0
        w = jnp.maximum(warmup_steps, 1)
        return peak * jnp.minimum(t / w, jnp.sqrt(w / t))

    return schedule


# --- Tables ---------------------------------------------------------------------------------------


def table_schedule(
    values: ArrayLike, peak: ArrayLike = 1.0, total_steps: int | None = None
) -> optax.Schedule:
    """Looks the rate of update t up in a table; later updates keep the last value.

    Args:
      values: `[T]`, relative to `peak`.
      peak: factor; may be traced.
      total_steps: stretches the table to another length, by linear interpolation that keeps the
        first and the last value.

    Raises:
      ValueError: an empty table, negative or not finite values in it, or no steps to stretch to.
    """
    if total_steps is not None:
        check_counts(total_steps=total_steps)
    table = np.asarray(values, np.float64)
    if table.ndim != 1 or not table.size:
        raise ValueError(f"a table of rates must have shape [T], but has {table.shape}.")
    if not np.isfinite(table).all() or table.min() < 0:
        raise ValueError("a table of rates must hold finite numbers that are not negative.")
    check_rates(peak=peak)
    if total_steps is not None and total_steps != table.size:
        places = np.linspace(0, table.size - 1, total_steps)
        table = np.interp(places, np.arange(table.size), table)
    rates = np.asarray(table, np.float32)
    return lambda step: peak * jnp.asarray(rates)[jnp.clip(step, 0, len(rates) - 1)]


# --- From config text to schedules ----------------------------------------------------------------


def _steps(value: float, total_steps: int) -> int:
    """A duration in a config: a decimal number up to 1.0 is a share of the run, 1 is one step."""
    if not known(value):
        raise TypeError(f"a duration is a number, not {value!r}")
    check_rates(duration=value)
    if isinstance(value, float) and value <= 1:
        return round(value * total_steps)
    check_lengths(duration=value)
    return int(value)


def _constant(peak: ArrayLike, total: int) -> optax.Schedule:
    check_rates(peak=peak)
    return optax.constant_schedule(peak)


def _warmup_constant(peak: ArrayLike, total: int, *, warmup: float) -> optax.Schedule:
    return warmup_constant(peak, _steps(warmup, total))


def _linear(peak: ArrayLike, total: int, *, warmup: float, power: float = 1.0) -> optax.Schedule:
    return warmup_linear(peak, total, _steps(warmup, total), power)


def _cosine(peak: ArrayLike, total: int, *, warmup: float, end: float = 0.0) -> optax.Schedule:
    return warmup_cosine(peak, total, _steps(warmup, total), end)


def _repeated_cosine(
    peak: ArrayLike, total: int, *, warmup: float, period: float = 0.2, end: float = 0.1
) -> optax.Schedule:
    return repeated_cosine(peak, _steps(period, total), _steps(warmup, total), end)


def _wsd(
    peak: ArrayLike, total: int, *, warmup: float, decay: float = 0.2, shape: str = "linear"
) -> optax.Schedule:
    return wsd(peak, total, _steps(warmup, total), _steps(decay, total), shape)


def _inverse_sqrt(peak: ArrayLike, total: int, *, warmup: float) -> optax.Schedule:
    return inverse_sqrt(peak, _steps(warmup, total))


def _infinite(
    peak: ArrayLike,
    total: int,
    *,
    warmup: float,
    cooldown: float = 0.25,
    anneal: float = 0.2,
    const: float = 0.25,
    end: float = 0.1,
    shape: str = "cosine",
) -> optax.Schedule:
    lengths = [_steps(x, total) for x in (warmup, cooldown, anneal)]
    check_fit(total, warmup=lengths[0], cooldown=lengths[1], anneal=lengths[2])
    start = total - lengths[2] if lengths[2] else None
    unit = infinite_schedule(
        1.0, const, end, lengths[0], lengths[1], start, lengths[2] or None, cooldown=shape
    )
    check_rates(peak=peak)
    return lambda step: peak * unit(step)


def _table(peak: ArrayLike, total: int, *, values: ArrayLike) -> optax.Schedule:
    return table_schedule(values, peak, total)


def _refined(
    peak: ArrayLike,
    total: int,
    *,
    norms: ArrayLike,
    mode: str = "adam",
    tau: float = 0.1,
    ends: str = "mirror",
) -> optax.Schedule:
    return table_schedule(refine_schedule(norms, mode, tau, ends=ends), peak, total)


# Everything that a config can name. Arguments are keywords; `warmup` is taken from the optimiser's
# `warmup_steps` when it is not given; durations like 0.2 are shares of the run, like 20 updates.
SCHEDULES: Mapping[str, Callable[..., optax.Schedule]] = {
    "constant": _constant,
    "warmup_constant": _warmup_constant,
    "linear": _linear,
    "cosine": _cosine,
    "repeated_cosine": _repeated_cosine,
    "wsd": _wsd,
    "inverse_sqrt": _inverse_sqrt,
    "infinite": _infinite,
    "table": _table,
    "refined": _refined,
}


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """`"wsd(decay=0.2)"` -> `("wsd", {"decay": 0.2})`.

    Raises:
      ValueError: neither a name nor a name with keyword arguments that are plain values.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        if not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        arguments = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(
            f"{text!r} is not a schedule; write a name, or a name with arguments such as "
            "'wsd(decay=0.2)'."
        ) from None
    return call.func.id, arguments


def make_schedule(
    text: str,
    peak: ArrayLike,
    total_steps: int,
    *,
    warmup_steps: float = 0,
    read: Callable[[str], ArrayLike] | None = None,
) -> optax.Schedule:
    """The schedule that a config names, such as `"cosine"` or `"wsd(decay=0.2, shape='sqrt')"`.

    Args:
      text: a name of `SCHEDULES`, with keyword arguments in brackets if there are any.
      peak: the learning rate; may be traced.
      total_steps: updates of the run.
      warmup_steps: `warmup` of schedules that have one, unless the text gives it.
      read: file name -> numbers, for `table(values='rates.npy')` and `refined(norms='runs/first')`.

    Raises:
      ValueError: unknown name or argument, phases longer than the run, negative rates, or a trace
        that cannot be used.
    """
    name, arguments = parse_call(text)
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; the schedules are {', '.join(SCHEDULES)}.")
    factory = SCHEDULES[name]
    accepted: Sequence[str] = list(inspect.signature(factory).parameters)[2:]
    if wrong := [key for key in arguments if key not in accepted]:
        takes = f"its arguments are {', '.join(accepted)}" if accepted else "it takes none"
        raise ValueError(f"schedule {name!r} has no argument {wrong[0]!r}; {takes}.")
    if "warmup" in accepted:
        arguments = {"warmup": warmup_steps} | arguments
    for key in ("values", "norms"):
        if key in accepted and key not in arguments:
            raise ValueError(f"schedule {name!r} needs {key}, a file or a list of numbers.")
        if isinstance(arguments.get(key), str):
            if read is None:
                raise ValueError(f"{key} of schedule {name!r} must be a list of numbers here.")
            arguments[key] = read(arguments[key])
    try:
        return factory(peak, total_steps, **arguments)
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ValueError(f"schedule {name!r} cannot use ({given}): {error}.") from error
