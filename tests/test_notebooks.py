"""Notebooks of the documentation: their outputs are of their code, and their code runs."""

import ast
import copy
import importlib
import json
import os
import re
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from docs import execute
from tests.source_tree import PRODUCT, ROOT

NOTEBOOKS = {path.stem: json.loads(path.read_text()) for path in execute.NOTEBOOKS}
MACHINE = re.compile(r"(?<![\w.])/(?:home|Users|root|tmp|usr|opt|work|var|mnt)/\w")


def outputs_of(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in execute.code_cells(notebook) for output in cell["outputs"]]


def problems(notebook: dict[str, Any]) -> list[str]:
    """Why its outputs cannot be shown, or what they lack."""
    cells, outputs = execute.code_cells(notebook), outputs_of(notebook)
    counts = [cell["execution_count"] for cell in cells]
    streams = [output.get("name") for output in outputs]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    texts = [{**output, "data": {}} if output in figures else output for output in outputs]
    checks = {
        "was not run from top to bottom": counts != [*range(1, len(cells) + 1)],
        "was changed after it was run": (
            notebook["metadata"].get("outputs_of") != execute.fingerprint(notebook)
        ),
        "shows an error": any(output["output_type"] == "error" for output in outputs),
        "shows a warning": "stderr" in streams,
        "names a folder of one machine": MACHINE.search(
            json.dumps([texts, execute.code(notebook)])
        ),
        "draws nothing": not figures,
        "asserts nothing": "assert " not in execute.code(notebook),
    }
    return [problem for problem, there in checks.items() if there]


def missing(program: str) -> list[str]:
    """Imports that do not exist, and names asked of modules of ours that do not have them."""
    tree, known, absent = ast.parse(program), {}, []
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        for alias in node.names:
            names = [alias.name] if isinstance(node, ast.Import) else [node.module, alias.name]
            try:
                found = importlib.import_module(names[0])
                known[alias.asname or alias.name] = getattr(found, names[1]) if names[1:] else found
            except (ImportError, AttributeError):
                absent.append(".".join(names))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.fullmatch(r"[\w.]+", dotted := ast.unparse(node)):
            root, *rest = dotted.split(".")
            value = known.get(root)
            for name in rest:
                if not isinstance(value, ModuleType) or value.__name__.split(".")[0] not in PRODUCT:
                    break
                if not hasattr(value, name):
                    absent.append(f"{value.__name__}.{name}")
                    break
                value = getattr(value, name)
    return sorted(set(absent))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_shows_what_its_code_gave(name):
    found = problems(NOTEBOOKS[name])
    assert not found, f"{name} {', '.join(found)}; run `python -m docs.execute {name}`."


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_uses_what_exists(name):
    notebook = NOTEBOOKS[name]
    assert not missing(execute.code(notebook))
    prose = "".join("".join(cell["source"]) for cell in notebook["cells"])
    links = re.findall(r"\]\((?!\w+:)([^)#\s]+)[^)\s]*\)", prose)
    assert links and all((ROOT / "docs/notebooks" / link).exists() for link in links)


def test_there_is_one_for_every_door():
    index = (ROOT / "docs/index.md").read_text()
    assert len(NOTEBOOKS) >= 4
    assert all(f"](notebooks/{name}.ipynb)" in index for name in NOTEBOOKS)


def _fresh(notebook: dict[str, Any]) -> None:
    notebook["metadata"]["outputs_of"] = execute.fingerprint(notebook)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda n: execute.code_cells(n)[2]["source"].append("\nx = 1"), "was changed"),
        (lambda n: execute.code_cells(n)[2].update(execution_count=None), "top to bottom"),
        (lambda n: outputs_of(n)[0].update(output_type="error"), "an error"),
        (lambda n: outputs_of(n)[0].update(name="stderr"), "a warning"),
        (lambda n: outputs_of(n)[0].update(text=["in /home/me/data"]), "one machine"),
        (lambda n: [cell.update(outputs=[]) for cell in execute.code_cells(n)], "draws nothing"),
        (
            lambda n: [
                [cell.update(source=["pass"]) for cell in execute.code_cells(n)],
                _fresh(n),
            ],
            "asserts nothing",
        ),
    ],
)
def test_what_is_wrong_with_a_notebook_is_found(change, problem):
    notebook = copy.deepcopy(next(iter(NOTEBOOKS.values())))
    change(notebook)
    (found,) = problems(notebook)
    assert problem in found


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("from jaxtta import lpn\nlpn.Config, lpn.Configs", ["jaxtta.lpn.Configs"]),
        ("import jaxtta\njaxtta.images.tent, jaxtta.image.tent", ["jaxtta.image"]),
        (
            "from jaxrl import reinforce, ppo\nimport nothing_at_all",
            ["jaxrl.reinforce", "nothing_at_all"],
        ),
        ("import jax.numpy as jnp\njnp.whatever", []),
        (
            "from jaxtta import lpn\nlpn.scorer(1, b=2.0).score, lpn.pairs(1).mask",
            ["jaxtta.lpn.pairs"],
        ),
    ],
)
def test_what_does_not_exist_is_found(program, absent):
    assert missing(program) == absent


@pytest.mark.ci
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_its_claims_hold(name):
    run = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-"],
        input=execute.code(NOTEBOOKS[name]),
        cwd=ROOT,
        env=os.environ | {"MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
