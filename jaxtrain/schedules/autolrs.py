"""AutoLRS: learning rates found while training, by Bayesian optimisation on short trials.

Jin et al., ICLR 2021 (arXiv 2105.10762); official code `YuchenJin/autolrs`. Training is cut into
stages of tau updates at one rate each. Before a stage, k candidate rates are tried for tau / ratio
updates, each from the same snapshot; an exponential fitted to each loss series forecasts the loss
at the stage's end; the rate with the lowest forecast trains the stage. With k = ratio = 10 the
search costs as many updates as the training.

`autolrs` wraps any core into one whose every `update` is one update of a candidate or of the stage,
so the ordinary loop runs, logs, saves and resumes it, in the middle of a candidate too. Snapshot,
candidates, loss series and forecasts are state of fixed shape: rollback needs no disk, and the
memory of the state is twice that of the wrapped core.

Deliberate differences from the official code:
- All candidates of a stage see the same batches and random numbers, and the stage starts with the
  same ones; the code streams fresh batches.
- The rate is an argument of the update. In the code the first update after a rollback still runs
  at the rate of the snapshot, and candidates after the first get one update fewer.
- The forecast fits decay rates on a grid refined by golden section, with the series scaled to
  [0, 1]; the code starts Nelder-Mead at one e-fold per update. Outliers are told by their distance
  from that fit, where the code smooths with a quadratic spline.
- A forecast that rises, goes below zero or decays too slowly to be extrapolated is replaced by the
  mean of the last tenth of the series.
- A candidate is never asked for twice; the code answers a repeated one from memory.
- The surrogate is the small exact Gaussian process of `autolrs_models`, not scikit-optimize's:
  with k points in one dimension it is a dozen lines, and the search libraries run on the host,
  where neither a compiled update nor vmap nor a checkpoint could hold their state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain.core import Core, StepOutput
from jaxtrain.schedules.autolrs_models import DIVERGED, fit_exponential, lcb_next
from jaxtrain.schedules.autolrs_phases import (
    AutoLRSConfig,
    Phase,
    check_config,
    growing_stages,
    phase_of,
)

_GRID = 256  # candidate rates, evenly spaced in log10


class AutoLRSState(NamedTuple):
    """State of `autolrs`.

    Attributes:
      inner: state of the wrapped core: of the candidate, or of the stage when it trains.
      snapshot: the same at the start of the stage.
      key: typed key from which batches, updates and first candidates are drawn.
      count: updates done, those of candidates included, int32 `[]`.
      searching: whether the last update belonged to a candidate, bool `[]`.
      rate: rate of the candidate or stage, float32 `[]`.
      candidates: log10 of the rates tried in this stage, float32 `[k]`.
      forecasts: their forecast losses, float32 `[k]`.
      losses: loss series of the present candidate, float32 `[points]`.
      first_loss: loss of the very first update of the first search, float32 `[]`.
      rates: rate chosen for each stage, float32 `[num_stages]`; 0 where there was none yet.
    """

    inner: Any
    snapshot: Any
    key: Array
    count: Array  # type: ignore[assignment]  # shadows tuple.count
    searching: Array
    rate: Array
    candidates: Array
    forecasts: Array
    losses: Array
    first_loss: Array
    rates: Array

    @property
    def trained(self) -> Any:
        """State of the wrapped core without the candidate that may be running."""

        def pick(a: Array, b: Array) -> Array:
            flag = self.searching.reshape(self.searching.shape + (1,) * (a.ndim - self.count.ndim))
            return jnp.where(flag, a, b)

        return jax.tree.map(pick, self.snapshot, self.inner)

    @property
    def params(self) -> Any:
        """Parameters to evaluate: those of `trained`."""
        return self.trained.params


def autolrs(
    build: Callable[[Array], Core],
    config: AutoLRSConfig,
    sample: Callable[[Array, Any], Any] | None = None,
    validate: Callable[[Any], Array] | None = None,
) -> Core:
    """A core that finds its learning rate.

    Args:
      build: rate (traced, `[]`) -> the core that trains with it; the structure of its state must
        not depend on the rate. Its metrics need `loss`.
      config: of the search.
      sample: `(key, batch) -> batch` draws the batch of a position from that position's key and
        from what the loop gives (usually example indices). None uses the loop's batches as they
        are; then `repositioned` gives every candidate the same ones.
      validate: state of the core -> loss `[]` on a small fixed validation set. In the stages after
        the doubling candidates are judged by it, `val_points` times each. None judges by the
        training loss in all stages (the code has no such option). Under vmap it is evaluated in
        every update, because there both sides of a condition are computed.

    Returns:
      A core with `init(key, *args)`, the rest for the wrapped core. The key given to `update` is
      not used: candidates share the random numbers of a position, so they come from the state.
      Metrics are those of the wrapped core, finite even when a candidate diverges (`DIVERGED`
      then), plus `learning_rate`, `searching` (1 for updates of candidates) and `stage`.

    Raises:
      ValueError: an impossible setting, or a core without `loss`.
    """
    check_config(config)
    taus = growing_stages(config)
    most = int(taus[-1]) // config.ratio
    points = max(most, config.val_points)
    log_low, log_high = (jnp.log10(jnp.asarray(x)) for x in (config.min_lr, config.max_lr))
    grid = jnp.asarray(log_low + (log_high - log_low) * jnp.linspace(0, 1, _GRID), jnp.float32)

    def init(key: Array, *args: Any) -> AutoLRSState:
        key_init, key_run = jax.random.split(key)
        inner = build(jnp.float32(config.min_lr)).init(key_init, *args)
        snapshot = jax.tree.map(jnp.copy, inner)
        return AutoLRSState(
            inner=inner,
            snapshot=snapshot,
            key=key_run,
            count=jnp.int32(0),
            searching=jnp.asarray(False),
            rate=jnp.zeros((), jnp.float32),
            candidates=jnp.zeros(config.k, jnp.float32),
            forecasts=jnp.zeros(config.k, jnp.float32),
            losses=jnp.zeros(points, jnp.float32),
            first_loss=jnp.zeros((), jnp.float32),
            rates=jnp.zeros(config.num_stages, jnp.float32),
        )

    def ask(state: AutoLRSState, phase: Phase) -> Array:
        """log10 of the next candidate."""
        first = jax.random.choice(
            jax.random.fold_in(jax.random.fold_in(state.key, 2), phase.stage), grid
        )
        kappa = config.kappa0 * jnp.float32(config.kappa_decay) ** phase.probe
        known = jnp.arange(config.k) < phase.probe
        found = lcb_next(
            state.candidates,
            state.forecasts,
            known,
            grid,
            kappa,
            config.lengthscale,
            config.noise,
        )
        return jnp.where(phase.probe == 0, first, found)

    def start(state: AutoLRSState, phase: Phase) -> AutoLRSState:
        """Before the first update of a candidate or stage: back to the snapshot, at a new rate."""
        snapshot = jax.lax.cond(phase.probe == 0, lambda s: s.inner, lambda s: s.snapshot, state)
        asked = ask(state, phase)
        best = state.candidates[jnp.argmin(state.forecasts)]
        trains = phase.probe == config.k
        rate = 10.0 ** jnp.where(trains, best, asked)
        rates = state.rates.at[phase.stage].set(rate, mode="drop")
        return state._replace(
            inner=snapshot,
            snapshot=snapshot,
            searching=~trains,
            rate=rate,
            candidates=jnp.where(jnp.arange(config.k) == phase.probe, asked, state.candidates),
            losses=jnp.zeros_like(state.losses),
            rates=jnp.where(trains, rates, state.rates),
        )

    def finish(state: AutoLRSState, phase: Phase, validates: Array) -> AutoLRSState:
        """After the last update of a candidate: the forecast."""
        every = jnp.maximum(phase.length // config.val_points, 1)
        count = jnp.where(
            validates, jnp.minimum(phase.length // every, config.val_points), phase.length
        )
        series = fit_exponential(state.losses, config.ratio, count)
        value = series.forecast
        seen = jnp.arange(points) < count
        if validate is not None:
            one = fit_exponential(state.losses, config.ratio, count, drop=1, rounds=1)
            worse = (seen & (state.losses >= state.first_loss)).any()
            judged = jnp.where(worse, state.losses[count - 1], one.forecast)
            value = jnp.where(validates, judged, value)
        diverged = (seen & (state.losses >= DIVERGED)).any()
        value = jnp.where(diverged, DIVERGED, value)
        forecasts = jnp.where(jnp.arange(config.k) == phase.probe, value, state.forecasts)
        return state._replace(forecasts=forecasts)

    def update(state: AutoLRSState, batch: Any, key: Array) -> tuple[AutoLRSState, StepOutput]:
        phase = phase_of(config, state.count)
        warming = state.count < config.warmup_steps
        probing = phase.probe < config.k
        state = jax.lax.cond(
            (phase.step == 0) & ~warming, start, lambda state, _: state, state, phase
        )
        warm = config.warmup_lr * (state.count + 1) / max(config.warmup_steps, 1)
        rate = jnp.where(warming, warm, state.rate)
        key_update, key_data = (
            jax.random.fold_in(jax.random.fold_in(state.key, n), phase.position) for n in (0, 1)
        )
        data = batch if sample is None else sample(key_data, batch)
        inner, out = build(rate).update(state.inner, data, key_update)
        if "loss" not in out.metrics:
            raise ValueError("AutoLRS needs a core whose metrics have 'loss'.")
        loss = out.metrics["loss"]
        floats = [x for x in jax.tree.leaves(inner) if jnp.issubdtype(x.dtype, jnp.inexact)]
        finite = jnp.isfinite(loss)
        for x in floats:
            finite &= jnp.isfinite(x).all()
        # A candidate that diverges goes on from the snapshot, so that the state stays finite.
        inner = jax.lax.cond(
            probing & ~finite, lambda new, old: old, lambda new, old: new, inner, state.snapshot
        )
        cap = lambda x: jnp.where(jnp.isfinite(x), jnp.minimum(x, DIVERGED), DIVERGED)
        noted, place, due = jnp.where(finite, cap(loss), DIVERGED), phase.step, probing
        validates = jnp.asarray(False)
        if validate is not None:
            validates = phase.stage >= len(taus)
            every = jnp.maximum(phase.length // config.val_points, 1)
            due &= ~validates | ((phase.step + 1) % every == 0)
            measured = jax.lax.cond(
                due & validates,
                lambda s: jnp.asarray(validate(s), jnp.float32),
                lambda s: jnp.float32(0),
                inner,
            )
            noted = jnp.where(validates & finite, cap(measured), noted)
            place = jnp.where(validates, phase.step // every, place)
        losses = state.losses.at[place].set(noted, mode="drop")
        first = probing & (phase.stage == 0) & (phase.probe == 0) & (phase.step == 0)
        state = state._replace(
            inner=inner,
            count=optax.safe_increment(state.count),
            losses=jnp.where(due, losses, state.losses),
            first_loss=jnp.where(first, noted, state.first_loss),
        )
        state = jax.lax.cond(
            probing & (phase.step == phase.length - 1),
            finish,
            lambda state, *_: state,
            state,
            phase,
            validates,
        )
        metrics = {n: jnp.where(probing, cap(x), x) for n, x in out.metrics.items()}
        numbers = {"learning_rate": rate, "searching": probing, "stage": phase.stage}
        metrics |= {name: jnp.asarray(x, jnp.float32) for name, x in numbers.items()}
        return state, StepOutput(metrics, out.outputs)

    return Core(init, update)


def replay(config: AutoLRSConfig, rates: ArrayLike) -> optax.Schedule:
    """The schedule that a search found, as a function of the updates that trained.

    Args:
      config: of the search.
      rates: of the stages, `AutoLRSState.rates`; zeros at the end (stages not reached) are ignored.

    Raises:
      ValueError: no rates.
    """
    found = np.trim_zeros(np.asarray(rates, np.float64), "b")
    if not found.size:
        raise ValueError("the search has not chosen a rate yet.")
    growing = growing_stages(config)
    taus = np.append(growing, np.full(len(found), growing[-1]))[: len(found)]
    ends = config.warmup_steps + np.cumsum(taus)
    pieces = [optax.constant_schedule(float(rate)) for rate in found]
    borders = ends[:-1].tolist()
    if config.warmup_steps:
        each = config.warmup_lr / config.warmup_steps
        pieces = [lambda step: each * (step + 1), *pieces]
        borders = [config.warmup_steps, *borders]
    return optax.join_schedules(pieces, borders)


class _Repositioned(NamedTuple):
    pipeline: Any
    config: AutoLRSConfig

    def batch(self, step: int) -> Any:
        return self.pipeline.batch(int(phase_of(self.config, step, np).position))


def repositioned(pipeline: Any, config: AutoLRSConfig) -> Any:
    """A data pipeline for `autolrs`: update `step` of the loop gets the batch of its position."""
    return _Repositioned(pipeline, config)
