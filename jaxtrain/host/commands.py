"""Which modules of a package are commands, so that any other one says so when it is started.

The `__init__.py` of a package of commands calls `refuse_others(__name__)`. Python imports it before
it runs `python -m PACKAGE.NAME`, which would do nothing, and report success, for a module without
the line `if __name__ == "__main__":`. This file is imported by every process that starts such a
module, so it needs the standard library alone.
"""

import sys
from pathlib import Path

_MAIN = 'if __name__ == "__main__":'


def _is_command(file: Path) -> bool:
    return file.is_file() and (file.name == "__main__.py" or f"\n{_MAIN}\n" in file.read_text())


def names(folder: Path) -> list[str]:
    """Names of the commands directly in `folder`, in alphabetical order."""
    files = (file for file in sorted(folder.glob("*.py")) if not file.name.startswith("__"))
    return [file.stem for file in files if _is_command(file)]


def refuse_others(package: str) -> None:
    """Ends the process with code 2 and a sentence if it was started with a module of `package` that
    is no command; does nothing in any other process.
    """
    if sys.argv[:1] != ["-m"]:  # what Python puts there until it has found the module
        return
    module = sys.orig_argv[-len(sys.argv)]
    if module.startswith("-"):  # -mpackage.module
        module = module.partition("m")[2]
    top, _, rest = module.partition(".")
    folder = Path(sys.modules[package].__file__ or "").parent
    if top != package:
        return
    file = folder.joinpath(*rest.split(".")) if rest else folder
    if not (_is_command(file / "__main__.py") or rest and _is_command(file.with_suffix(".py"))):
        print(
            f"error: {module} is no command; the commands of {package} are "
            f"{', '.join(names(folder))}",
            file=sys.stderr,
        )
        sys.exit(2)
