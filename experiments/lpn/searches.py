"""Searches as configs name them: from a group `search` of `configs/lpn_common.py` to a `Method`.

The literal tables are everything that can be chosen. A group is read while a method is built, and
only what the method uses of it.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxtrain.host.config import UsageError
from jaxtrain.parallel import AxisName
from jaxtta import lpn as lpn_
from jaxtta.lpn import Method, Starts
from jaxtta.lpn.search import ScoreFn, Search
from jaxtta.lpn.starts import AggregateFn

LATENTS = {"sample": lpn_.sample_latents, "mean": lpn_.posterior_mean}
AGGREGATES = {
    "mean": lpn_.mean_latent,
    "first": lpn_.first_latent,
    "product_of_experts": lpn_.product_latent,
}
CELLS = {"mean_cells": lpn_.mean_cells, "sum_cells": lpn_.sum_cells}
ATTEMPTS = {
    "second_best": lpn_.second_best,
    "distinct_output": lpn_.distinct_output,
    "other_start": lpn_.other_start,
}
ASCENT_OPTIMIZERS: Mapping[str, Callable[[Any, ConfigDict], optax.GradientTransformation]] = {
    "sgd": lambda rate, group: optax.sgd(rate),
    "adam": lambda rate, group: lpn_.ascent_adam(rate, b1=group.b1, b2=group.b2),
}
CLIP_SCOPES = {
    "latent": lambda axis_name: lpn_.clip_each,
    "batch": lambda axis_name: functools.partial(lpn_.clip_jointly, axis_name=axis_name),
}
Factory = Callable[..., Search]


def gradient_ascent(config: ConfigDict, axis_name: AxisName | None = "tasks") -> Factory:
    """Gradient ascent; `axis_name` says over what `clip_scope=batch` clips jointly."""
    group = config.gradient_ascent
    rate = group.learning_rate
    if group.lr_schedule:
        steps = max(config.num_steps, 1)
        rate = optax.cosine_decay_schedule(rate, steps, exponent=group.lr_schedule_exponent)
    return functools.partial(
        lpn_.gradient_ascent,
        optimizer=ASCENT_OPTIMIZERS[group.optimizer](rate, group),
        clip_norm=group.clip_norm,
        clip=CLIP_SCOPES[group.clip_scope](axis_name),
        stop_gradient_latent_move=group.stop_gradient_latent_move,
        scan_starts=group.scan_starts,
    )


def _sampling(search: Callable[..., Search], group: ConfigDict) -> Factory:
    fields = group.to_dict()
    fields["scan_batch_size"] = fields["scan_batch_size"] or None
    return functools.partial(search, **fields)


def _hybrid(config: ConfigDict) -> Factory:
    first = functools.partial(lpn_.cem, **config.cem)
    then, switch_step = gradient_ascent(config), config.hybrid.switch_step

    def make(score_fn: ScoreFn, *, archive_size: int) -> Search:
        return lpn_.hybrid(
            first(score_fn, archive_size=archive_size),
            then(score_fn, archive_size=archive_size),
            switch_step,
        )

    return make


def _restarts(config: ConfigDict) -> Factory:
    inner, options = gradient_ascent(config), config.restarts.to_dict()
    every, patience = options.pop("every"), options.pop("patience") or None

    def make(score_fn: ScoreFn, *, archive_size: int) -> Search:
        search = inner(score_fn, archive_size=archive_size)
        return lpn_.restarts(search, every, patience=patience, **options)

    return make


# Method name -> (search factory from a config group, whether scoring the start is all it does).
SEARCHES: Mapping[str, tuple[Callable[[ConfigDict], Factory], bool]] = {
    "gradient_ascent": (gradient_ascent, False),
    "random_search": (lambda c: _sampling(lpn_.random_search, c.random_search), True),
    "encoder_sampling": (lambda c: _sampling(lpn_.encoder_sampling, c.encoder_sampling), True),
    "local_search": (lambda c: functools.partial(lpn_.local_search, **c.local_search), False),
    "cem": (lambda c: functools.partial(lpn_.cem, **c.cem), False),
    "evolution_strategy": (
        lambda c: functools.partial(lpn_.evolution_strategy, **c.evolution_strategy),
        False,
    ),
    "hybrid": (_hybrid, False),
    "restarts": (_restarts, False),
}


def build_starts(config: ConfigDict, aggregate: AggregateFn = lpn_.mean_latent) -> Starts:
    """The start points of a search group.

    Raises:
      UsageError: there are none, or the aggregate has no effect.
    """
    number = config.perturbations
    try:
        return Starts(
            aggregate,
            include_mean_latent=config.include_mean_latent,
            include_all_latents=config.include_all_latents,
            random_perturbation=(number, config.perturbation_scale) if number else None,
        )
    except ValueError as error:
        raise UsageError(f"search: {error}") from error


def build_method(
    config: ConfigDict,
    name: str,
    *,
    aggregate: AggregateFn = lpn_.mean_latent,
    num_steps: int | None = None,
    **changes: Any,
) -> Method:
    """A `Method` from a search group and a method's name.

    Args:
      config: search group.
      name: a key of `SEARCHES`, or `mean` or `first`: no search, the latent alone.
      aggregate: what searches start from; `mean` and `first` name their own.
      num_steps: in place of the group's.
      **changes: fields of `Method` that the group does not hold.

    Raises:
      UsageError: an impossible value.
    """
    if name in ("mean", "first"):
        # A search of no steps from one start point.
        nothing = functools.partial(lpn_.gradient_ascent, optimizer=optax.sgd(0.0))
        return Method(nothing, starts=Starts(AGGREGATES[name]), **changes)
    factory, single_step = SEARCHES[name]
    if num_steps is not None:
        config = config.copy_and_resolve_references()
        config.num_steps = num_steps
    try:
        method = Method(
            factory(config),
            0 if single_step else config.num_steps,
            uses_posterior=name == "encoder_sampling",
            starts=build_starts(config, aggregate),
            **changes,
        )
        try_search(method.make_search, method.num_candidates, method.uses_posterior)
        return method
    except ValueError as error:
        raise UsageError(f"search: {error}") from error


def try_search(make_search: Factory, archive_size: int, uses_posterior: bool) -> None:
    """Builds a search of nothing, so that impossible options are refused before a run starts.

    Raises:
      ValueError: the search refuses its options.
    """
    point = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    posterior = {"mean": point, "logvar": point, "mask": jax.ShapeDtypeStruct((1,), bool)}

    def build(posterior: dict[str, Any]) -> None:
        make_search(lambda z: z, archive_size=archive_size, **posterior)

    jax.eval_shape(build, posterior if uses_posterior else {})
