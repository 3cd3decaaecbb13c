"""Names for loops whose length is only known when they run, to tell their cost before."""

import re
from contextlib import AbstractContextManager
from typing import NamedTuple

import jax

_SCOPE = re.compile(r"(\w+)_at_most_(\d+)\)*$")


class Bound(NamedTuple):
    """What `at_most` said of a loop.

    Attributes:
      name: of the loop.
      most: passes it makes at most.
    """

    name: str
    most: int


def at_most(name: str, most: int) -> AbstractContextManager[None]:
    """Says of the `while_loop` or `fori_loop` in its scope that it makes at most `most` passes.

    It changes no number. `jaxtrain.host.costs` reads it in the traced program, and profiles show
    it as the loop's name.

    Args:
      name: letters, digits and underscores.
      most: passes, at least 0.
    """
    return jax.named_scope(f"{name}_at_most_{most}")


def bound(name_stack: object) -> Bound | None:
    """What `at_most` said of an equation with this name stack, None if nothing."""
    found = _SCOPE.search(str(name_stack))
    return found and Bound(found[1], int(found[2]))
