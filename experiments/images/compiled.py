"""Programs whose closed-over arrays are arguments."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding


def compiled(function: Callable[..., Any], sharding: NamedSharding) -> Callable[..., Any]:
    """`jax.jit(function)`, except that arrays it closes over are arguments of the program.

    Images to replay, a memory of features or a diffusion model would otherwise be constants in
    every program of a method.

    Args:
      function: of arrays.
      sharding: of the arrays it closes over.
    """
    programs: dict[Any, tuple[Callable[..., Any], Any, Any]] = {}

    def call(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        kind = (tree, *map(jax.typeof, leaves))
        if kind not in programs:
            traced, result = jax.make_jaxpr(function, return_shape=True)(*args)
            programs[kind] = (
                jax.jit(functools.partial(jax.core.eval_jaxpr, traced.jaxpr)),
                jax.device_put(traced.consts, sharding),
                jax.tree.structure(result),
            )
        program, closed_over, structure = programs[kind]
        return jax.tree.unflatten(structure, program(closed_over, *leaves))

    return call
