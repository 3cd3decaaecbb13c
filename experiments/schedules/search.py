"""AutoLRS against fixed schedules on a small network: updates to a target loss, search included.

Labels come from a random teacher network and some of them are wrong, so the best rate falls with
time. The target is the held-out loss that the default schedule reaches at the end of its budget.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array
from ml_collections import ConfigDict

from experiments.schedules.trials import looked_up, product, rate_table, show, train_trials
from jaxtrain.core import Core, supervised
from jaxtrain.host import cli, report, schedules
from jaxtrain.host.sweep import swept
from jaxtrain.nets import from_linen
from jaxtrain.schedules import scheduled
from jaxtrain.schedules.autolrs import autolrs


class Network(nn.Module):
    """Two hidden layers: `[batch, features]` -> logits `[batch, classes]`."""

    width: int
    classes: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        x = nn.relu(nn.Dense(self.width)(inputs))
        x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(self.classes)(x)


def cross_entropy(logits: Array, batch: Any) -> tuple[Array, dict[str, Array]]:
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean(), {}


def labelled(config: ConfigDict, key: Array, size: int) -> dict[str, Array]:
    """Inputs `[size, features]` and labels of the teacher, a share of them random."""
    options = config.search
    teacher_key = jax.random.fold_in(jax.random.key(config.seed), 11)
    first, second = jax.random.split(teacher_key)
    hidden = jax.random.normal(first, (options.features, 32)) / np.sqrt(options.features)
    out = jax.random.normal(second, (32, options.classes))
    keys = jax.random.split(key, 3)
    x = jax.random.normal(keys[0], (size, options.features))
    labels = (jnp.tanh(3 * x @ hidden) @ out).argmax(-1)
    wrong = jax.random.bernoulli(keys[1], options.wrong_labels, (size,))
    return {
        "inputs": x,
        "labels": jnp.where(
            wrong, jax.random.randint(keys[2], (size,), 0, options.classes), labels
        ),
    }


def parts(config: ConfigDict) -> tuple[Callable[[Any], Core], Callable, Callable, Callable]:
    """Core from schedule, batch sampler, loss on held-out data, loss on validation data."""
    options = config.search
    model = from_linen(Network(options.width, options.classes))
    example = {"inputs": jnp.zeros((1, options.features))}

    def build(schedule: Any) -> Core:
        sgd = lambda learning_rate: optax.sgd(learning_rate, momentum=options.momentum)
        tx = scheduled(sgd, schedule) if callable(schedule) else sgd(schedule)
        core = supervised(model, cross_entropy, tx)
        return Core(lambda key: core.init(key, example), core.update)

    def sample(key: Array, index: Array) -> dict[str, Array]:
        return labelled(config, key, len(index))

    def loss_on(number: int, size: int) -> Callable[[Any], Array]:
        data = labelled(config, jax.random.fold_in(jax.random.key(config.seed), number), size)
        return lambda params: cross_entropy(
            model.apply(params, {}, data["inputs"], key=None, train=False)[0], data
        )[0]

    return build, sample, loss_on(12, options.test_examples), loss_on(13, options.valid_examples)


def run(config: ConfigDict, context: cli.Context) -> dict[str, Any]:
    """Held-out loss along the run for AutoLRS and for every fixed schedule and rate."""
    options, seeds = config.search, range(config.num_seeds)
    build, sample, test_loss, valid_loss = parts(config)
    evaluate_all = jax.jit(lambda params: jax.lax.map(test_loss, params))

    def evaluate(state: Any, step: int, key: Array) -> dict[str, Array]:
        return {"test_loss": evaluate_all(state.params)}

    watch = dict(evaluate=evaluate, eval_every=config.log_every)
    search = schedules.autolrs_config(config)
    assert search is not None  # `validate` said so
    validate_with = (lambda state: valid_loss(state.params)) if options.validates else None
    # Control: one random candidate per stage, so nothing is compared.
    searches = {"autolrs": search, "random": search._replace(k=1)}
    states = {}
    for name, settings in searches.items():
        control = functools.partial(autolrs, build, settings, sample, validate_with)
        core = swept(lambda values, control=control: control(), product(seed=seeds))
        states[name] = train_trials(config, context, name, core, config.num_steps, **watch)
    names = [options.default, *options.schedules]
    rates = sorted({*options.rates, config.optimizer.learning_rate})
    table = rate_table(names, config.num_steps, options.warmup)
    axes = product(schedule=range(len(names)), peak=rates, seed=seeds)
    fixed = swept(lambda values: build(looked_up(table, values)), axes, sample)
    train_trials(config, context, "fixed", fixed, config.num_steps, **watch)

    curves = {
        name: report.read_metrics(context.workdir / name)["eval/test_loss"]
        for name in (*searches, "fixed")
    }
    steps, mine = curves["autolrs"]
    others = curves["fixed"].values.reshape(len(steps), len(names), len(rates), -1)
    default = others[:, 0, rates.index(config.optimizer.learning_rate)]
    randomly = curves["random"].values
    found = dict(steps=steps, mine=mine, randomly=randomly, default=default, others=others)
    return results(config, context, **found, names=names, rates=rates, state=states["autolrs"])


def first_below(steps: np.ndarray, losses: np.ndarray, target: np.ndarray) -> np.ndarray:
    """First evaluated step at which each seed's loss is at most its target; NaN for never."""
    below = losses <= target
    return np.where(below.any(0), steps[below.argmax(0)], np.nan)


