"""Code that is loaded when it is used, and missed in one sentence: packages, users' functions."""

import importlib
from collections.abc import Callable
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
        package = (error.name or module).partition(".")[0]
        raise UsageError(
            f"the package {package} is not installed; the extra {extra!r} brings it: "
            f"pip install -e '.[{extra}]'"
        ) from error


def import_function(name: str, setting: str) -> Callable[..., Any]:
    """The function that a setting names as `module:function`.

    Modules are looked for where Python looks: installed packages, `PYTHONPATH`, and the folder that
    a command was started in.

    Args:
      name: such as `my_package.tasks:maze`.
      setting: the key that holds it, for errors.

    Raises:
      UsageError: the name is not of that form, there is no such module or function, or a package
        that the module needs is not installed.
    """
    module, _, function = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), function)):
        raise UsageError(f"{setting}={name!r} must name a function as module:function")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        missing = error.name or module
        ours = module == missing or module.startswith(f"{missing}.")
        where = "; start the command in its folder or set PYTHONPATH" if ours else ""
        raise UsageError(f"{setting}={name!r}: there is no module {missing!r}{where}") from error
    if not callable(found):
        raise UsageError(f"{setting}={name!r}: {module} has no function {function!r}")
    return found
