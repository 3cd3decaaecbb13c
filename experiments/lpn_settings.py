"""From configs to the parts of a Latent Program Network run: model, loss, search, training core.

The literal tables here are everything that can be chosen.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from jax import Array
from ml_collections import ConfigDict

from jaxtrain.core import Core
from jaxtrain.host.config import UsageError
from jaxtrain.parallel import AxisName
from jaxtta import lpn as lpn_
from jaxtta.lpn import LPN, Block, Config, Method, Pairs
from jaxtta.lpn.loss import mean_context, task_loss
from jaxtta.lpn.search import ScoreFn, Search

SWEEPABLE = (
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "optimizer.clip_norm",
    "train.beta",
    "train.gamma",
)
TRAIN_MODES = ("mean", "all", "random_search", "gradient_ascent", "in_context")


def build_model(config: ConfigDict) -> LPN:
    """The network of `config.model`; `config.train.mode` decides whether it is the baseline's.

    Raises:
      UsageError: an impossible value.
    """
    fields = config.model.to_dict()
    for name in ("encoder", "decoder"):
        fields[name] = Block(**fields[name])
    if config.train.mode == "in_context":
        fields |= {"variational": False, "num_slots": config.in_context.max_demonstrations}
    try:
        return LPN(Config(**fields))
    except ValueError as error:
        raise UsageError(f"model: {error}") from error


def _gradient_ascent(
    config: ConfigDict, axis_name: AxisName | None = "tasks"
) -> Callable[..., Search]:
    fields = config.gradient_ascent.to_dict()
    if fields["clip_scope"] == "batch":
        fields["axis_name"] = axis_name
    return functools.partial(lpn_.gradient_ascent, num_steps=config.num_steps, **fields)


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


# Method name -> (search factory from a config group, whether scoring the start is all it does).
SEARCHES: Mapping[str, tuple[Callable[[ConfigDict], Callable[..., Search]], bool]] = {
    "gradient_ascent": (_gradient_ascent, False),
    "random_search": (_random_search, True),
    "encoder_sampling": (_encoder_sampling, True),
    "local_search": (_local_search, False),
    "cem": (_cem, False),
    "evolution_strategy": (_evolution_strategy, False),
    "hybrid": (_hybrid, False),
}


def build_method(config: ConfigDict, name: str, **changes: Any) -> Method:
    """A `Method` from a search group (`configs/lpn_common.search`) and a method's name.

    Args:
      config: search group.
      name: `mean`, `first` or a key of `SEARCHES`.
      **changes: fields of `Method` that the group does not hold.

    Raises:
      UsageError: unknown name or an impossible value.
    """
    if name not in SEARCHES and name not in ("mean", "first"):
        known = ", ".join(("mean", "first", *SEARCHES))
        raise UsageError(f"unknown search method {name!r}; the methods are {known}")
    perturbation = (config.perturbations, config.perturbation_scale)
    fields: dict[str, Any] = dict(
        include_mean_latent=config.include_mean_latent,
        include_all_latents=config.include_all_latents,
        random_perturbation=perturbation if config.perturbations else None,
    )
    if name in ("mean", "first"):
        # A search of no steps from one start point.
        fields = dict(make_search=_gradient_ascent(config), num_steps=0, aggregate=name)
    else:
        factory, single_step = SEARCHES[name]
        fields["make_search"] = factory(config)
        fields["num_steps"] = 0 if single_step else config.num_steps
        fields["uses_posterior"] = name == "encoder_sampling"
    try:
        return Method(**(fields | changes))
    except ValueError as error:
        raise UsageError(f"search: {error}") from error


def build_loss(
    config: ConfigDict, lpn: LPN, hyper: Mapping[str, Array] | None = None
) -> Callable[[Any, Pairs, Array], tuple[Array, dict[str, Array]]]:
    """Loss of one task in the training mode of `config.train`.

    Args:
      config: the experiment's config.
      lpn: model.
      hyper: traced values by config key, in place of the config's.
    """
    train, hyper = config.train, hyper or {}
    if train.mode not in TRAIN_MODES:
        raise UsageError(
            f"train.mode={train.mode!r} is unknown; the modes are {', '.join(TRAIN_MODES)}"
        )
    if train.mode == "in_context":
        return functools.partial(lpn_.in_context_loss, lpn)
    context: Any = {"mean": mean_context, "all": "all"}.get(train.mode)
    if context is None:
        group = train.search
        factory, single_step = SEARCHES[train.mode]
        if train.mode == "gradient_ascent":
            factory = functools.partial(_gradient_ascent, axis_name=("tasks", "pairs"))
        perturbation = (group.perturbations, group.perturbation_scale)
        context = lpn_.search_context(
            factory(group),
            0 if single_step else group.num_steps,
            include_mean_latent=group.include_mean_latent,
            include_all_latents=group.include_all_latents,
            random_perturbation=perturbation if group.perturbations else None,
        )
    return functools.partial(
        task_loss,
        lpn,
        context=context,
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
) -> Core:
    """Training core of `config`; numbers named in `hyper` are traced."""
    hyper = hyper or {}
    numbers = {
        name: hyper.get(f"optimizer.{name}", config.optimizer[name])
        for name in ("learning_rate", "weight_decay", "clip_norm")
    }
    optimizer = lpn_.adamw(warmup_steps=config.optimizer.warmup_steps, **numbers)
    return lpn_.training(lpn.init, build_loss(config, lpn, hyper), optimizer, axis_name=axis_name)


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
