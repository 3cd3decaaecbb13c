"""Latent Program Network on pattern tasks: train, search, and measure accuracy against search
steps.

A task hides a small coloured pattern; its demonstrations show where the pattern goes. Held-out
tasks are predicted leave-one-out, from the mean latent and after searching the latent space.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.data.patterns import sample_task, sample_task_and_program
from experiments.lpn import figures
from experiments.lpn import settings as lpn_settings
from experiments.lpn.evaluation import (
    generated_metrics,
    in_context_accuracy,
    last_pair_problems,
    latent_report,
    leave_one_out_posterior,
    leave_one_out_problems,
    search_accuracy,
)
from experiments.lpn.settings import (
    MODE,
    SWEEPABLE,
    build_core,
    build_method,
    build_model,
    check_at_least,
    check_demonstrations,
    num_micro_batches,
)
from experiments.lpn.weights import read_params
from jaxtrain.core import Core
from jaxtrain.host import cli, experiment, schedules, sweep
from jaxtrain.host.begin import fit, started
from jaxtrain.host.config import UsageError
from jaxtrain.host.data import Generated
from jaxtrain.host.workdir import write_json
from jaxtrain.parallel import compile_update
from jaxtta import lpn as lpn_
from jaxtta.lpn import LPN

FLAGS = (MODE,)


def sampler(config: ConfigDict):
    """`(key, index [b]) -> batch`: the tasks with these places in the batch, made on the device."""
    tasks = config.data.to_dict()

    def sample(key: Array, index: Array) -> tuple[lpn_.Tasks]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
        pairs = jax.vmap(lambda k: sample_task(k, **tasks))(keys)
        micro = config.micro_batch or config.batch_size
        return lpn_.cut(pairs, index, config.batch_size // micro)

    return sample


def held_out(config: ConfigDict, num_pairs: int, density: float) -> tuple[lpn_.Pairs, Array]:
    """Tasks that do not depend on the run's seed, and their patterns."""
    settings = config.data.to_dict() | {"num_pairs": num_pairs, "density": density}
    keys = jax.random.split(jax.random.key(config.evaluation.seed), config.evaluation.num_tasks)
    return jax.jit(jax.vmap(lambda k: sample_task_and_program(k, **settings)))(keys)


