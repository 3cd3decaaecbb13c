"""Packages that not every user has: loaded when they are used, and missed in one sentence."""

import importlib
from typing import Any

from jaxtrain.host.settings import UsageError


def import_extra(module: str, extra: str) -> Any:
    """A module of a package outside the core dependencies.

    Args:
      module: absolute name, such as `matplotlib.figure`.
      extra: the optional dependencies of pyproject.toml that install it.

    Raises:
      UsageError: it, or a package it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the package {error.name} is not installed; the extra {extra!r} brings it: "
            f"pip install -e '.[{extra}]'"
        ) from error
