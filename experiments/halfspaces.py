"""Halfspaces with a certificate: a tester-learner on inputs that are Gaussian, and on others.

Learns a halfspace from noisy labels by descent on a ramp and tests whether the sample has what
certifies its error. On Gaussian inputs it should accept; on the others it must not, whether or not
the halfspace happens to be good. data.file=mine.npz, with x and y, asks it about a sample of yours.
"""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from experiments.data import halfspace_samples
from experiments.data.halfspace_samples import Sample
from jaxtrain.host import arrays, cli, report
from jaxtrain.host.proportions import percent, wilson
from jaxtta.halfspaces import Verdict, error, tester_learner, unit

Found = dict[str, Any]


def examined(sample: Sample, key: Array, learner: Callable[..., Verdict]) -> Found:
    """What the tester-learner says of one sample, and what is true of it."""
    verdict = learner(key, sample.x, sample.y)
    w = verdict.weights
    return {
        "accepted": verdict.accepted,
        "error": error(w, sample.x, sample.y),
        "opt": error(sample.weights, sample.x, sample.y),
        "angle": jnp.arccos(jnp.clip(w @ sample.weights, -1, 1)),
        "passed": {name: x.any() for name, x in verdict.passed.items()},
        "checks": verdict.checks,
        "weights": w,
    }


def build(config: ConfigDict, setup: cli.Setup) -> cli.Work:
    """Every marginal with every noise and seed in one program, or a sample of one's own."""
    if setup.execution.axis_name is not None:
        raise cli.UsageError("halfspaces runs under --parallel=jit")
    seed, num_seeds, data = config.seed, config.num_seeds, config.data
    options = {name: config.learner[name] for name in config.learner}
    sigmas = jnp.asarray(options.pop("sigmas"), jnp.float32)
    learn = functools.partial(tester_learner, sigmas=sigmas, **options)
    if file := data.file:
        return functools.partial(of_file, halfspace_samples.read(file), learn, seed, num_seeds)
    problems = list(itertools.product(data.marginals, data.noises))
    size = dict(number=data.num_rows, size=data.num_features)
    draw = functools.partial(halfspace_samples.draw, **size)
    draws = [functools.partial(draw, marginal=m, noise=n) for m, n in problems]

    @jax.jit
    def run(keys: Array) -> Found:
        def one(task: tuple[Array, Array]) -> Found:
            problem, key = task
            key_data, key_learner = jax.random.split(key)
            return examined(jax.lax.switch(problem, draws, key_data), key_learner, learn)

        which = jnp.repeat(jnp.arange(len(problems)), num_seeds)
        return jax.lax.map(one, (which, jnp.tile(keys, len(problems))))

    def work(context: cli.Context) -> dict[str, Any]:
        keys = jax.random.split(jax.random.key(seed), num_seeds)
        found = jax.device_get(run(keys))
        by_problem = lambda x: x.reshape(len(problems), num_seeds, *x.shape[1:])
        found = jax.tree.map(by_problem, found)
        of = {
            f"{m}/{n}": jax.tree.map(lambda x, i=i: x[i], found)
            for i, (m, n) in enumerate(problems)
        }
        print(table(of), flush=True)
        shown = [i for i, (_, noise) in enumerate(problems) if noise == problems[0][1]]
        key_data = jax.random.split(keys[0])[0]
        samples = {problems[i][0]: jax.device_get(jax.jit(draws[i])(key_data)) for i in shown}
        firsts = {problems[i][0]: jax.tree.map(lambda x, i=i: x[i, 0], found) for i in shown}
        figure(samples, firsts, context.workdir / "plots" / "halfspaces.png")
        return {name: numbers(one) for name, one in of.items()}

    return work


