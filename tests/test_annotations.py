"""Every function of the three packages says what it takes and what it gives back."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("jaxtrain", "jaxtta", "jaxrl")


def gaps(source: str) -> Iterator[str]:
    """What is not annotated in the functions of `source`, nested ones too; lambdas are exempt."""
    tree = ast.parse(source)
    methods = {f for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for f in c.body}
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        static = any(ast.unparse(d) == "staticmethod" for d in node.decorator_list)
        named = [*node.args.posonlyargs, *node.args.args]
        named = named[1:] if node in methods and not static else named
        rest = [arg for arg in (node.args.vararg, node.args.kwarg) if arg is not None]
        for arg in (*named, *node.args.kwonlyargs, *rest):
            if arg.annotation is None:
                yield f"line {node.lineno}: {arg.arg} of {node.name}"
        if node.returns is None:
            yield f"line {node.lineno}: the result of {node.name}"


def test_every_function_is_annotated():
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 50
    names = {path.relative_to(ROOT).as_posix(): path for path in files}
    found = [f"{name}, {gap}" for name, path in names.items() for gap in gaps(path.read_text())]
    assert not found, "annotate:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("def f(x, y: int) -> int: ...", ["x of f"]),
        ("def f(*x, y, **z) -> None: ...", ["y of f", "x of f", "z of f"]),
        ("def f():\n    async def g(x: int): ...", ["the result of f", "the result of g"]),
        ("class A:\n    def f(self, x) -> None: ...", ["x of f"]),
        ("class A:\n    @staticmethod\n    def f(x) -> None: ...", ["x of f"]),
        ("class A:\n    @classmethod\n    def f(cls) -> None: ...", []),
        ("f = lambda x: x", []),
    ],
)
def test_gaps_are_found(source, missing):
    assert [gap.partition(": ")[2] for gap in gaps(source)] == missing
