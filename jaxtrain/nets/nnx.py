"""NNX networks as functions of parameters and state."""

import contextvars
from typing import Any

import jax
from flax import nnx

from jaxtrain.nets.classifier import Classified, ClassifierFn
from jaxtrain.nets.flax_norm import Choice, arguments, layer_outputs
from jaxtrain.nets.norm import SOURCE, Norm, Statistics

_CHOICE: contextvars.ContextVar[Choice] = contextvars.ContextVar("choice")


class _Chosen(nnx.BatchNorm):
    """An NNX batch norm under the choice of the call that is being traced."""

    def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        x, own = arguments(x, *args, **kwargs)
        choice, value = _CHOICE.get(), lambda v: None if v is None else v[...]
        stored = Statistics(value(self.mean), value(self.var))
        affine = value(self.scale), value(self.bias)
        y, after = layer_outputs(self, x, stored, affine, choice, own)
        if choice.norm.momentum is not None:
            self.mean[...], self.var[...] = after
        return y


def from_nnx(module: nnx.Module) -> tuple[ClassifierFn, Any, Any]:
    """An NNX network as the function that adaptation methods take, its parameters and its state.

    Every call merges a copy in evaluation mode and calls it as `module(inputs)`, so the module
    given stays as it is. Parameters are the nested dict of its `nnx.Param`, the model state that of
    its `nnx.BatchStat`, empty without batch norm; variables of other kinds are constants.

    Args:
      module: returns `Classified` or bare logits.

    Returns:
      `(apply_fn, params, model_state)`.
    """
    graph, *variables = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    params, model_state, rest = variables

    def apply(
        params_now: Any,
        state_now: Any,
        inputs: jax.Array,
        *,
        norm: Norm = SOURCE,
        mask: jax.Array | None = None,
    ) -> tuple[Classified, Any]:
        filled = [jax.tree.map(lambda x: x, part) for part in (params, model_state)]
        for part, now in zip(filled, (params_now, state_now), strict=True):
            nnx.replace_by_pure_dict(part, now)
        copy = nnx.merge(graph, *filled, rest, copy=True)
        copy.eval()
        for _, layer in nnx.iter_modules(copy):
            if type(layer) is nnx.BatchNorm:
                object.__setattr__(layer, "__class__", _Chosen)
        token = _CHOICE.set(Choice(norm, mask))
        try:
            outputs = copy(inputs)
        finally:
            _CHOICE.reset(token)
        if norm.momentum is not None:
            state_now = nnx.to_pure_dict(nnx.state(copy, nnx.BatchStat))
        return outputs if isinstance(outputs, Classified) else Classified(outputs), state_now

    return apply, nnx.to_pure_dict(params), nnx.to_pure_dict(model_state)