def evaluation(config: ConfigDict, lpn: LPN):
    """Returns `evaluate(params, key, final) -> {name: accuracy}` for the parameters of one run.

    Names are `<what>_accuracy`, where what is `mean`, `ascent_<steps>`, `<search>_<steps>` for the
    searches of `evaluation.step_searches`, `random_<samples>` or, for the in-context baseline,
    `in_context` and `ttt_<steps>`; a suffix `_no_encoder` says that latents start from N(0, I),
    `_density_<d>` that patterns are sparser or denser than in training, `_demos_<n>` that there are
    n demonstrations, and `_shuffled` that the search saw another task's demonstrations.
    """
    options = config.evaluation

    @functools.cache  # one method, and so one program, per setting
    def searching(name, num_steps, no_encoder):
        group = options.search.copy_and_resolve_references()
        group.num_steps = num_steps
        return build_method(group, name, no_encoder=no_encoder)

    mean_latent = build_method(options.search, "mean")

    @functools.cache
    def sampling(num_samples):
        group = options.search.copy_and_resolve_references()
        group.random_search.num_samples = num_samples
        return build_method(group, "random_search")

    def ascent_curve(
        params,
        key,
        demos,
        targets,
        steps,
        suffix="",
        posterior=None,
        no_encoder=False,
        name="gradient_ascent",
    ):
        method = searching(name, max(steps), no_encoder)
        hits = search_accuracy(
            lpn, params, key, demos, targets, method=method, steps=(0, *steps), posterior=posterior
        )
        label = "ascent" if name == "gradient_ascent" else name
        names = [f"mean{suffix}", *(f"{label}_{n}{suffix}" for n in steps)]
        return dict(zip(names, jnp.unstack(hits.mean(0)), strict=True))

    def baseline(params, demos, targets, suffix, adapts=True):
        found = {f"in_context{suffix}": in_context_accuracy(lpn, params, demos, targets).mean()}
        # Test-time training predicts each demonstration from the others; not while training runs.
        for n in options.ttt_steps if adapts and demos.mask.shape[1] > 1 else ():
            hits = in_context_accuracy(
                lpn, params, demos, targets, options.ttt_learning_rate, num_steps=n
            )
            found[f"ttt_{n}{suffix}"] = hits.mean()
        return found

    def searches(params, key, pairs, suffix, final):
        demos, targets = leave_one_out_problems(pairs)
        if config.train.mode == "in_context":
            return baseline(params, demos, targets, suffix, final or bool(suffix))
        posterior = leave_one_out_posterior(lpn, params, pairs)
        steps = tuple(options.ascent_steps if final else options.short_steps)
        found = ascent_curve(params, key, demos, targets, steps, suffix, posterior)
        if not final:
            return found
        steps = tuple(options.short_steps)
        for num_samples in options.random_samples:
            method = sampling(num_samples)
            hits = search_accuracy(
                lpn, params, key, demos, targets, method=method, steps=(0,), posterior=posterior
            )
            found[f"random_{num_samples}{suffix}"] = hits.mean()
        if options.no_encoder:
            blind = f"{suffix}_no_encoder"
            found |= ascent_curve(params, key, demos, targets, steps, blind, posterior, True)
        for name in options.step_searches:
            for blind in (False, True) if options.no_encoder else (False,):
                extra = f"{suffix}_no_encoder" if blind else suffix
                found |= ascent_curve(
                    params, key, demos, targets, steps, extra, posterior, blind, name
                )
        if options.shuffled:
            other = jax.tree.map(lambda x: jnp.roll(x, pairs.mask.shape[1], axis=0), demos)
            found |= ascent_curve(params, key, other, targets, steps, f"{suffix}_shuffled")
        return found

    def evaluate(params: Any, key: Array, final: bool) -> dict[str, Array]:
        found = {}
        densities = options.densities if final else ()
        for density in (config.data.density, *densities):
            suffix = "" if density == config.data.density else f"_density_{density:g}"
            pairs, _ = held_out(config, config.data.num_pairs, density)
            found |= searches(params, key, pairs, suffix, final and not suffix)
        for n in options.demonstrations if final else ():
            pairs, _ = held_out(config, n + 1, config.data.density)
            demos, targets = last_pair_problems(pairs)
            if config.train.mode == "in_context":
                found |= baseline(params, demos, targets, f"_demos_{n}")
            else:
                steps = tuple(options.short_steps)
                found |= ascent_curve(params, key, demos, targets, steps, f"_demos_{n}")
        if final and config.train.mode != "in_context":
            pairs, _ = held_out(config, config.data.num_pairs, config.data.density)
            demos, targets = leave_one_out_problems(pairs)
            for name, hits in generated_metrics(
                lpn, params, key, demos, targets, method=mean_latent
            ).items():
                found[f"generated_mean_{name}"] = hits.mean()
        return {
            name if name.startswith("generated") else f"{name}_accuracy": value
            for name, value in found.items()
        }

    return evaluate


def build(config: ConfigDict, context: cli.Context, lpn: LPN) -> tuple[Core, Generated]:
    """Core and data of a single run or a sweep."""
    num_micro_batches(config, context.execution.mesh.shape["data"])
    sample = sampler(config)
    indices = Generated(lambda key, index: index, config.batch_size)
    axis_name = context.execution.axis_name
    if schedules.autolrs_config(config) is not None:  # draws batches by itself
        build = functools.partial(build_core, config, lpn, sample=sample)
        if context.sweep is None:
            return build(axis_name=axis_name), indices
        return sweep.swept(build, context.sweep), indices
    if context.sweep is None:
        return build_core(config, lpn, axis_name=axis_name), Generated(sample, config.batch_size)
    core = sweep.swept(lambda hyper: build_core(config, lpn, hyper), context.sweep, sample)
    return core, indices


