"""What an image classifier is to a method that adapts it."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxtrain.nets.flax_norm import linen_choice
from jaxtrain.nets.norm import SOURCE, TRAIN, Norm


class Classified(NamedTuple):
    """What a classifier returns.

    Attributes:
      logits: `[B, classes]`; of a network that classifies pixels, `[B, H, W, classes]`.
      features: input of the last linear layer, `[B, features]` or `[B, h, w, features]`; `()` if
        the network gives none.
    """

    logits: Any
    features: Any = ()


ClassifierFn = Callable[..., tuple[Classified, Any]]
"""`(params, model_state, inputs, *, norm, mask) -> (Classified, model_state)`.

`inputs` are images `[B, H, W, C]` in [0, 1], `norm` is a `Norm`, `mask` `[B]` or `None` says which
rows count in batch statistics. The model state changes only when `norm.momentum` is given.
"""


# Arguments by which networks of others are told that they do not train.
EVALUATION = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}


def classifier(module: nn.Module) -> ClassifierFn:
    """Wraps a Linen module as the function that adaptation methods take.

    A module whose `__call__` has the arguments `norm` and `mask` is given them. Every
    `flax.linen.BatchNorm` inside a module uses the chosen statistics and rows too, whatever the
    module says about training; it is called as it is for evaluation, with `train=False`,
    `training=False`, `is_training=False`, `deterministic=True` or `use_running_average=True` where
    its `__call__` has such an argument.

    Args:
      module: unbound; returns `Classified` or bare logits.

    Raises:
      ValueError: (when called) batch norm without stored statistics, or of a kind whose statistics
        cannot be chosen.
    """
    accepted = inspect.signature(type(module).__call__).parameters
    mode = {} if "norm" in accepted else {k: v for k, v in EVALUATION.items() if k in accepted}

    def apply(
        params: Any,
        model_state: Any,
        inputs: jax.Array,
        *,
        norm: Norm = SOURCE,
        mask: jax.Array | None = None,
    ) -> tuple[Classified, Any]:
        chosen = {k: v for k, v in {"norm": norm, "mask": mask}.items() if k in accepted}
        options: dict[str, Any] = {**mode, **chosen}
        variables = {"params": params, **model_state}
        with linen_choice(norm, mask):
            if norm.momentum is None or not model_state:
                outputs = module.apply(variables, inputs, **options)
            else:
                outputs, updated = module.apply(
                    variables, inputs, mutable=list(model_state), **options
                )
                model_state = {**model_state, **updated}
        return outputs if isinstance(outputs, Classified) else Classified(outputs), model_state

    return apply


def chosen(norm: Norm | None, train: bool) -> Norm:
    """The statistics of a call that gave none: running ones, or those of training."""
    return norm if norm is not None else TRAIN if train else SOURCE


def standardised(inputs: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """(inputs - mean) / std per channel.

    Raises:
      ValueError: the inputs are not images with as many channels as there are means.
    """
    if inputs.ndim != 4 or inputs.shape[-1] != len(mean):
        hint = "; move the channels to the last axis" if inputs.shape[1:2] == (len(mean),) else ""
        raise ValueError(
            f"the network takes images [batch, height, width, {len(mean)}] in [0, 1] but got shape "
            f"{inputs.shape}{hint}."
        )
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"the network takes images in [0, 1] as floating-point numbers but got {inputs.dtype}; "
            "divide pixels by 255 first."
        )
    lead = (1,) * (inputs.ndim - 1)
    constant = lambda values: jnp.asarray(values, inputs.dtype).reshape(*lead, -1)
    return (inputs - constant(mean)) / constant(std)
