"""Flax Linen modules as `Model`s."""

import inspect
from typing import Any

import jax
from flax import linen as nn

from jaxtrain.protocol import Model


def from_linen(module: nn.Module) -> Model:
    """Wraps a Linen module as two pure functions.

    The module is called as `module(inputs, train=...)`, or `module(inputs)` if its `__call__` has
    no `train` argument. `params` is the collection of that name; `model_state` is the dict of all
    other collections (such as `batch_stats`), updated only by calls with `train=True`. The key of
    `apply` feeds the `dropout` stream.

    Args:
      module: unbound module.

    Returns:
      The model.
    """
    has_train = "train" in inspect.signature(type(module).__call__).parameters
    call_args = lambda train: {"train": train} if has_train else {}

    def init(key: jax.Array, example_inputs: Any) -> tuple[Any, dict[str, Any]]:
        variables = dict(module.init(key, example_inputs, **call_args(False)))
        params = variables.pop("params", {})
        return params, variables

    def apply(
        params: Any, model_state: Any, inputs: Any, *, key: jax.Array | None, train: bool
    ) -> tuple[Any, Any]:
        variables = {"params": params, **model_state}
        rngs = {} if key is None else {"dropout": key}
        if not (train and model_state):
            return module.apply(variables, inputs, rngs=rngs, **call_args(train)), model_state
        outputs, updated = module.apply(
            variables, inputs, rngs=rngs, mutable=list(model_state), **call_args(train)
        )
        return outputs, {**model_state, **updated}

    return Model(init, apply)