def results(
    config: ConfigDict,
    context: cli.Context,
    *,
    steps: np.ndarray,
    mine: np.ndarray,
    randomly: np.ndarray,
    default: np.ndarray,
    others: np.ndarray,
    names: list[str],
    rates: list[float],
    state: Any,
) -> dict[str, Any]:
    """Tables and figure. `mine`, `randomly`, `default` are `[evaluations, seeds]`."""
    rate = config.optimizer.learning_rate
    target = default[-1]
    means = np.where(np.isfinite(others[-1]), others[-1], np.inf).mean(-1)
    best = {name: int(means[i].argmin()) for i, name in enumerate(names)}
    curves = {"AutoLRS, search included": mine, f"default: {names[0]}, {rate:g}": default}
    curves |= {
        f"{n}, best of {len(rates)} rates": others[:, i, best[n]] for i, n in enumerate(names)
    }
    curves["control: one random rate per stage"] = randomly
    note = lambda name: next(
        (f"rate {rates[best[n]]:g}" for n in names if name.startswith(f"{n}, best")), ""
    )
    show("held-out loss at the end of the budget", {n: c[-1] for n, c in curves.items()}, note)
    reached = {name: first_below(steps, curve, target) for name, curve in curves.items()}
    show(f"updates to the default's final loss (budget {steps[-1]})", reached, note)
    chosen = np.asarray(state.rates)
    print("rates that AutoLRS chose, one row per seed")
    for row in chosen:
        print("  " + " ".join(f"{rate:.2e}" for rate in row[row > 0]), flush=True)
    draw(curves, steps, target.mean(), context)
    found: dict[str, Any] = {f"final/{name}": curve[-1] for name, curve in curves.items()}
    found |= {f"updates_to_target/{name}": values for name, values in reached.items()}
    return found | {"speed_up": default.shape[0] * steps[0] / reached["AutoLRS, search included"]}


def draw(curves: dict[str, np.ndarray], steps: np.ndarray, target: float, context: Any) -> None:
    """Held-out loss along the run, and the rates that the search applied."""
    applied = report.read_metrics(context.workdir / "autolrs")["learning_rate"]
    with report.figure_style():
        figure = report.new_figure(10, 3.6)
        left, right = figure.subplots(1, 2)
        for name, curve in curves.items():
            if np.isfinite(curve).all() and "control" not in name:
                report.draw_band(left, steps, curve, label=name)
        left.axhline(target, color="#888888", linewidth=0.8, linestyle=":")
        left.set(xlabel="update, those of the search included", ylabel="held-out loss")
        left.legend(fontsize=7)
        right.plot(applied.steps, applied.values, linewidth=0.9)
        right.set(
            xlabel="update",
            ylabel="rate applied",
            yscale="log",
            title="AutoLRS, a line per seed, candidates included",
        )
        figure.tight_layout()
        report.save_figure(figure, context.workdir / "plots" / "autolrs.png")


def validate(config: ConfigDict) -> None:
    """Raises UsageError for what cannot be run."""
    search = schedules.autolrs_config(config)
    if search is None:
        raise cli.UsageError(
            f"optimizer.schedule={config.optimizer.schedule!r}, but this study needs "
            "'autolrs(min_lr=..., max_lr=...)'"
        )
    autolrs(parts(config)[0], search)
    rate_table(
        [config.search.default, *config.search.schedules], config.num_steps, config.search.warmup
    )
