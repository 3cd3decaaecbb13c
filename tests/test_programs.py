"""What the tests of one run share and drop: folders of compiled programs."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tests import programs
from tests.source_tree import ROOT

PROBE = """
import os, pathlib, subprocess, sys
import jax, pytest

@pytest.mark.parametrize("starts_a_child", [False, True])
def test_probe(starts_a_child):
    folder = jax.config.jax_compilation_cache_dir
    if starts_a_child:
        child = [sys.executable, "-c", "import jax; print(jax.config.jax_compilation_cache_dir)"]
        assert subprocess.check_output(child, text=True).strip() == folder
    assert pathlib.Path(folder).is_dir()
    pathlib.Path(__file__).with_name(f"{os.getpid()}.found").write_text(folder)
"""


@pytest.mark.parametrize(("given", "workers"), [(False, 2), (True, 0)])
def test_a_run_has_one_folder_for_all_its_processes(tmp_path, given, workers):
    (tmp_path / "test_probe.py").write_text(PROBE)
    (tmp_path / "kept").mkdir()
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "kept")}
    if not given:
        del environment["JAX_COMPILATION_CACHE_DIR"]
    own = [f"-c{os.devnull}", f"--rootdir={tmp_path}", "-pno:cacheprovider", "-ptests.conftest"]
    command = [sys.executable, "-m", "pytest", *own, f"-n{workers}", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    folders = [file.read_text() for file in tmp_path.glob("*.found")]
    assert len(folders) == max(workers, 1) and len(set(folders)) == 1
    assert (folders[0] == str(tmp_path / "kept")) == given
    assert Path(folders[0]).exists() == given


def test_dropped_programs_are_gone():
    step = jax.jit(lambda x: x + 1)
    step(1.0)
    assert step._cache_size() == 1
    programs.drop()
    assert step._cache_size() == 0
    assert step(1.0) == 2


def test_programs_stay_until_the_process_is_large(monkeypatch):
    step = jax.jit(lambda x: x + 1)
    step(1.0)
    monkeypatch.setattr(programs, "LARGE", 2 * programs.resident())
    programs.drop_if_large()
    assert step._cache_size() == 1
    monkeypatch.setattr(programs, "LARGE", 0)
    programs.drop_if_large()
    assert step._cache_size() == 0
