"""Runs the notebooks, all or those named, and keeps their outputs: `python -m docs.execute`.

A notebook remembers which code its outputs are of, so that a test can tell when they are stale.
"""

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NOTEBOOKS = tuple(sorted((ROOT / "docs/notebooks").glob("*.ipynb")))


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells that are run."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def code(notebook: dict[str, Any]) -> str:
    """What is run, as one program."""
    return "\n\n".join("".join(cell["source"]) for cell in code_cells(notebook))


def fingerprint(notebook: dict[str, Any]) -> str:
    """Names the code."""
    return hashlib.sha256(code(notebook).encode()).hexdigest()[:16]


def main(names: list[str]) -> None:
    """Runs the notebooks of these names, all of them if there are none."""
    import nbformat
    from nbclient import NotebookClient

    for path in NOTEBOOKS:
        if names and path.stem not in names:
            continue
        notebook, start = nbformat.read(path, 4), time.monotonic()
        where = {"metadata": {"path": str(ROOT)}}
        NotebookClient(
            notebook, timeout=900, startup_timeout=900, record_timing=False, resources=where
        ).execute()
        notebook.metadata["outputs_of"] = fingerprint(notebook)
        nbformat.write(notebook, path)
        print(f"{path.stem}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
