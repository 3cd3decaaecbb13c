"""With a verifier or without: copy experts, or be paid for what one writes oneself.

A base policy imitates experts of the planted subsequence, some quick and some slow. From there one
copy goes on imitating new traces, and another learns by policy gradient from what a verifier pays
for as many responses of its own. The gap between the two should grow with the horizon and with how
different the experts are, and be zero for experts that are all alike and never err.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from experiments.lm.by_setting import bootstrap, over_trials, settings_of, shown, table, values_of
from experiments.lm.demonstrations import decoder_of, example, imitator
from jaxrl.lm.learners import Examples, LearnerState, finetune
from jaxrl.lm.policy_gradient import policy_gradient, watched_progress
from jaxrl.lm.samples import sampled
from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.planted import CONTENT, earned, expert, planted, verification_gap
from jaxrl.lm.tasks.task import Task
from jaxtrain.core import Core, StepOutput
from jaxtrain.host import cli, report, schedules
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.lm.decoder import Decoder
from jaxtrain.lm.logits import Options
from jaxtrain.optimizers import adam
from jaxtrain.parallel import AxisName


class Rivals(NamedTuple):
    """State at one horizon: the learner that copies, and the one that is paid."""

    copied: LearnerState
    verified: LearnerState


class Contest(NamedTuple):
    """State of all: the base, and the rivals of every horizon, named by its number."""

    params: Any
    rivals: dict[str, Rivals]


def rates_of(options: ConfigDict) -> Array:
    """Rates of the experts: `spread` 1 takes those of the config, 0 their mean for all."""
    rates = jnp.asarray(options.rates)
    return rates.mean() + options.spread * (rates - rates.mean())


def options_of(model: Decoder) -> Options:
    """Only content may be written, and no end: every response has the length of the horizon."""
    forbidden = jnp.ones(model.config.vocabulary, bool).at[symbols.ids(CONTENT)].set(False)
    return Options(forbidden=forbidden)


def demonstrated(options: ConfigDict, task: Task, horizon: int, key: Array) -> Examples:
    """A trace of one of the experts, who come equally often; the loss is on the trace."""
    keys = jax.random.split(key, 3)
    problem = jax.tree.map(lambda x: x[0], task.sample(keys[0], 1))
    rate = jax.random.choice(keys[1], rates_of(options))
    trace = expert(keys[2], problem, rate, horizon)
    return example(task.encode(problem), symbols.Symbols(trace, jnp.ones(horizon, bool)))


def build_core(config: ConfigDict, model: Decoder, axis_name: AxisName | None = None) -> Core:
    """Both learners at all horizons; numbers of the config may be traced."""
    options, size = config.experts, config.experts.group_size
    task, choice = planted(options.length), options_of(model)
    optimizer = adam(schedules.from_config(config), max_norm=1.0)

    def rivals(horizon: int) -> tuple[Core, Core]:
        paid = lambda problem, verdict, tokens, valid: earned(problem, tokens, valid) / horizon
        verified = policy_gradient(
            model,
            task,
            optimizer,
            group_size=size,
            room=horizon,
            reward=paid,
            options=choice,
            axis_name=axis_name,
        )
        return finetune(model, optimizer, axis_name=axis_name), verified

    cores = {f"{horizon}": rivals(horizon) for horizon in options.horizons}
    demonstrate = functools.partial(demonstrated, options, task)
    base = imitator(model, config.base, functools.partial(demonstrate, max(options.horizons)))

    def init(key: Array) -> Contest:
        params = base(key)
        begun = {h: Rivals(copy.init(params), pay.init(params)) for h, (copy, pay) in cores.items()}
        return Contest(params, begun)

    def traces(places: Array, key: Array, horizon: int) -> Examples:
        several = lambda place: jax.random.split(jax.random.fold_in(key, place), size)
        keys = jax.vmap(several)(places).reshape(-1)
        return jax.vmap(functools.partial(demonstrate, horizon))(keys)

    def update(state: Contest, places: Array, key: Array) -> tuple[Contest, StepOutput]:
        metrics, after = {}, {}
        for name, (copy, pay) in cores.items():
            own = jax.random.split(jax.random.fold_in(key, int(name)), 3)
            mine = state.rivals[name]
            copied, said = copy.update(mine.copied, traces(places, own[0], int(name)), own[1])
            verified, out = pay.update(mine.verified, places, own[2])
            after[name] = Rivals(copied, verified)
            kept = ("reward", "equal_groups", "entropy", "largest_mismatch")
            metrics |= {f"{what}_{name}": out.metrics[what] for what in kept}
            metrics[f"copied_loss_{name}"] = said.metrics["loss"]
        return state._replace(rivals=after), StepOutput(metrics)

    return Core(init, update)


def measured(
    model: Decoder, num_problems: int, state: Contest, config: ConfigDict, key: Array
) -> dict[str, Array]:
    """What every policy earns at each horizon with one response to each problem, and the laws.

    Args:
      model: the language model.
      num_problems: how many are asked.
      state: of one trial.
      config: of it; its numbers may be traced.
      key: of problems and responses, which all policies of a horizon share.

    Returns:
      `base_H`, `copied_H`, `verified_H` and `gap_H` in tokens, `[problems]`; of the experts what
      they earn, its standard deviation `sigma_H` and the chance `above_H` to earn half of it more
      than the mean, `[1]`.
    """
    options, rates, found = config.experts, rates_of(config.experts), {}
    task, places = planted(options.length), jnp.arange(num_problems)
    paid = lambda problem, verdict, tokens, valid: earned(problem, tokens, valid)
    write = functools.partial(
        sampled, model, task, group_size=1, reward=paid, options=options_of(model)
    )
    for horizon in options.horizons:
        own = state.rivals[f"{horizon}"]
        policies = state.params, own.copied.params, own.verified.params
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *policies)
        returns = lambda params, h=horizon: write(params, places, key, room=h).reward[:, 0, 0]
        each = jax.lax.map(returns, stacked).astype(jnp.float32)
        for name, values in zip(("base", "copied", "verified"), each, strict=True):
            found[f"{name}_{horizon}"] = values
        found[f"gap_{horizon}"] = found[f"verified_{horizon}"] - found[f"copied_{horizon}"]
        weights = jnp.full(len(rates), 1 / len(rates))
        law = verification_gap(rates, weights, options.length, horizon)
        found[f"experts_{horizon}"] = law.copied[None]
        found[f"sigma_{horizon}"] = jnp.sqrt(jnp.maximum(law.variance, 0))[None]
        found[f"above_{horizon}"] = law.above[None]
    return found


def training(config: ConfigDict, setup: cli.Setup) -> Training:
    """Both learners; measures what they earn at each horizon, and the exact laws beside it."""
    options, axes, model = config.experts, setup.sweep, decoder_of(config.model)
    horizons, length, spread = options.horizons, options.length, options.spread
    every = over_trials(functools.partial(measured, model, options.test_problems), config, axes)

    def evaluate(run: Finished) -> Results:
        found = {name: np.asarray(x) for name, x in every(run.state, run.key).items()}
        if jax.process_index() == 0:
            by_trial = {n: x if axes is not None else x[None] for n, x in found.items()}
            spreads = values_of(axes, "experts.spread", spread)
            show(by_trial, settings_of(axes), horizons)
            draw(by_trial, spreads, horizons, length, run)
        return {name: values.mean(-1) for name, values in found.items()}

    return Training(
        core=lambda config, axis_name: build_core(config, model, axis_name),
        show=tuple(f"reward_{horizon}" for horizon in horizons),
        check=watched_progress,
        evaluate=evaluate,
    )


def show(
    found: dict[str, np.ndarray], trials: dict[str, list[int]], horizons: tuple[int, ...]
) -> None:
    """Prints what each learner earns, in tokens, a line per setting and horizon.

    Args:
      found: name -> values, `[trials, problems]`.
      trials: setting -> its trials.
      horizons: H.
    """
    rows = {}
    for name, chosen in trials.items():
        for h in horizons:
            cells = [f"{found[f'{x}_{h}'][chosen].mean():.2f}" for x in ("sigma", "experts")]
            learned = [bootstrap(found[f"{x}_{h}"][chosen]) for x in ("copied", "verified", "gap")]
            rows[f"{name} H={h}"] = [*cells, *(shown(x, 2) for x in learned)]
    columns = ["sigma", "experts", "copied", "verified", "gap"]
    print(table("tokens earned", columns, rows), flush=True)


def draw(
    found: dict[str, np.ndarray],
    spreads: np.ndarray,
    horizons: tuple[int, ...],
    length: int,
    run: Finished,
) -> None:
    """The gap against the horizon and against sigma."""
    with report.figure_style():
        figure = report.new_figure(8.6, 3.6)
        left, right = figure.subplots(1, 2)
        for color, spread in zip(report.COLORS, np.unique(spreads), strict=False):
            mine = spreads == spread
            gaps = bootstrap(np.stack([found[f"gap_{h}"][mine] for h in horizons]))
            report.draw_interval(left, horizons, gaps, label=f"spread {spread:g}", color=color)
            best = [h - length + 1 - found[f"experts_{h}"][mine].mean() for h in horizons]
            left.plot(horizons, best, color=color, linestyle=":")
            sigma = [found[f"sigma_{h}"][mine].mean() for h in horizons]
            right.errorbar(
                sigma,
                gaps.value,
                yerr=[gaps.value - gaps.low, gaps.high - gaps.value],
                fmt="o-",
                color=color,
            )
        left.set(xlabel="horizon H", ylabel="tokens that the verifier is worth")
        left.set_title("gap; dotted: the most there can be")
        left.set_xticks(horizons)
        left.legend(fontsize=7)
        right.set(xlabel="sigma of the experts, exact", title="against heterogeneity")
        figure.tight_layout()
        report.save_figure(figure, run.workdir / "plots" / "verification.png")
