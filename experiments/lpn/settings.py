"""From configs to the parts of a Latent Program Network run: model, loss, search, training core.

The literal tables here are everything that can be chosen.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from ml_collections import ConfigDict

from jaxtrain.core import Core
from jaxtrain.host import cli, schedules
from jaxtrain.host.config import UsageError
from jaxtrain.host.sweep import overlay
from jaxtrain.parallel import AxisName
from jaxtrain.schedules.autolrs import autolrs
from jaxtrain.schedules.refinement import record_grad_norms
from jaxtta import lpn as lpn_
from jaxtta.lpn import LPN, Block, Config, Method, Pairs, Starts
from jaxtta.lpn.search import ScoreFn, Search
from jaxtta.lpn.starts import AggregateFn

SWEEPABLE = (
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "optimizer.clip_norm",
    "train.beta",
    "train.gamma",
)
MODE = cli.define_enum(
    "mode",
    "train_and_evaluate",
    ("train_and_evaluate", "train", "evaluate"),
    "evaluate uses the newest checkpoint of --workdir or config.init_from; its numbers go to "
    "evaluation/summary-evaluate.json",
)
TRAIN_MODES = ("mean", "all", "random_search", "gradient_ascent", "in_context")

# Choice in a config -> the function it stands for.
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
ASCENT_OPTIMIZERS = {
    "sgd": lambda rate, group: optax.sgd(rate),
    "adam": lambda rate, group: lpn_.ascent_adam(rate, b1=group.b1, b2=group.b2),
}
CLIP_SCOPES = {
    "latent": lambda axis_name: lpn_.clip_each,
    "batch": lambda axis_name: functools.partial(lpn_.clip_jointly, axis_name=axis_name),
}


def chosen(table: Mapping[str, Any], config: ConfigDict, key: str) -> Any:
    """The entry of a table that `config[key]` names.

    Raises:
      UsageError: it has no such entry.
    """
    if config[key] not in table:
        raise UsageError(f"{key} is {config[key]!r}; choose one of {', '.join(table)}")
    return table[config[key]]


def build_model(config: ConfigDict) -> LPN:
    """The network of `config.model`; `config.train.mode` decides whether it is the baseline's.

    Raises:
      UsageError: an impossible value.
    """
    fields = config.model.to_dict()
    if config.train.mode == "in_context":
        fields |= {"variational": False, "num_slots": config.in_context.max_demonstrations}
    try:
        for name in ("encoder", "decoder"):
            fields[name] = Block(**fields[name])
        return LPN(Config(**fields))
    except ValueError as error:
        raise UsageError(f"model: {error}") from error


def _gradient_ascent(
    config: ConfigDict, axis_name: AxisName | None = "tasks"
) -> Callable[..., Search]:
    group = config.gradient_ascent
    rate = group.learning_rate
    if group.lr_schedule:
        steps = max(config.num_steps, 1)
        rate = optax.cosine_decay_schedule(rate, steps, exponent=group.lr_schedule_exponent)
    return functools.partial(
        lpn_.gradient_ascent,
        optimizer=chosen(ASCENT_OPTIMIZERS, group, "optimizer")(rate, group),
        clip_norm=group.clip_norm,
        clip=chosen(CLIP_SCOPES, group, "clip_scope")(axis_name),
        stop_gradient_latent_move=group.stop_gradient_latent_move,
        scan_starts=group.scan_starts,
    )


def _random_search(config: ConfigDict) -> Callable[..., Search]:
    fields = config.random_search.to_dict()
    fields["scan_batch_size"] = fields["scan_batch_size"] or None
    return functools.partial(lpn_.random_search, **fields)


def _encoder_sampling(config: ConfigDict) -> Callable[..., Search]:
    fields = config.encoder_sampling.to_dict()
    fields["scan_batch_size"] = fields["scan_batch_size"] or None
    return functools.partial(lpn_.encoder_sampling, **fields)


def _local_search(config: ConfigDict) -> Callable[..., Search]:
    return functools.partial(lpn_.local_search, **config.local_search.to_dict())


def _cem(config: ConfigDict) -> Callable[..., Search]:
    return functools.partial(lpn_.cem, **config.cem.to_dict())


def _evolution_strategy(config: ConfigDict) -> Callable[..., Search]:
    return functools.partial(lpn_.evolution_strategy, **config.evolution_strategy.to_dict())


def _hybrid(config: ConfigDict) -> Callable[..., Search]:
    def make(score_fn: ScoreFn, *, archive_size: int) -> Search:
        return lpn_.hybrid(
            _cem(config)(score_fn, archive_size=archive_size),
            _gradient_ascent(config)(score_fn, archive_size=archive_size),
            config.hybrid.switch_step,
        )

    return make


def _restarts(config: ConfigDict) -> Callable[..., Search]:
    def make(score_fn: ScoreFn, *, archive_size: int) -> Search:
        return lpn_.restarts(
            _gradient_ascent(config)(score_fn, archive_size=archive_size),
            config.restarts.every,
            scale=config.restarts.scale,
            patience=config.restarts.patience or None,
        )

    return make


# Method name -> (search factory from a config group, whether scoring the start is all it does).
SEARCHES: Mapping[str, tuple[Callable[[ConfigDict], Callable[..., Search]], bool]] = {
    "gradient_ascent": (_gradient_ascent, False),
    "random_search": (_random_search, True),
    "encoder_sampling": (_encoder_sampling, True),
    "local_search": (_local_search, False),
    "cem": (_cem, False),
    "evolution_strategy": (_evolution_strategy, False),
    "hybrid": (_hybrid, False),
    "restarts": (_restarts, False),
}


# Method name -> the keys of a search group that it reads; every method reads _STARTS too.
_READS = {
    "gradient_ascent": ("num_steps", "gradient_ascent"),
    "random_search": ("random_search",),
    "encoder_sampling": ("encoder_sampling",),
    "local_search": ("num_steps", "local_search"),
    "cem": ("num_steps", "cem"),
    "evolution_strategy": ("num_steps", "evolution_strategy"),
    "hybrid": ("num_steps", "hybrid", "cem", "gradient_ascent"),
    "restarts": ("num_steps", "restarts", "gradient_ascent"),
}
_STARTS = ("include_mean_latent", "include_all_latents", "perturbations", "perturbation_scale")


def unused(config: ConfigDict, evaluated: Collection[str]) -> dict[str, str]:
    """Keys that a run of this config does not read, with the reason; for `cli.main`.

    Args:
      config: the experiment's config.
      evaluated: names of the search methods of the evaluation.
    """
    mode, in_context = config.train.mode, config.train.mode == "in_context"
    trained = f"train.mode is {mode}"
    chosen = {
        "train": ({mode}, trained),
        "evaluation": (set(evaluated), f"the evaluation runs {', '.join(evaluated)}"),
    }
    if in_context:
        chosen["evaluation"] = (set(), trained)
    found = {}
    for place, (names, reason) in chosen.items():
        read = {key for name in names & SEARCHES.keys() for key in (*_READS[name], *_STARTS)}
        group = config[place].search
        for key in group:
            if key not in read:
                found[f"{place}.search.{key}"] = reason
        if not group.perturbations:
            found.setdefault(
                f"{place}.search.perturbation_scale", f"{place}.search.perturbations is 0"
            )
        if group.gradient_ascent.optimizer == "sgd":
            for key in ("b1", "b2"):
                found[f"{place}.search.gradient_ascent.{key}"] = "the optimizer is sgd"
        if not group.gradient_ascent.lr_schedule:
            found[f"{place}.search.gradient_ascent.lr_schedule_exponent"] = "lr_schedule is off"
    if in_context:
        for key in ("train.beta", "train.gamma", "train.no_encoder"):
            found[key] = trained
    else:
        for key in ("in_context", "evaluation.ttt_steps", "evaluation.ttt_learning_rate"):
            found[key] = f"{trained}, not in_context"
    if config.model.positions == "rope":
        found["model.separate_input_positions"] = "model.positions is rope"
    else:
        found["model.rope_max_frequency"] = f"model.positions is {config.model.positions}"
    return found


def build_starts(config: ConfigDict, aggregate: AggregateFn = lpn_.mean_latent) -> Starts:
    """The start points of a search group.

    Raises:
      UsageError: there are none, or the aggregate has no effect.
    """
    further = (config.perturbations, config.perturbation_scale) if config.perturbations else None
    try:
        return Starts(
            aggregate,
            include_mean_latent=config.include_mean_latent,
            include_all_latents=config.include_all_latents,
            random_perturbation=further,
        )
    except ValueError as error:
        raise UsageError(f"search: {error}") from error


def build_method(
    config: ConfigDict, name: str, *, aggregate: AggregateFn = lpn_.mean_latent, **changes: Any
) -> Method:
    """A `Method` from a search group (`configs/lpn_common.search`) and a method's name.

    Args:
      config: search group.
      name: `mean`, `first` or a key of `SEARCHES`.
      aggregate: what searches start from; `mean` and `first` name their own.
      **changes: fields of `Method` that the group does not hold.

    Raises:
      UsageError: unknown name or an impossible value.
    """
    if name not in SEARCHES and name not in ("mean", "first"):
        known = ", ".join(("mean", "first", *SEARCHES))
        raise UsageError(f"unknown search method {name!r}; the methods are {known}")
    fields: dict[str, Any]
    if name in ("mean", "first"):
        # A search of no steps from one start point.
        fields = dict(make_search=_gradient_ascent(config), starts=Starts(AGGREGATES[name]))
    else:
        factory, single_step = SEARCHES[name]
        fields = dict(
            make_search=factory(config),
            num_steps=0 if single_step else config.num_steps,
            uses_posterior=name == "encoder_sampling",
            starts=build_starts(config, aggregate),
        )
    try:
        method = Method(**(fields | changes))
        _try(method.make_search, method.num_candidates, method.uses_posterior)
        return method
    except ValueError as error:
        raise UsageError(f"search: {error}") from error


def _try(make_search: Callable[..., Search], archive_size: int, uses_posterior: bool) -> None:
    """Builds a search of nothing, so that impossible options are refused before a run starts."""
    point = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    posterior = {"mean": point, "logvar": point, "mask": jax.ShapeDtypeStruct((1,), bool)}

    def build(posterior):
        make_search(lambda z: z, archive_size=archive_size, **posterior)

    jax.eval_shape(build, posterior if uses_posterior else {})


def check_at_least(config: ConfigDict, least: Mapping[str, float]) -> None:
    """Raises UsageError unless every number under each dotted key is at least the given one."""
    for key, low in least.items():
        value = functools.reduce(lambda node, name: node[name], key.split("."), config)
        if not all(number >= low for number in (value if isinstance(value, tuple) else (value,))):
            raise UsageError(f"{key}={value} is impossible; it must be at least {low}")


def check_demonstrations(config: ConfigDict, most: int) -> None:
    """Raises UsageError when the in-context baseline has no room for `most` demonstrations."""
    room = config.in_context.max_demonstrations
    if config.train.mode == "in_context" and most > room:
        raise UsageError(
            f"in_context.max_demonstrations={room} leaves no room for {most} demonstrations; "
            f"raise it to {most}"
        )


def build_loss(
    config: ConfigDict,
    lpn: LPN,
    hyper: Mapping[str, Array] | None = None,
    *,
    axis_name: AxisName | None = None,
) -> Callable[[Any, Pairs, Array], tuple[Array, dict[str, Array]]]:
    """Loss of one task in the training mode of `config.train`.

    Args:
      config: the experiment's config.
      lpn: model.
      hyper: traced values by config key, in place of the config's.
      axis_name: mapped device axis, for the joint clipping of `clip_scope=batch`.
    """
    train, hyper = config.train, hyper or {}
    if train.mode not in TRAIN_MODES:
        raise UsageError(
            f"train.mode={train.mode!r} is unknown; the modes are {', '.join(TRAIN_MODES)}"
        )
    if train.mode == "in_context":
        return functools.partial(lpn_.in_context_loss, lpn)
    loss: Callable[..., Any] = lpn_.task_loss
    if train.mode == "all":
        loss = lpn_.every_latent_loss
    elif train.mode != "mean":
        group = train.search
        check_at_least(config, {"train.search.num_steps": 0})
        factory, single_step = SEARCHES[train.mode]
        try:
            _try(factory(group), 2, uses_posterior=False)
        except ValueError as error:
            raise UsageError(f"train.search: {error}") from error
        if train.mode == "gradient_ascent":
            axes: tuple[str, ...] = ("tasks", "pairs")
            if axis_name is not None:
                axes += (axis_name,) if isinstance(axis_name, str) else axis_name
            factory = functools.partial(_gradient_ascent, axis_name=axes)
        num_steps = 0 if single_step else group.num_steps
        context = lpn_.search_context(factory(group), num_steps, build_starts(group))
        loss = functools.partial(lpn_.task_loss, context=context)
    return functools.partial(
        loss,
        lpn,
        beta=hyper.get("train.beta", train.beta),
        gamma=hyper.get("train.gamma", train.gamma),
        no_encoder=train.no_encoder,
    )


def build_core(
    config: ConfigDict,
    lpn: LPN,
    hyper: Mapping[str, Array] | None = None,
    *,
    axis_name: AxisName | None = None,
    sample: Callable[[Array, Any], Any] | None = None,
) -> Core:
    """Training core of `config`; numbers named in `hyper` are traced.

    `sample` draws the batches of a position for AutoLRS, see `lr_control.autolrs`.
    """
    hyper = hyper or {}
    numbers = {
        name: hyper.get(f"optimizer.{name}", config.optimizer[name])
        for name in ("weight_decay", "clip_norm")
    }
    norm = config.optimizer.record_grad_norms
    loss = build_loss(config, lpn, hyper, axis_name=axis_name)

    def build(schedule: Array | optax.Schedule) -> Core:
        optimizer = lpn_.adamw(schedule, warmup_steps=0, **numbers)
        if norm:
            optimizer = optax.chain(record_grad_norms(config.num_steps, norm), optimizer)
        return lpn_.training(lpn.init, loss, optimizer, axis_name=axis_name)

    search = schedules.autolrs_config(config)
    if search is not None and (norm or config.init_from):
        raise UsageError(
            "optimizer.schedule=autolrs goes neither with optimizer.record_grad_norms nor with "
            "init_from; leave them empty"
        )
    rate = hyper.get("optimizer.learning_rate")
    try:
        if search is None:
            changed = {} if rate is None else {"optimizer.learning_rate": rate}
            return build(schedules.from_config(overlay(config, changed)))
        return autolrs(build, search if rate is None else search._replace(warmup_lr=rate), sample)
    except ValueError as error:
        raise UsageError(str(error)) from error


def num_micro_batches(config: ConfigDict, devices: int) -> int:
    """Micro-batches per update.

    Raises:
      UsageError: the batch does not divide.
    """
    size = config.micro_batch or config.batch_size
    if config.batch_size % size or size % devices:
        raise UsageError(
            f"micro_batch={size} does not fit batch_size={config.batch_size} on {devices} devices; "
            f"use a divisor of the batch that is a multiple of {devices}, or 0"
        )
    return config.batch_size // size
