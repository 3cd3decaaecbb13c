"""What is left of an agent's return when it decides every L steps: numbers and their figure."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrl.control.held_actions import frequency_averaged_score
from jaxtrain.host.report import figure_style, save_figure


def returns_by_length(mean_return: Callable[[Array], Array], lengths: Sequence[int]) -> Array:
    """`mean_return(L)` for every L, in one program, `[lengths]`."""
    return jax.vmap(mean_return)(jnp.asarray(lengths, jnp.int32))


def summary(
    curves: np.ndarray, lengths: Sequence[int], *, offset: float, max_return: float
) -> dict[str, Any]:
    """`return_held_L` for every L, and `fas`, of curves `[..., lengths]`."""
    score = frequency_averaged_score(
        jnp.asarray(curves), lengths, offset=offset, max_return=max_return
    )
    found = {f"return_held_{n}": curves[..., i] for i, n in enumerate(lengths)}
    return found | {"fas": np.asarray(score)}


def figure(curves: Mapping[str, np.ndarray], lengths: Sequence[int], file: Path) -> None:
    """Return against L; a line per trained agent, a colour per name, of curves `[..., lengths]`."""
    with figure_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(5, 3))
        for i, (name, agents) in enumerate(curves.items()):
            lines = agents.reshape(-1, len(lengths)).T
            drawn = axes.plot(lengths, lines, color=f"C{i}", marker=".")
            drawn[0].set_label(name)
        axes.set_xlabel("steps between two decisions")
        axes.set_ylabel("mean return")
        axes.legend(loc="upper left", bbox_to_anchor=(0.5, 1.0), fontsize=7)
        save_figure(figure, file)
