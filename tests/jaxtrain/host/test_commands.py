"""Modules that are no commands say so when they are started, and the others start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FACE = """
from jaxtrain.host import commands
commands.refuse_others(__name__)
"""
COMMAND = """
import sys
if __name__ == "__main__":
    print("started", *sys.argv[1:])
"""


@pytest.fixture
def start(tmp_path):
    """Starts Python in a folder with a package `package` of a command, a part and a worker."""
    files = {
        "package/__init__.py": FACE,
        "package/go.py": COMMAND,
        "package/no_main.py": "print('imported')",
        "package/parts/__init__.py": "",
        "package/parts/part.py": "import package.go",
        "package/parts/worker.py": COMMAND,
        "other.py": "import package.parts.part" + COMMAND,
    }
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)

    def run(*argv):
        found = subprocess.run(
            [sys.executable, *argv],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        return found.returncode, found.stdout, found.stderr

    return run


@pytest.mark.parametrize(
    "argv",
    [
        ["-m", "package.no_main"],
        ["-m", "package.parts.part"],
        ["-mpackage.parts.part"],
        ["-B", "-X", "utf8", "-m", "package.parts.part", "--flag", "-m", "package.go"],
        ["-m", "package.parts"],
        ["-m", "package.missing"],
        ["-m", "package"],
    ],
    ids=" ".join,
)
def test_what_is_no_command_is_refused_with_a_sentence_and_code_2(start, argv):
    module = next(item for item in argv if "package" in item).removeprefix("-m")
    error = f"error: {module} is no command; the commands of package are go\n"
    assert start(*argv) == (2, "", error)


@pytest.mark.parametrize(
    "argv",
    [
        ["-m", "package.go"],
        ["-mpackage.go"],
        ["-m", "package.parts.worker"],
        ["-m", "other"],
        ["other.py"],
        ["-c", "import package.parts.part; print('started a -m')"],
        ["-c", "import sys; sys.argv = ['x'] * 9; import package; print('started a -m')"],
    ],
    ids=" ".join,
)
def test_commands_and_other_programs_start(start, argv):
    arguments = ["a", "-m"] if argv[0] != "-c" else []
    assert start(*argv, *arguments) == (0, "started a -m\n", "")


def test_a_package_that_is_a_command_starts(start, tmp_path):
    (tmp_path / "package" / "__main__.py").write_text(COMMAND)
    assert start("-m", "package", "a") == (0, "started a\n", "")


@pytest.mark.parametrize(
    "module",
    ["experiments.images.methods", "experiments.data.arc.tasks", "experiments.rl", "benchmarks"],
)
def test_parts_of_this_repository_are_no_commands(module):
    command = [sys.executable, "-m", module]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 2 and found.stderr.startswith(f"error: {module} is no command; ")


def test_the_worker_of_the_pool_is_started_with_m():
    command = [sys.executable, "-m", "experiments.data.arc.worker"]
    found = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")
