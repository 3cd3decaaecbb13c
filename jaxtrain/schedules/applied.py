"""The rate that an optimiser applied: kept in its state, so that it can be a metric."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike


def scheduled(
    factory: Callable[[Any], optax.GradientTransformation],
    schedule: Callable[..., ArrayLike],
) -> optax.GradientTransformationExtraArgs:
    """An optimiser that follows `schedule` and keeps the applied rate in its state.

    `optax.inject_hyperparams(factory)(learning_rate=schedule)`, with one change: the old rate is
    read, because arrays of a state that nobody reads are not donated.

    Args:
      factory: rate -> optimiser; its argument must be called `learning_rate`.
      schedule: any of Optax or of this package, `annealable` included.
    """
    optimizer = optax.inject_hyperparams(factory)(learning_rate=schedule)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        updates, new = optimizer.update(updates, state, params, **extra)
        old, rate = (one.hyperparams["learning_rate"] for one in (state, new))
        rate = jnp.where(new.count > 0, rate, old)  # the count is never 0 here
        return updates, new._replace(hyperparams={**new.hyperparams, "learning_rate": rate})

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def applied_rate(opt_state: Any) -> dict[str, Array]:
    """`{"learning_rate": []}`, the rate of the last update, as a metric.

    Empty unless the optimiser was made with `scheduled` (or with `optax.inject_hyperparams` and a
    `learning_rate`), which keeps the rate in its state.
    """
    is_array = lambda _, value: isinstance(value, (jax.Array, np.ndarray))
    rate = optax.tree.get(opt_state, "learning_rate", filtering=is_array)
    return {} if rate is None else {"learning_rate": jnp.asarray(rate, jnp.float32)}