def run(config: ConfigDict, context: cli.Context) -> dict[str, Any]:
    """Trains, evaluates, draws figures; returns the final numbers (one per trial in a sweep)."""
    lpn = build_model(config)
    core, data = build(config, context, lpn)
    key = jax.random.key(config.seed)
    key_init, key_run, key_final = jax.random.split(key, 3)
    evaluate_one = evaluation(config, lpn)

    def evaluate(state, key_eval, final=False):
        if context.sweep is None:
            return jax.device_get(evaluate_one(state.params, key_eval, final))
        trials = [
            jax.device_get(
                evaluate_one(jax.tree.map(lambda x, t=t: x[t], state.params), key_eval, final)
            )
            for t in range(context.sweep.num_trials)
        ]
        return {name: np.stack([trial[name] for trial in trials]) for name in trials[0]}

    read = functools.partial(read_params, lpn)
    mode = context.flags["mode"]
    with started(
        lambda: core.init(key_init), config, context, read_params=read, scratch=mode != "evaluate"
    ) as begun:
        state = begun.state
        if mode != "evaluate":
            state = fit(
                begun,
                core,
                data,
                key_run,
                show=("loss", "teacher_forced_accuracy", "grad_norm", "learning_rate"),
                evaluate=lambda state, step, key_eval: evaluate(state, key_eval),
            )
    if mode == "train":
        return {}
    results = evaluate(state, key_final, final=True)
    first = state.params
    if context.sweep is not None:
        first = jax.tree.map(lambda x: x[0], first)  # by every process
    if jax.process_index() == 0:
        for name, value in sorted(results.items()):
            print(f"{name:<40} {_show(value)}")
        first = jax.device_get(first)  # what one process draws must not wait for the others
        draw(config, lpn, first, key_final, results, context.workdir / "plots")
    return results


def draw(
    config: ConfigDict, lpn: LPN, params: Any, key: Array, results: dict[str, Any], folder: Path
) -> None:
    """Figures: accuracy against search steps, predictions, the latent space."""
    folder.mkdir(parents=True, exist_ok=True)
    if config.train.mode == "in_context":
        return
    curves = {}
    for suffix in ("", "_no_encoder", "_shuffled"):
        further = config.evaluation.short_steps if suffix else config.evaluation.ascent_steps
        steps = (0, *further)
        names = [f"ascent_{n}{suffix}_accuracy" if n else f"mean{suffix}_accuracy" for n in steps]
        if all(name in results for name in names):
            label = {"": "encoder start", "_no_encoder": "start from N(0, I)"}.get(
                suffix, "shuffled demonstrations"
            )
            curves[label] = (steps, np.stack([np.atleast_1d(results[name]) for name in names]))
    figures.accuracy_against_steps(curves, folder / "accuracy_against_steps.png")
    pairs, programs = held_out(config, config.data.num_pairs, config.data.density)
    if lpn.config.variational:
        report = latent_report(lpn, params, pairs)
        print(report.pop("text"))
        write_json(folder / "latents.json", report)
    figures.latent_space(lpn, params, pairs, programs, folder / "latents.png")
    figures.pattern_attempts(
        lpn,
        params,
        key,
        pairs,
        build_method(config.evaluation.search, "gradient_ascent"),
        (config.model.max_rows, config.model.max_cols),
        folder / "predictions.png",
    )
    if config.model.latent_dim == 2:
        figures.latent_map(lpn, params, pairs, folder / "latent_map.png")
        figures.likelihood_map(lpn, params, key, pairs, folder / "likelihood_map.png")


def _show(value: Any) -> str:
    values = np.atleast_1d(value)
    listed = " ".join(f"{v:.4f}" for v in values)
    return listed if len(values) == 1 else f"mean {values.mean():.4f} of {listed}"


