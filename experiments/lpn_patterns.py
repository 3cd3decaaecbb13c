"""Latent Program Network on pattern tasks: train, search, and measure accuracy against search
steps.

A task hides a small coloured pattern; its demonstrations show where the pattern goes. Held-out
tasks are predicted leave-one-out, from the mean latent and after searching the latent space.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from experiments.data.patterns import sample_task
from experiments.lpn import figures
from experiments.lpn.evaluation import latent_report
from experiments.lpn.micro_batches import num_micro_batches, settled
from experiments.lpn.pattern_evaluation import evaluation, held_out
from experiments.lpn.searches import build_method
from experiments.lpn.settings import (
    SWEEPABLE,
    build_core,
    build_model,
    check_demonstrations,
)
from experiments.lpn.weights import read_params
from jaxtrain.core import Core
from jaxtrain.host import cli, experiment, schedules, sweep
from jaxtrain.host.config import UsageError
from jaxtrain.host.data import Generated
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.host.files import write_json
from jaxtrain.parallel import AxisName, num_shards
from jaxtta import lpn as lpn_
from jaxtta.lpn import LPN


def sampler(config: ConfigDict) -> Callable[[Array, Array], tuple[lpn_.Tasks]]:
    """`(key, index [b]) -> batch`: the tasks with these places in the batch, made on the device."""
    tasks, size = config.data.to_dict(), config.batch_size
    number = size // (config.micro_batch or size)

    def sample(key: Array, index: Array) -> tuple[lpn_.Tasks]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
        pairs = jax.vmap(lambda k: sample_task(k, **tasks))(keys)
        return lpn_.cut(pairs, index, number)

    return sample


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """Trains, evaluates and draws figures; final numbers are one per trial in a sweep."""
    num_micro_batches(config, num_shards(setup.execution.mesh))
    lpn, sample = build_model(config), sampler(config)
    measure, draw = evaluation(config, lpn), drawing(config, lpn)
    draws_itself = schedules.autolrs_config(config) is not None

    def core(config: ConfigDict, axis_name: AxisName | None) -> Core:
        return build_core(config, lpn, axis_name=axis_name, sample=sample if draws_itself else None)

    def measured(state: Any, key: Array, *, final: bool) -> Results:
        every = [
            jax.device_get(measure(params, key, final))
            for params in sweep.trials(state.params, setup.sweep)
        ]
        if setup.sweep is None:
            return every[0]
        return {name: np.stack([trial[name] for trial in every]) for name in every[0]}

    def evaluate(run: Finished) -> Results:
        return dict(sorted(measured(run.state, run.key, final=True).items()))

    def report(run: Finished, results: Results) -> None:
        experiment.show(results)
        first = jax.device_get(sweep.trials(run.state.params, run.sweep)[0])
        draw(run, first, results)

    return Training(
        core=core,
        data=None if draws_itself else Generated(sample, config.batch_size),
        show=("loss", "teacher_forced_accuracy", "grad_norm", "learning_rate"),
        watch=lambda state, step, key: measured(state, key, final=False),
        evaluate=evaluate,
        report=report,
        read_params=functools.partial(read_params, lpn),
    )


def drawing(config: ConfigDict, lpn: LPN) -> Callable[[Finished, Any, Results], None]:
    """`(run, params, results)` draws accuracy against search steps, predictions, the latent space;
    nothing for the in-context baseline, which has none of them."""
    if config.train.mode == "in_context":
        return lambda run, params, results: None
    long, short = tuple(config.evaluation.ascent_steps), tuple(config.evaluation.short_steps)
    ascent = build_method(config.evaluation.search, "gradient_ascent")
    tasks, shape = held_out(config), (config.model.max_rows, config.model.max_cols)

    def draw(run: Finished, params: Any, results: Results) -> None:
        folder = run.workdir / "plots"
        folder.mkdir(parents=True, exist_ok=True)
        curves = {}
        for suffix, label, further in (
            ("", "encoder start", long),
            ("_no_encoder", "start from N(0, I)", short),
            ("_shuffled", "shuffled demonstrations", short),
        ):
            steps = (0, *further)
            names = [f"ascent_{n}{suffix}_accuracy" for n in further]
            names = [f"mean{suffix}_accuracy", *names]
            if all(name in results for name in names):
                curves[label] = (steps, np.stack([np.atleast_1d(results[name]) for name in names]))
        figures.accuracy_against_steps(curves, folder / "accuracy_against_steps.png")
        pairs, programs = tasks()
        if lpn.config.variational:
            report = latent_report(lpn, params, pairs)
            print(report.pop("text"))
            write_json(folder / "latents.json", report)
        figures.latent_space(lpn, params, pairs, programs, folder / "latents.png")
        file = folder / "predictions.png"
        figures.pattern_attempts(lpn, params, run.key, pairs, file, method=ascent, size=shape)
        if lpn.config.latent_dim == 2:
            figures.latent_map(lpn, params, pairs, folder / "latent_map.png")
            figures.likelihood_map(lpn, params, run.key, pairs, folder / "likelihood_map.png")

    return draw


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    data, model, options = config.data, config.model, config.evaluation
    if (data.num_rows, data.num_cols) != (model.max_rows, model.max_cols):
        raise UsageError(
            f"data.num_rows x data.num_cols is {data.num_rows} x {data.num_cols}, but the model is "
            f"built for {model.max_rows} x {model.max_cols}; make them equal"
        )
    if data.pattern_size >= min(data.num_rows, data.num_cols):
        raise UsageError(f"data.pattern_size={data.pattern_size} must be smaller than the grid")
    for name in ("ascent_steps", "short_steps"):
        steps = options[name]
        if len(steps) > 1 and options.search.gradient_ascent.lr_schedule:
            raise UsageError(
                f"evaluation.{name}={tuple(steps)} is read from one search, but with lr_schedule a "
                "shorter search is another one; give one number of steps"
            )
    if options.search.gradient_ascent.clip_scope != "latent":
        raise UsageError(
            "evaluation.search.gradient_ascent.clip_scope must be latent here, because problems "
            "are evaluated in chunks; lpn_arc and training also take batch"
        )
    check_demonstrations(config, max(data.num_pairs - 1, *options.demonstrations, 0))


main = functools.partial(
    cli.main,
    build,
    sweepable=SWEEPABLE,
    settled=settled,
    validate=validate,
    flags=(experiment.MODE,),
    may_change=("evaluation", "micro_batch"),
    evaluates=experiment.evaluates,
)

if __name__ == "__main__":
    main()
