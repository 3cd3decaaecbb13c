"""The list of commands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import __main__ as listing
from jaxtrain.host import commands

ROOT = Path(__file__).resolve().parents[2]


def test_every_file_directly_in_experiments_is_a_command():
    files = {file.stem for file in (ROOT / "experiments").glob("[!_]*.py")}
    assert set(commands.names(ROOT / "experiments")) == files


def test_lists_commands_with_purpose_variants_and_times_and_without_jax():
    command = [sys.executable, "-X", "importtime", "-m", "experiments"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0
    assert not re.search(r"\| +(jax|jaxlib|flax|optax|matplotlib)$", found.stderr, re.M)
    heads = re.findall(r"^(\w+)  +(\S.*)$", found.stdout, re.M)
    assert [name for name, _ in heads] == commands.names(ROOT / "experiments")
    assert all(text.endswith(".") for _, text in heads)
    shown = " ".join(found.stdout.split())
    assert "small (36 s on one CPU core), small_dpo, small_frozen" in shown
    assert "small_lpo (two to four minutes on two CPU cores), debug" in shown


@pytest.mark.parametrize("name", ["lpn_arc", "lpn_patterns", "gpicl", "lr_schedules", "ppo"])
def test_the_smallest_full_example_of_a_command_has_its_time(name):
    shown = " ".join(listing.entry(name).split())
    assert re.search(r"\bsmall \((less than )?(\d+|[a-z]+) (s|minutes)\b", shown)
