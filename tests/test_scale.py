"""The plans of docs/scale.md: its table says what is printed, and its commands print it."""

import re
import shlex

import pytest

from experiments import plan
from jaxtrain.host import cli
from tests.source_tree import ROOT

PAGE = (ROOT / "docs/scale.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for line in re.findall(r"^python -m experiments\.plan (.*)$", PAGE, re.M)
]


def printed(argv, capsys):
    cli.tool(plan.run, needs_config=True, flags=plan.FLAGS, argv=argv)
    return capsys.readouterr().out.splitlines()


def test_the_table_says_what_is_printed():
    rows = re.findall(
        r"^\| `(\w+:\w+)` \| (\d+) x \w+ \| (.*?) \| (.*?) \| (.*?) \| (\w+) \|", PAGE, re.M
    )
    blocks = re.split(r"(?m)^(?=\w+:\w+ on )", PAGE.partition("## As printed")[2])[1:]
    assert len(rows) == len(blocks) > 8
    for row, block in zip(rows, blocks, strict=True):
        name, devices, verdict, step, run, bound = row
        assert block.startswith(f"{name} on {devices} x ")
        assert f"a step takes at least {step} (" in block and f"; {bound} bound it" in block
        assert f"steps take at least {run}\n" in block
        assert f" {verdict.replace(': ', ': needs ')} per device" in block


def test_the_smallest_command_of_the_page_plans(capsys):
    (argv,) = [argv for argv in COMMANDS if "configs/ppo.py:debug" in argv[0]]
    lines = printed(argv, capsys)
    assert lines[0].startswith("ppo:debug on 1 x NVIDIA H100") and "verdict" in lines[-2]


@pytest.mark.ci
def test_a_stated_plan_is_what_its_command_prints(capsys):
    """Of the commands of the page the quickest ones; those of the networks for ARC take minutes."""
    chosen = [argv for argv in COMMANDS if "configs/gpicl.py:full" in argv[0]]
    assert len(chosen) == 2
    for argv in chosen:
        for line in printed(argv, capsys):
            assert f"\n{line}\n" in PAGE
