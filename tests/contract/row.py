"""What `cores.py` says about a core."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxtrain
from jaxtrain import parallel

BATCH_SIZE = 16
FEATURES = 6
CLASSES = 4


class Row(NamedTuple):
    """One core and what the battery needs to run it.

    Attributes:
      name: shown in test names.
      build: `axis_name -> Core or HostCore`; called again for every execution mode.
      init_args: makes the arguments of `Core.init`, JAX arrays the core must not take over.
      batch: `i -> batch`; leaves are NumPy arrays `[batch, ...]`, batch divisible by 8.
      misuse: `core, state -> ...`, a call with wrong shapes that must raise `error`.
      error: regular expression that the message of that ValueError matches.
      random: whether results are claimed to depend on the key.
      exceptions: name of a check -> the reason why this core cannot pass it.
    """

    name: str
    build: Callable[[parallel.AxisName | None], jaxtrain.Core | jaxtrain.HostCore]
    init_args: Callable[[], tuple[Any, ...]]
    batch: Callable[[int], Any]
    misuse: Callable[[Any, Any], Any]
    error: str
    random: bool = False
    exceptions: dict[str, str] = {}


def key_only() -> tuple[Any, ...]:
    return (jax.random.key(0),)


def places(i: int) -> np.ndarray:
    """Places in the batch, for cores that make their data themselves."""
    return np.arange(BATCH_SIZE, dtype=np.int32)
