"""What every schedule checks of its arguments, and the one formula all share."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxtrain.known_numbers import known


def check_counts(**counts: Any) -> None:
    """Refuses numbers that must be whole and at least 1; traced ones pass."""
    for name, value in counts.items():
        if known(value) and not (np.isfinite(value) and value >= 1 and value == int(value)):
            raise ValueError(f"{name} is {value}, but must be a whole number of at least 1.")


def check_rates(**rates: Any) -> None:
    for name, value in rates.items():
        if known(value) and not (np.isfinite(value) and value >= 0):
            raise ValueError(
                f"{name} is {value}, but a learning rate must be finite and not negative."
            )


def check_lengths(**lengths: Any) -> None:
    for name, value in lengths.items():
        if known(value) and not (np.isfinite(value) and value >= 0 and value == int(value)):
            raise ValueError(
                f"{name} is {value}, but a number of steps must be whole and not negative."
            )


def check_fit(total_steps: Any, **phases: Any) -> None:
    check_lengths(total_steps=total_steps, **phases)
    if all(map(known, (total_steps, *phases.values()))) and sum(phases.values()) > total_steps:
        parts = " + ".join(f"{name} {value}" for name, value in phases.items())
        raise ValueError(
            f"the phases ({parts} = {sum(phases.values())} steps) are longer than the run of "
            f"{total_steps} steps; shorten a phase or lengthen the run."
        )


def share(step: Array, start: ArrayLike, length: ArrayLike) -> Array:
    """How much of a phase has passed, in [0, 1]; the difference is exact for integer steps."""
    return jnp.clip((step - start) / jnp.maximum(length, 1), 0.0, 1.0)
