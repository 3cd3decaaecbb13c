"""Pages made from docs/systems.md and from the first sentences of docstrings.

    python -m docs.tables

writes the table of methods in README.md, docs/api.md, a page per folder in docs/api/, and into the
face of its folder the line of a method that has the name of its file. It reads the files as text,
so nothing has to be installed.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("jaxtta", "jaxrl", "jaxtrain")
COLUMNS = ["System", "Paper", "Module", "Config", "Test", "Claim", "Status"]
EVIDENCE = ["System", "Rule equals", "Shown", "Control", "Command"]
NOTE = "<!-- Written by `python -m docs.tables`; change docs/systems.md or a docstring instead. -->"
API = f"""# Functions

{NOTE}

Every folder and every file in it, in the words of its own first sentence. The name of a file leads
to its functions. `jaxtrain.host` is for experiments; no method needs it.
"""


def rows_of(columns: list[str]) -> list[dict[str, str]]:
    """The rows of the table of docs/systems.md that has these columns."""
    for block in (ROOT / "docs/systems.md").read_text().split("\n\n"):
        lines = [line.strip("|").split("|") for line in block.splitlines() if line.startswith("|")]
        found = [[cell.strip() for cell in cells] for cells in lines]
        if found and found[0] == columns:
            return [dict(zip(columns, row, strict=True)) for row in found[2:]]
    raise ValueError(f"docs/systems.md has no table with the columns {columns}.")


def systems() -> list[dict[str, str]]:
    """What every system is."""
    return rows_of(COLUMNS)


def evidence() -> list[dict[str, str]]:
    """What every system has been shown to do."""
    return rows_of(EVIDENCE)


def in_backticks(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def path_of(module: str) -> Path:
    """The folder or file of a module, below the root."""
    path = Path(*module.split("."))
    return path if (ROOT / path).is_dir() else path.with_suffix(".py")


def first_sentence(file: Path) -> str:
    paragraph = (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n\n")[0]
    return re.split(r"(?<=[.?!])\s", " ".join(paragraph.split()))[0]


def folders() -> dict[str, list[str]]:
    """Package -> names of the files in it."""
    inits = [init for package in PACKAGES for init in sorted((ROOT / package).rglob("__init__.py"))]
    return {
        ".".join(init.parent.relative_to(ROOT).parts): sorted(
            file.stem for file in init.parent.glob("*.py") if file != init
        )
        for init in inits
    }


def table(columns: list[str], rows: list[list[str]]) -> str:
    head, *body = (f"| {' | '.join(cells)} |\n" for cells in [columns, *rows])
    return head + "|---" * len(columns) + "|\n" + "".join(body)


def methods() -> str:
    """The table of README.md: a row per system, with links that work from there."""
    rows = []
    for system in systems():
        modules = [f"[`{m}`]({path_of(m)})" for m in in_backticks(system["Module"])]
        configs = [f"[{Path(c).name}]({c})" for c in in_backticks(system["Config"])]
        rows.append([system["System"], system["Paper"], ", ".join(modules), ", ".join(configs)])
    return table(["Method", "Paper", "Module", "Config"], rows)


def index() -> str:
    """docs/api.md: a heading per folder, a row per file."""
    text, rows_of_systems = API, systems()

    def systems_in(module: str) -> str:
        names = [s["System"] for s in rows_of_systems if module in in_backticks(s["Module"])]
        return ", ".join(names)

    for folder, names in folders().items():
        rows = []
        for name in names:
            module = f"{folder}.{name}"
            sentence = first_sentence(ROOT / path_of(module)).replace("|", "\\|")
            rows.append([f"[{name}](api/{folder}.md#{name})", sentence, systems_in(module)])
        here = systems_in(folder)
        text += f"\n## {folder}\n\n{first_sentence(ROOT / path_of(folder) / '__init__.py')}"
        text += f" Systems: {here}.\n" if here else "\n"
        text += f"\n{table(['File', 'What it holds', 'Systems'], rows)}" if rows else ""
    return text + "\n```{toctree}\n:hidden:\n:glob:\n\napi/*\n```\n"


def page(folder: str, names: list[str]) -> str:
    """docs/api/<folder>.md: a heading per file, filled from the docstrings when Sphinx runs."""
    block = "\n```{{eval-rst}}\n.. automodule:: {}\n```\n"
    text = f"# {folder}\n\n{NOTE}\n" + block.format(folder)
    for name in names:
        text += f"\n## {name}\n" + block.format(f"{folder}.{name}\n   :members:")
    return text


def faces() -> dict[Path, str]:
    """Path -> text of the `__init__.py` of every folder that holds a method of the table."""
    found: dict[Path, str] = {}
    for name in (name for row in systems() for name in in_backticks(row["Module"])):
        file = ROOT / path_of(name)
        folder, _, method = name.rpartition(".")
        init = ROOT / path_of(folder) / "__init__.py"
        if not file.is_file() or f"\ndef {method}(" not in file.read_text():
            continue
        head, begin, block = found.get(init, init.read_text()).partition("if TYPE_CHECKING:\n")
        lines, end, tail = block.partition("\nlazy(")
        line = f"    from {name} import {method} as {method}"
        if begin and line not in lines:
            ordered = sorted([*lines.splitlines(), line], key=str.split)
            lines = "\n".join(ordered) + "\n"
        found[init] = head + begin + lines + end + tail
    return found


def pages() -> dict[Path, str]:
    """Path -> text of every page this file writes."""
    readme = (ROOT / "README.md").read_text()
    head, _, rest = readme.partition("<!-- methods -->\n")
    _, end, tail = rest.partition("<!-- /methods -->\n")
    if not end:
        raise ValueError("README.md has no <!-- methods --> ... <!-- /methods --> to fill.")
    return {
        ROOT / "README.md": f"{head}<!-- methods -->\n{methods()}{end}{tail}",
        ROOT / "docs/api.md": index(),
        **faces(),
    } | {ROOT / f"docs/api/{f}.md": page(f, names) for f, names in folders().items()}


def stale() -> list[Path]:
    """Pages that are not what they would be if they were written now, below the root."""
    now = pages()
    found = [path for path, text in now.items() if not path.exists() or path.read_text() != text]
    found += [path for path in (ROOT / "docs/api").glob("*") if path not in now]
    return [path.relative_to(ROOT) for path in found]


def main() -> None:
    written, found = pages(), stale()
    for path in (ROOT / path for path in found):
        path.parent.mkdir(exist_ok=True)
        if path in written:
            path.write_text(written[path])
        else:
            path.unlink()
    print("\n".join(f"wrote {path}" for path in found) or "every page is up to date")


if __name__ == "__main__":
    main()
