"""From configs to the parts of a Latent Program Network run: model, loss, training core.

Searches are in `searches.py`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import Array
from ml_collections import ConfigDict

from experiments.lpn.searches import SEARCHES, build_starts, gradient_ascent, try_search
from jaxtrain.core import Core
from jaxtrain.host import schedules
from jaxtrain.host.config import UsageError
from jaxtrain.nets.attention import Fused
from jaxtrain.parallel import AxisName
from jaxtrain.schedules import autolrs, record_grad_norms
from jaxtta import lpn as lpn_
from jaxtta.lpn import LPN, Block, Config, Pairs

SWEEPABLE = (
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "optimizer.clip_norm",
    "train.beta",
    "train.gamma",
)
Loss = Callable[[Any, Pairs, Array], tuple[Array, dict[str, Array]]]


def build_model(config: ConfigDict) -> LPN:
    """The network of `config.model`; `config.train.mode` decides whether it is the baseline's.

    Raises:
      UsageError: an impossible value.
    """
    group = config.model
    # Of two keys about positions each kind reads its own.
    unread = "separate_input_positions" if group.positions == "rope" else "rope_max_frequency"
    other = ("encoder", "decoder", "fused", unread)
    fields = {name: group[name] for name in group if name not in other}
    if config.train.mode == "in_context":
        fields |= {"variational": False, "num_slots": config.in_context.max_demonstrations}
    try:
        for name in ("encoder", "decoder"):
            fields[name] = Block(**group[name])
        structure = Config(**fields)
        searches = config.train.mode == "gradient_ascent"
        fused = fused_attention(group.fused, structure, jax.default_backend(), searches=searches)
        return LPN(dataclasses.replace(structure, fused=fused))
    except ValueError as error:
        raise UsageError(f"model: {error}") from error


def fused_attention(
    asked: str, structure: Config, platform: str, *, searches: bool
) -> Fused | None:
    """Which fused attention a network uses, for `Config.fused`.

    Args:
      asked: `model.fused`; "auto" is cuDNN's on GPUs and XLA's on TPUs where activations are
        bfloat16, and none elsewhere.
      structure: the network.
      platform: `jax.default_backend()`.
      searches: whether training searches latents by gradient ascent. Its loss is differentiated
        around the gradient of a score, which cuDNN's attention cannot be.

    Raises:
      ValueError: cuDNN's is asked for where it cannot be used.
    """
    if asked == "cudnn" and searches:
        raise ValueError(
            "fused='cudnn' cannot be differentiated twice, which train.mode=gradient_ascent needs; "
            "choose xla or none."
        )
    if asked != "auto":
        return None if asked == "none" else asked
    if structure.dtype == "float32" or platform not in ("gpu", "tpu"):
        return None
    return "cudnn" if platform == "gpu" and structure.suits_cudnn and not searches else "xla"


def build_loss(config: ConfigDict, lpn: LPN, *, axis_name: AxisName | None = None) -> Loss:
    """Loss of one task in the training mode of `config.train`; its numbers may be traced.

    Args:
      config: the experiment's config.
      lpn: model.
      axis_name: mapped device axis, for the joint clipping of `clip_scope=batch`.
    """
    train = config.train
    if train.mode == "in_context":
        return functools.partial(lpn_.in_context_loss, lpn)
    loss: Callable[..., Any] = lpn_.task_loss
    if train.mode == "all":
        loss = lpn_.every_latent_loss
    elif train.mode != "mean":
        group = train.search
        factory, single_step = SEARCHES[train.mode]
        try:
            try_search(factory(group), 2, uses_posterior=False)
        except ValueError as error:
            raise UsageError(f"train.search: {error}") from error
        if train.mode == "gradient_ascent":
            axes: tuple[str, ...] = ("tasks", "pairs")
            if axis_name is not None:
                axes += (axis_name,) if isinstance(axis_name, str) else axis_name
            factory = functools.partial(gradient_ascent, axis_name=axes)
        num_steps = 0 if single_step else group.num_steps
        context = lpn_.search_context(factory(group), num_steps, build_starts(group))
        loss = functools.partial(lpn_.task_loss, context=context)
    return functools.partial(
        loss, lpn, beta=train.beta, gamma=train.gamma, no_encoder=train.no_encoder
    )


def build_core(
    config: ConfigDict,
    lpn: LPN,
    *,
    axis_name: AxisName | None = None,
    sample: Callable[[Array, Any], Any] | None = None,
) -> Core:
    """Training core of `config`; its numbers may be traced.

    `sample` draws the batches of a position for AutoLRS, see `jaxtrain.schedules.autolrs`.

    Raises:
      UsageError: an impossible schedule.
    """
    options = config.optimizer
    norm = options.record_grad_norms
    loss = build_loss(config, lpn, axis_name=axis_name)
    numbers = {"weight_decay": options.weight_decay, "clip_norm": options.clip_norm}

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
    try:
        if search is None:
            return build(schedules.from_config(config))
        return autolrs(build, search, sample)
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_demonstrations(config: ConfigDict, most: int) -> None:
    """Raises UsageError when the in-context baseline has no room for `most` demonstrations."""
    room = config.in_context.max_demonstrations
    if config.train.mode == "in_context" and most > room:
        raise UsageError(
            f"in_context.max_demonstrations={room} leaves no room for {most} demonstrations; "
            f"raise it to {most}"
        )
