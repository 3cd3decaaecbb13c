"""Faces load nothing and show everything, and a method wins over its file.

Most of it only shows in a fresh interpreter, where nothing was imported before.
"""

import subprocess
import sys
import types
from pathlib import Path

import pytest

from jaxtrain.faces import lazy
from tests.source_tree import ROOT, module_name, sources
from tests.test_imports import faces

PURE = sources("jaxtrain", "jaxtta", "jaxrl")
FACES = {name: offers for name, offers in faces(PURE).items() if offers}
MODULES = set(map(module_name, PURE))


def run(program: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_package_has_a_face():
    packages = {".".join(path.parts[:-1]) for path in PURE}
    assert packages - set(FACES) == {"jaxtrain.host"}


@pytest.mark.parametrize("package", ["jaxtrain", "jaxtta", "jaxrl"])
def test_importing_a_package_costs_nothing(package):
    program = """
import importlib, os, sys
before = os.times()
importlib.import_module(sys.argv[1])
after = os.times()
print(after.user + after.system - before.user - before.system, *sys.modules)
"""
    seconds, *loaded = run(program, package).split()
    tops = {name.partition(".")[0] for name in loaded}
    assert not {"jax", "numpy", "optax", "absl"} & tops
    ours = {name for name in loaded if name.partition(".")[0] in ("jaxtrain", "jaxtta", "jaxrl")}
    assert ours == {"jaxtrain", "jaxtrain.faces", package}
    assert float(seconds) < 0.1


@pytest.mark.parametrize("package", ["jaxtta", "jaxrl"])
@pytest.mark.parametrize("first", ["", "jaxtta.images.rmt", "jaxrl.actor_critic"])
def test_names_work_after_one_import(package, first):
    program = """
import importlib, sys, types
package, first = sys.argv[1:]
if first:
    importlib.import_module(first)
if package == "jaxtta":
    import jaxtta
    names = [jaxtta.images.eata, jaxtta.images.rmt, jaxtta.lpn.gradient_ascent]
else:
    import jaxrl
    names = [jaxrl.ppo, jaxrl.meta.evolution, jaxrl.envs.cart_pole]
for value in names:
    assert isinstance(value, types.FunctionType), value
"""
    run(program, package, first)


def test_a_method_wins_over_its_file_in_any_order():
    program = """
import types
import jaxtta
from jaxtta.images.rmt import warm_up
import jaxtta.images.petal
assert isinstance(warm_up, types.FunctionType)
assert isinstance(jaxtta.images.rmt, types.FunctionType)
assert isinstance(jaxtta.images.petal, types.FunctionType)
from jaxtta.images import rmt, sar
assert isinstance(rmt, types.FunctionType) and isinstance(sar, types.FunctionType)
import jaxtta.images.sar
assert jaxtta.images.sar is sar
"""
    run(program)


def test_dir_and_star_show_what_a_face_lists_before_it_is_loaded():
    program = """
import importlib, sys
for name in sys.argv[1:]:
    face = importlib.import_module(name)
    print(name, *face.__all__)
    assert set(face.__all__) <= set(dir(face)), name
    assert "TYPE_CHECKING" not in dir(face) and "lazy" not in dir(face)
assert "jax" not in sys.modules
"""
    lines = [line.split() for line in run(program, *FACES).splitlines()]
    assert {name: set(shown) for name, *shown in lines} == {n: set(o) for n, o in FACES.items()}


def test_every_name_of_every_face_can_be_loaded():
    program = """
import importlib, sys
for name in sys.argv[1:]:
    face = importlib.import_module(name)
    for offered in face.__all__:
        assert getattr(face, offered) is not None
        assert offered in vars(face), f"{name}.{offered} is looked up every time"
"""
    run(program, *FACES)


def test_a_name_that_is_also_a_file_comes_from_that_file():
    """Else `face.name` would depend on what was imported first."""
    wrong = [
        f"{face}.{name} is {target}"
        for face, offers in FACES.items()
        for name, target in offers.items()
        if f"{face}.{name}" in MODULES and target not in (f"{face}.{name}", f"{face}.{name}.{name}")
    ]
    assert not wrong


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes a package `planted` of the given files; gone afterwards."""

    def make(**files: str) -> types.ModuleType:
        (tmp_path / "planted").mkdir()
        for name, text in files.items():
            Path(tmp_path / f"planted/{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return __import__("planted")

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "planted"]:
        del sys.modules[name]


HEAD = "from typing import TYPE_CHECKING\nfrom jaxtrain.faces import lazy\n"


def test_a_name_is_loaded_when_it_is_asked_for_and_only_then(package):
    face = package(
        __init__=f"{HEAD}if TYPE_CHECKING:\n    from planted.a import f as g\nlazy(__name__)\n",
        a="f = object()\n",
    )
    assert "planted.a" not in sys.modules and "g" in dir(face)
    assert face.g is sys.modules["planted.a"].f
    with pytest.raises(AttributeError, match="module 'planted' has no attribute 'f'"):
        _ = face.f


@pytest.mark.parametrize("block", ["", "if TYPE_CHECKING:\n    import os\n" * 2])
def test_a_face_without_its_one_list_says_so(package, block):
    with pytest.raises(ImportError, match="planted needs its source and one block"):
        package(__init__=f"{HEAD}{block}lazy(__name__)\n")


def test_a_package_without_source_is_refused():
    sys.modules["planted"] = types.ModuleType("planted")
    try:
        with pytest.raises(ImportError, match="planted needs its source"):
            lazy("planted")
    finally:
        del sys.modules["planted"]
