"""Schedules on noisy convex problems: the last iterate in practice, and against its bound.

Practice: logistic regression with flipped labels, which no model interpolates, and least absolute
deviations with few active features per example. Theory: least absolute deviations, where the
minimiser, the distance to it and the gradient bound are known.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from experiments.schedules.trials import looked_up, product, rate_table, show, train_trials, tuned
from jaxtrain import schedules
from jaxtrain.core import Core, Model, supervised
from jaxtrain.host import cli, report
from jaxtrain.host.sweep import Axes, swept
from jaxtrain.schedules import refinement

OPTIMIZERS = {
    "adam": (optax.adam, "l1"),
    "sgd": (lambda learning_rate: optax.sgd(learning_rate, momentum=0.9), "l2"),
}
Data = tuple[Array, Array]  # features [seeds, n, d], labels in {-1, 1} [seeds, n]


def logistic_data(config: ConfigDict) -> Data:
    """One problem per seed: log-normal feature scales, labels of a linear rule, some flipped."""
    options = config.convex

    def one(key: Array) -> tuple[Array, Array]:
        keys = jax.random.split(key, 4)
        scale = jnp.exp(jax.random.normal(keys[0], (1, options.features)))
        x = scale * jax.random.normal(keys[1], (options.examples, options.features))
        rule = jax.random.normal(keys[2], (options.features,)) / scale[0]
        flipped = jax.random.bernoulli(keys[3], options.flips, (options.examples,))
        return x, jnp.where(flipped, -1.0, 1.0) * jnp.sign(x @ rule)

    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 7), config.num_seeds)
    return jax.jit(jax.vmap(one))(keys)


def logistic_core(config: ConfigDict, data: Data, table: Array, axes: Axes, optimizer: str) -> Core:
    """Training of all trials; every one records its gradient norms."""
    x, y = data
    factory, ord = OPTIMIZERS[optimizer]

    def build(values: dict[str, Array]) -> Core:
        seed = values["seed"]
        model = Model(
            lambda key, inputs: (jnp.zeros(x.shape[-1]), ()),
            lambda params, state, inputs, **_: (x[seed, inputs] @ params, state),
        )
        loss = lambda outputs, batch: (
            jax.nn.softplus(-y[seed, batch["inputs"]] * outputs).mean(),
            {},
        )
        scheduled = schedules.scheduled(factory, looked_up(table, values))
        norms = refinement.record_grad_norms(table.shape[1], ord)
        core = supervised(model, loss, optax.chain(norms, scheduled))
        return Core(lambda key: core.init(key, {"inputs": jnp.zeros(1, jnp.int32)}), core.update)

    def sample(key: Array, index: Array) -> dict[str, Array]:
        return {"inputs": jax.random.randint(key, index.shape, 0, x.shape[1])}

    return swept(build, axes, sample)


def full_losses(data: Data, params: Array, seeds: np.ndarray) -> np.ndarray:
    """Loss of every trial on its whole training set, `[trials]`."""
    x, y = data
    loss = lambda trial: jax.nn.softplus(-y[trial[1]] * (x[trial[1]] @ trial[0])).mean()
    return np.asarray(jax.jit(lambda p, s: jax.lax.map(loss, (p, s)))(params, jnp.asarray(seeds)))


def compare(config: ConfigDict, context: cli.Context, optimizer: str) -> dict[str, np.ndarray]:
    """Final training loss per schedule at its own best peak, `[seeds]`, refined one included."""
    data, options = logistic_data(config), config.convex
    names, num_steps = list(options.schedules), config.num_steps
    peaks = options.peaks[optimizer]

    def run(label: str, table: Array) -> tuple[np.ndarray, Any]:
        seeds = range(config.num_seeds)
        axes = product(schedule=range(len(table)), peak=peaks, seed=seeds)
        core = logistic_core(config, data, table, axes, optimizer)
        state = train_trials(config, context, f"{optimizer}_{label}", core, num_steps)
        losses = full_losses(data, state.params, axes.values["seed"])
        return losses.reshape(len(table), len(peaks), -1), state

    table = rate_table(names, num_steps, options.warmup)
    losses, state = run("schedules", table)
    best_losses, best = tuned(losses)
    linear = names.index("linear")
    norms = refinement.recorded_norms(state).reshape(*losses.shape, num_steps)
    trace = np.median(norms[linear, best[linear]], axis=0)
    mode = "adam" if optimizer == "adam" else "sgd"
    shape = refinement.refine_schedule(trace, mode)
    refined_losses, refined_best = tuned(run("refined", jnp.asarray(shape)[None])[0])
    found = dict(zip(names, best_losses, strict=True)) | {"refined": refined_losses[0]}
    chosen = dict(zip(names, best, strict=True)) | {"refined": refined_best[0]}
    show(
        f"logistic regression, {optimizer}: final training loss, {num_steps} updates",
        found,
        lambda name: f"peak {peaks[chosen[name]]:g}",
    )
    draw(
        found,
        dict(zip([*names, "refined"], [*table, shape], strict=True)),
        trace,
        context.workdir / "plots" / f"convex_{optimizer}.png",
        optimizer,
    )
    return {f"{optimizer}/{name}": values for name, values in found.items()}


def draw(found: dict, shapes: dict, trace: np.ndarray, path: Any, optimizer: str) -> None:
    """Shapes of the schedules, the trace behind the refined one, and the losses they reach."""
    with report.figure_style():
        figure = report.new_figure(11, 3.4)
        left, middle, right = figure.subplots(1, 3)
        for name, shape in shapes.items():
            left.plot(np.linspace(0, 1, len(shape)), shape, label=name)
        left.set(xlabel="share of the run", ylabel="rate / peak", title=f"schedules ({optimizer})")
        left.legend(fontsize=6)
        middle.plot(trace, linewidth=0.6, color=report.COLORS[5])
        middle.plot(refinement.smooth_norms(trace), color=report.COLORS[0])
        middle.set(xlabel="step", title="gradient norm, raw and smoothed", yscale="log")
        for i, values in enumerate(found.values()):
            mean, low, high = report.interval(values)
            right.errorbar(
                mean,
                i,
                xerr=[[mean - low], [high - mean]],
                fmt="o",
                color=report.COLORS[i % len(report.COLORS)],
            )
        right.set_yticks(range(len(found)), list(found))
        right.set(xlabel="final training loss", title="best peak each, 95 % interval")
        figure.tight_layout()
        report.save_figure(figure, path)


def bound_study(config: ConfigDict, context: cli.Context) -> dict[str, np.ndarray]:
    """Gap of the last iterate divided by the bound D G / sqrt T, `[problems]` per name.

    Minimises mean |a (x - x*) - e| over rows (a, e) that occur with +e and -e, so that x* is a
    minimiser. All schedules start from the theory's peak D / (G sqrt T), nothing is tuned. The
    bound is for linear decay; the others show that it is not met by itself.
    """
    options = config.convex
    names = ("linear", "cosine", "constant", "inverse_sqrt", "table(values=(0, 1))")
    found: dict[str, np.ndarray] = {}

    def ratios(key: Array, rates: Array) -> Array:
        num_steps = rates.shape[1]
        keys = jax.random.split(key, 4)
        a = jax.random.normal(keys[0], (options.lad_rows, options.lad_features))
        target = jax.random.normal(keys[1], (options.lad_features,))
        e = jax.random.exponential(keys[2], (options.lad_rows,))
        bound_g, distance = jnp.linalg.norm(a, axis=1).max(), jnp.linalg.norm(target)
        unit = distance / (bound_g * jnp.sqrt(num_steps))

        def last(key: Array, row: Array) -> Array:
            def body(x: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
                eta, key = step
                key_row, key_sign = jax.random.split(key)
                i = jax.random.randint(key_row, (), 0, len(a))
                noise = e[i] * jax.random.rademacher(key_sign, (), jnp.float32)
                return x - eta * jnp.sign(a[i] @ (x - target) - noise) * a[i], None

            x, _ = jax.lax.scan(
                body, jnp.zeros_like(target), (unit * row, jax.random.split(key, num_steps))
            )
            errors = a @ (x - target)
            return (jnp.abs(errors - e) + jnp.abs(errors + e)).mean() / 2 - e.mean()

        draws = jax.random.split(keys[3], options.lad_draws)
        gaps = jax.vmap(lambda row: jax.vmap(last, (0, None))(draws, row).mean())(rates)
        return gaps / (distance * bound_g / jnp.sqrt(num_steps))

    for num_steps in options.lad_steps:
        rates = rate_table(names, num_steps, 0.0)
        keys = jax.random.split(
            jax.random.fold_in(jax.random.key(config.seed), 8), options.lad_problems
        )
        values = np.asarray(
            jax.jit(lambda k, r: jax.lax.map(lambda key: ratios(key, r), k))(keys, rates)
        )
        found |= {f"bound/{n}/{num_steps}": values[:, i] for i, n in enumerate(names)}
    rows = [["gap of the last iterate / (D G / sqrt T)", "mean", "largest"]]
    rows += [[name, f"{v.mean():.3f}", f"{v.max():.3f}"] for name, v in found.items()]
    print(
        f"\nleast absolute deviations, {options.lad_problems} problems\n{report.grid(rows)}",
        flush=True,
    )
    return found


def sparse_study(config: ConfigDict) -> dict[str, np.ndarray]:
    """Gap of the last iterate of SGD at each schedule's best peak, `[seeds]` per schedule.

    Minimises E |a . (x - x*) - e| over examples with a few normal features and Laplace noise e. The
    objective is not smooth, and a coordinate is met in few updates: a schedule has to go far and
    still end with small steps. Smooth problems ask for the second only.
    """
    options, number = config.convex.sparse, config.convex.sparse.features
    names = list(config.convex.schedules)
    table = rate_table(names, options.num_steps, config.convex.warmup)
    peaks = jnp.asarray(options.peaks)

    def example(key: Array) -> tuple[Array, Array, Array]:
        key_place, key_value, key_noise = jax.random.split(key, 3)
        place = jax.random.choice(key_place, number, (options.active,), replace=False)
        value = jax.random.normal(key_value, (options.active,))
        return place, value, options.noise * jax.random.laplace(key_noise)

    def last_gap(key: Array, rates: Array) -> Array:
        key_target, key_run, key_test = jax.random.split(key, 3)
        target = jax.random.normal(key_target, (number,))

        def body(x: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
            eta, key = step
            place, value, noise = example(key)
            residual = value @ (x[place] - target[place]) - noise
            return x.at[place].add(-eta * jnp.sign(residual) * value), None

        keys = jax.random.split(key_run, options.num_steps)
        x, _ = jax.lax.scan(body, jnp.zeros(number), (rates, keys))
        place, value, noise = jax.vmap(example)(jax.random.split(key_test, options.test_examples))
        errors = (value * (x[place] - target[place])).sum(1)
        return (jnp.abs(errors - noise) - jnp.abs(noise)).mean()

    def of_seed(key: Array) -> Array:  # [schedules, peaks]
        draws = jax.random.split(key, options.draws)
        one = lambda row, peak: jax.lax.map(lambda k: last_gap(k, peak * row), draws).mean()
        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(table, peaks)

    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 9), config.num_seeds)
    gaps = np.asarray(jax.jit(lambda keys: jax.lax.map(of_seed, keys))(keys))
    values, best = tuned(np.moveaxis(gaps, 0, -1))
    show(
        f"sparse least absolute deviations: gap of the last iterate, {options.num_steps} updates",
        dict(zip(names, values, strict=True)),
        lambda name: f"peak {options.peaks[best[names.index(name)]]:g}",
    )
    return {f"sparse/{name}": row for name, row in zip(names, values, strict=True)}


def run(config: ConfigDict, context: cli.Context) -> dict[str, Any]:
    """All problems, the logistic one for every optimiser named."""
    found = bound_study(config, context) | sparse_study(config)
    for optimizer in config.convex.optimizers:
        found |= compare(config, context, optimizer)
    return found


def validate(config: ConfigDict) -> None:
    """Raises UsageError for what cannot be run."""
    options = config.convex
    if "linear" not in options.schedules:
        raise cli.UsageError("convex.schedules must hold 'linear', whose norms are refined")
    rate_table(options.schedules, config.num_steps, options.warmup)
    rate_table(options.schedules, options.sparse.num_steps, options.warmup)
    if not 1 <= options.sparse.active <= options.sparse.features:
        raise cli.UsageError(
            f"convex.sparse.active={options.sparse.active} must be between 1 and "
            f"convex.sparse.features={options.sparse.features}"
        )
