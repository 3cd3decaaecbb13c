"""How a trained network does on held-out pattern tasks, from the mean latent and after searching.

`evaluation` binds every measurement to its settings; what it returns maps the parameters of one
run to named accuracies `<what>_accuracy`. `what` is `mean`, `ascent_<steps>`, `<search>_<steps>`
for the searches of `step_searches`, `ascent_at_rate_0_<steps>` for the control that does not move,
`random_<samples>` or, for the in-context baseline, `in_context` and `ttt_<steps>`. A suffix
`_no_encoder` says that latents start from N(0, I), `_density_<d>` that patterns are sparser or
denser than in training, `_demos_<n>` that there are n demonstrations, and `_shuffled` that the
search saw another task's demonstrations.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from experiments.data.patterns import sample_task_and_program
from experiments.lpn.evaluation import (
    generated_metrics,
    in_context_accuracy,
    last_pair_problems,
    leave_one_out_posterior,
    leave_one_out_problems,
    search_accuracy,
)
from experiments.lpn.searches import build_method
from jaxtta.lpn import LPN, Method, Pairs, Posterior

Accuracies = dict[str, Array]


class Problems(NamedTuple):
    """What is to be predicted.

    Attributes:
      demos: demonstrations, `[B, n]`.
      targets: pairs to predict, `[B, 1]`.
      posterior: encoder output of the demonstrations, if it is known already.
      suffix: of the names of what is measured on them.
    """

    demos: Pairs
    targets: Pairs
    posterior: Posterior | None
    suffix: str


Measure = Callable[[Any, Array, Problems], Accuracies]


def held_out(config: ConfigDict) -> Callable[..., tuple[Pairs, Array]]:
    """`(**changes) -> tasks and their patterns`, the same for every seed of the run.

    `changes` replace settings of `config.data`.
    """
    settings = config.data.to_dict()
    seed, number = config.evaluation.seed, config.evaluation.num_tasks

    def sample(**changes: Any) -> tuple[Pairs, Array]:
        keys = jax.random.split(jax.random.key(seed), number)
        task = lambda key: sample_task_and_program(key, **settings | changes)
        return jax.jit(jax.vmap(task))(keys)

    return sample


# --- Measurements ---------------------------------------------------------------------------------


def along_a_search(
    lpn: LPN,
    search: ConfigDict,
    name: str,
    steps: Sequence[int],
    *,
    no_encoder: bool = False,
    label: str = "",
) -> Measure:
    """Accuracy after each of some numbers of steps of one search, the mean latent first."""
    method = build_method(search, name, num_steps=max(steps), no_encoder=no_encoder)
    label = label or ("ascent" if name == "gradient_ascent" else name)
    blind = "_no_encoder" if no_encoder else ""
    names = ["mean", *(f"{label}_{n}" for n in steps)]

    def measure(params: Any, key: Array, given: Problems) -> Accuracies:
        hits = search_accuracy(
            lpn,
            params,
            key,
            given.demos,
            given.targets,
            method=method,
            steps=(0, *steps),
            posterior=given.posterior,
        )
        labelled = [f"{name}{given.suffix}{blind}" for name in names]
        return dict(zip(labelled, jnp.unstack(hits.mean(0)), strict=True))

    return measure


def at_rate_0(lpn: LPN, search: ConfigDict, steps: Sequence[int]) -> Measure:
    """The control: ascent that does not move, from the same starts with as many decoder calls."""
    group = search.copy_and_resolve_references()
    group.gradient_ascent.learning_rate = 0.0
    return along_a_search(lpn, group, "gradient_ascent", steps, label="ascent_at_rate_0")


def by_sampling(lpn: LPN, search: ConfigDict, num_samples: int) -> Measure:
    """Accuracy of the best of random latents."""
    group = search.copy_and_resolve_references()
    group.random_search.num_samples = num_samples
    method = build_method(group, "random_search")

    def measure(params: Any, key: Array, given: Problems) -> Accuracies:
        hits = search_accuracy(
            lpn,
            params,
            key,
            given.demos,
            given.targets,
            method=method,
            steps=(0,),
            posterior=given.posterior,
        )
        return {f"random_{num_samples}{given.suffix}": hits.mean()}

    return measure


def shuffled(measure: Measure, num_pairs: int) -> Measure:
    """The control: the same with the demonstrations of the next task."""

    def control(params: Any, key: Array, given: Problems) -> Accuracies:
        other = jax.tree.map(lambda x: jnp.roll(x, num_pairs, axis=0), given.demos)
        suffix = f"{given.suffix}_shuffled"
        return measure(params, key, Problems(other, given.targets, None, suffix))

    return control


def in_context(lpn: LPN) -> Measure:
    """Accuracy of the in-context baseline."""

    def measure(params: Any, key: Array, given: Problems) -> Accuracies:
        hits = in_context_accuracy(lpn, params, given.demos, given.targets)
        return {f"in_context{given.suffix}": hits.mean()}

    return measure


def after_training(lpn: LPN, num_steps: int, learning_rate: float) -> Measure:
    """Accuracy of the baseline after test-time training on the demonstrations, which predicts each
    of them from the others; nothing for a single one."""

    def measure(params: Any, key: Array, given: Problems) -> Accuracies:
        if given.demos.mask.shape[1] < 2:
            return {}
        hits = in_context_accuracy(
            lpn, params, given.demos, given.targets, learning_rate, num_steps=num_steps
        )
        return {f"ttt_{num_steps}{given.suffix}": hits.mean()}

    return measure


# --- What is measured when ------------------------------------------------------------------------


class Plan(NamedTuple):
    """Which measurements are made of which tasks.

    Attributes:
      during: on the held-out tasks, while training runs.
      final: on the held-out tasks, at the end.
      elsewhere: on further densities and numbers of demonstrations, at the end.
    """

    during: tuple[Measure, ...]
    final: tuple[Measure, ...]
    elsewhere: tuple[Measure, ...]


def searches(config: ConfigDict, lpn: LPN) -> Plan:
    """Measurements of a latent program network."""
    options, group = config.evaluation, config.evaluation.search
    long, short = tuple(options.ascent_steps), tuple(options.short_steps)
    ascent = along_a_search(lpn, group, "gradient_ascent", short)
    still = (at_rate_0(lpn, group, short),) if options.rate_0 else ()
    final = [along_a_search(lpn, group, "gradient_ascent", long), *still]
    final += [by_sampling(lpn, group, number) for number in options.random_samples]
    starts = (False, True) if options.no_encoder else (False,)
    if options.no_encoder:
        final.append(along_a_search(lpn, group, "gradient_ascent", short, no_encoder=True))
    for name in options.step_searches:
        final += [along_a_search(lpn, group, name, short, no_encoder=blind) for blind in starts]
    if options.shuffled:
        final.append(shuffled(ascent, config.data.num_pairs))
    return Plan((ascent,), tuple(final), (ascent, *still))


def baseline(config: ConfigDict, lpn: LPN) -> Plan:
    """Measurements of the in-context baseline."""
    options, measure = config.evaluation, in_context(lpn)
    rate = options.ttt_learning_rate
    final = (measure, *(after_training(lpn, n, rate) for n in options.ttt_steps))
    return Plan((measure,), final, final)


def evaluation(config: ConfigDict, lpn: LPN) -> Callable[[Any, Array, bool], Accuracies]:
    """`(params, key, final) -> {name: accuracy}` for the parameters of one run."""
    searching = config.train.mode != "in_context"
    plan = searches(config, lpn) if searching else baseline(config, lpn)
    sets = held_out(config)
    usual, options = config.data.density, config.evaluation
    densities = [density for density in options.densities if density != usual]
    numbers = tuple(options.demonstrations)
    mean_latent = build_method(options.search, "mean") if searching else None

    def left_out(params: Any, suffix: str, **changes: Any) -> Problems:
        pairs, _ = sets(**changes)
        posterior = leave_one_out_posterior(lpn, params, pairs) if searching else None
        return Problems(*leave_one_out_problems(pairs), posterior, suffix)

    def evaluate(params: Any, key: Array, final: bool) -> Accuracies:
        main = left_out(params, "")
        found: Accuracies = {}
        for measure in plan.final if final else plan.during:
            found |= measure(params, key, main)
        if final:
            further = [left_out(params, f"_density_{d:g}", density=d) for d in densities]
            for n in numbers:
                pairs, _ = sets(num_pairs=n + 1)
                further.append(Problems(*last_pair_problems(pairs), None, f"_demos_{n}"))
            for measure in plan.elsewhere:
                for given in further:
                    found |= measure(params, key, given)
        named = {f"{name}_accuracy": value for name, value in found.items()}
        return named | (generated(lpn, params, key, main, mean_latent) if final else {})

    return evaluate


def generated(
    lpn: LPN, params: Any, key: Array, given: Problems, method: Method | None
) -> Accuracies:
    """The authors' generation metrics from the mean latent; nothing for the baseline."""
    if method is None:
        return {}
    found = generated_metrics(lpn, params, key, given.demos, given.targets, method=method)
    return {f"generated_mean_{name}": hits.mean() for name, hits in found.items()}