def validate(config: ConfigDict) -> None:
    """Refuses impossible settings before anything is made.

    Raises:
      UsageError: names the setting.
    """
    data, model = config.data, config.model
    if (data.num_rows, data.num_cols) != (model.max_rows, model.max_cols):
        raise UsageError(
            f"data.num_rows x data.num_cols is {data.num_rows} x {data.num_cols}, but the model is "
            f"built for {model.max_rows} x {model.max_cols}; make them equal"
        )
    if not 1 <= data.pattern_size < min(data.num_rows, data.num_cols):
        raise UsageError(
            f"data.pattern_size={data.pattern_size} must be at least 1 and smaller than the grid"
        )
    if data.num_pairs < 2:
        raise UsageError(f"data.num_pairs={data.num_pairs} must be at least 2 (leave-one-out)")
    if not 0 < data.density <= 1:
        raise UsageError(f"data.density={data.density} must be above 0 and at most 1")
    for name in ("ascent_steps", "short_steps"):
        steps = config.evaluation[name]
        if not steps or min(steps) < 1:
            raise UsageError(f"evaluation.{name}={tuple(steps)} must hold numbers of at least 1")
        if len(steps) > 1 and config.evaluation.search.gradient_ascent.lr_schedule:
            raise UsageError(
                f"evaluation.{name}={tuple(steps)} is read from one search, but with lr_schedule a "
                "shorter search is another one; give one number of steps"
            )
    for name in config.evaluation.step_searches:
        if build_method(config.evaluation.search, name).num_steps == 0:
            raise UsageError(f"evaluation.step_searches: {name} has no steps; leave it out")
    if config.evaluation.search.gradient_ascent.clip_scope != "latent":
        raise UsageError(
            "evaluation.search.gradient_ascent.clip_scope must be latent here, because problems "
            "are evaluated in chunks; lpn_arc and training also take batch"
        )
    options = config.evaluation
    check_at_least(
        config,
        {"evaluation.num_tasks": 1, "evaluation.random_samples": 0, "evaluation.ttt_steps": 1}
        | {"evaluation.demonstrations": 1, "evaluation.search.num_steps": 0, "train.beta": 0},
    )
    if bad := [density for density in options.densities if not 0 < density <= 1]:
        raise UsageError(f"evaluation.densities holds {bad}; they must be above 0 and at most 1")
    check_demonstrations(config, max(data.num_pairs - 1, *options.demonstrations, 0))
    build_method(options.search, "gradient_ascent")
    build_method(options.search, "random_search")
    num_micro_batches(config, 1)
    build_core(config, build_model(config))


def unused(config: ConfigDict) -> dict[str, str]:
    """What a run of this config does not read."""
    samples = config.evaluation.random_samples
    methods = ["gradient_ascent", *config.evaluation.step_searches]
    methods += ["random_search"] if samples else []
    found = lpn_settings.unused(config, methods)
    if config.train.mode == "in_context":
        for key in ("ascent_steps", "short_steps", "random_samples", "no_encoder", "shuffled"):
            found[f"evaluation.{key}"] = "train.mode is in_context"
    elif samples:
        replaced = "evaluation.random_samples says how many"
        found["evaluation.search.random_search.num_samples"] = replaced
    return found


def plan(config: ConfigDict, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    """Compiled training step and abstract arguments, for `python -m experiments.plan`."""
    lpn = build_model(config)
    core = build_core(config, lpn)
    key = jax.random.key(0)
    state = jax.eval_shape(core.init, key)
    batch = jax.eval_shape(sampler(config), key, jnp.arange(config.batch_size))
    step = compile_update(core.update, mode="jit", mesh=mesh)
    return step, (state, batch, key)


main = functools.partial(
    cli.main,
    cli.unbound(run),
    sweepable=SWEEPABLE,
    validate=validate,
    flags=FLAGS,
    may_change=("evaluation",),
    evaluates=experiment.evaluates,
)

if __name__ == "__main__":
    main()
