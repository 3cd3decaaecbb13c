"""Lists the commands, with the variants of their configs and how long those take."""

import ast
import re
import textwrap
from pathlib import Path

from jaxtrain.host import cli, command, commands

_FOLDER = Path(__file__).parent
_CONFIGS = _FOLDER.parent / "configs"


def first_sentence(file: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    text = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split())
    return re.sub(r"(?<=\.) .*", "", text)


def entry(name: str) -> str:
    """A command's name and purpose, and below them its variants, each with its time if known."""
    lines = [f"{name:<21}{first_sentence(_FOLDER / f'{name}.py')}"]
    file = _CONFIGS / f"{name}.py"
    if file.is_file():
        variants = command.describe(str(file)).variants
        shown = ", ".join(f"{v} ({time})" if time else v for v, time in variants.items())
        lines += textwrap.wrap(shown, 98, initial_indent=" " * 4, subsequent_indent=" " * 4)
    return "\n".join(lines)


def run(_: cli.Command) -> None:
    start = "python -m experiments.NAME --config=configs/NAME.py:VARIANT"
    entries = "\n".join(map(entry, commands.names(_FOLDER)))
    print(f"{start} runs one; --help says more.\n\n{entries}")


if __name__ == "__main__":
    cli.tool(run)
