"""Packages that list what they offer and load it when it is asked for.

The `__init__.py` of a folder is its face: imports under `if TYPE_CHECKING:`, which type checkers
and editors read, and a call of `lazy(__name__)`, which makes the same names work at run time.
Importing the package then costs nothing, `dir()` shows its names, and the first use of one imports
the module that holds it.

A method often has the name of its file. Such a name means the method, `jaxtta.images.rmt`; the
other contents of the file are imported from it, `from jaxtta.images.rmt import warm_up`.
"""

import ast
import importlib
import sys
from types import ModuleType
from typing import Any


class _Face(ModuleType):
    _offers: dict[str, tuple[str, str]]  # name -> module that holds it, its name there

    def __getattr__(self, name: str) -> Any:
        try:
            module, attribute = self._offers[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None
        if module == self.__name__:
            value: Any = importlib.import_module(f"{module}.{attribute}")
        else:
            value = getattr(importlib.import_module(module), attribute)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds every submodule it has loaded to its package.
        if isinstance(value, ModuleType):
            module, attribute = self._offers.get(name, (self.__name__, name))
            if module == value.__name__:
                value = getattr(value, attribute)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        own = (name for name in super().__dir__() if name.startswith("__"))
        return sorted({*own, *self._offers})


def lazy(name: str) -> None:
    """Makes a package offer what its file imports under `if TYPE_CHECKING:`.

    Args:
      name: `__name__` of the package.

    Raises:
      ImportError: the package has no source, or no such block.
    """
    package = sys.modules[name]
    loader: Any = package.__spec__.loader if package.__spec__ else None
    source = loader.get_source(name) if loader else None
    blocks = [
        node.body
        for node in ast.parse(source or "").body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    if len(blocks) != 1:
        raise ImportError(f"{name} needs its source and one block `if TYPE_CHECKING:` in it.")
    offers = {}
    for node in blocks[0]:
        assert isinstance(node, ast.ImportFrom) and node.module, "a face holds `from ... import`"
        for alias in node.names:
            offers[alias.asname or alias.name] = (node.module, alias.name)
    package.__dict__["_offers"] = offers
    package.__dict__["__all__"] = list(offers)
    package.__class__ = _Face