def of_file(
    sample: Sample, learn: Callable[..., Verdict], seed: int, num_seeds: int, context: cli.Context
) -> dict[str, Any]:
    """The verdict on one sample, once for each way to split it."""
    keys = jax.random.split(jax.random.key(seed), num_seeds)
    run = jax.jit(lambda keys, given: jax.lax.map(lambda k: examined(given, k, learn), keys))
    found = jax.device_get(run(keys, sample))
    print(table({"your sample": found}), flush=True)
    first = jax.tree.map(lambda x: x[0], found)
    path = context.workdir / "plots" / "halfspaces.png"
    figure({"your sample": sample}, {"your sample": first}, path)
    arrays.write(context.workdir / "halfspace.npz", {"weights": found["weights"]})
    return {name: x for name, x in numbers(found).items() if name not in ("opt", "angle")}


def numbers(found: Found) -> dict[str, Any]:
    """A number for every seed: accepted, errors, angle, and which tests passed."""
    named = {f"passed {name}": x * 1.0 for name, x in found["passed"].items()}
    return {name: found[name] * 1.0 for name in ("accepted", "error", "opt", "angle")} | named


def failed(found: Found) -> str:
    """The tests that the samples fail for every sigma, most often failed first."""
    rates = {name: 1 - np.mean(x) for name, x in found["passed"].items()}
    names = sorted((name for name in rates if rates[name] > 0), key=lambda name: -rates[name])
    return ", ".join(f"{name} {rates[name]:.0%}" for name in names)


def table(of: dict[str, Found]) -> str:
    """A line for every marginal and noise."""
    rows = [["marginal/noise", "accepted, %", "opt", "error", "angle", "tests failed"]]
    for name, found in of.items():
        accepted = np.asarray(found["accepted"])
        known = np.isfinite(found["angle"]).all()
        mean = lambda key, found=found: f"{np.mean(found[key]):.3f}"
        interval = percent(wilson(accepted.mean(), len(accepted)))
        opt, angle = (mean(key) if known else "" for key in ("opt", "angle"))
        rows.append([name, interval, opt, mean("error"), angle, failed(found)])
    return report.grid(rows)


def figure(samples: dict[str, Sample], firsts: dict[str, Found], path: Path) -> None:
    """A panel per marginal: points in the plane of the found normal and a direction across it."""
    columns = min(len(samples), 4)
    rows = -(-len(samples) // columns)
    with report.figure_style():
        drawn = report.new_figure(3.2 * columns, 3.4 * rows)
        panels = np.ravel(drawn.subplots(rows, columns, squeeze=False))
        for axes in panels[len(samples) :]:
            axes.set_axis_off()
        for axes, (name, sample) in zip(panels, samples.items(), strict=False):
            found = firsts[name]
            w = found["weights"]
            across = sample.across if np.isfinite(sample.across).all() else np.eye(len(w))[0]
            across = np.asarray(unit(jnp.asarray(across - (across @ w) * w)))
            x, y = np.asarray(sample.x)[:1500], np.asarray(sample.y)[:1500]
            for label, colour in ((1, report.COLORS[0]), (-1, report.COLORS[1])):
                one = x[y == label]
                axes.scatter(one @ across, one @ w, s=3, color=colour, alpha=0.5, linewidth=0)
            axes.axhline(0, color="black", linewidth=1)
            said = "accepted" if found["accepted"] else "rejected"
            why = [key for key, passed in found["passed"].items() if not passed]
            axes.set_title(f"{name}: {said}", color=report.COLORS[2 if found["accepted"] else 1])
            axes.set_xlabel(", ".join(why[:2]) or "every test passed", fontsize=8)
            axes.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal")
        drawn.tight_layout()
        report.save_figure(drawn, path)


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    if config.learner.num_steps % 16:
        raise cli.UsageError(
            f"learner.num_steps={config.learner.num_steps} must be a multiple of 16"
        )


main = functools.partial(
    cli.main,
    build,
    validate=validate,
    without=cli.one_process("it runs in one process")
    | {
        "sweep": "its seeds are rows of one program; set num_seeds",
        "profile": "it has no training steps of a loop",
    },
)

if __name__ == "__main__":
    main()
