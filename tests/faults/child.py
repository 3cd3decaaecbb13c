"""A run of pytest in a process that was forked with its libraries loaded, see `__main__`."""

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest


class FirstFailure:
    """Keeps the first test, or file, that fails: `test_file.py::test_name[case]`, empty if none."""

    name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed and not self.name:
            path = report.nodeid.split("::")[0]
            self.name = Path(path).name + report.nodeid.removeprefix(path)

    pytest_collectreport = pytest_runtest_logreport


def run(tree: Path, tests: list[str], xla_flags: str, output: Path, answer: Connection) -> None:
    """Tests of `tree` in this process; sends pytest's exit code and the first failure.

    This file imports nothing else of the repository, so that all of it comes from `tree`.
    """
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ["XLA_FLAGS"] = xla_flags
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *tests]
    failure = FirstFailure()
    code = pytest.main(sys.argv[1:], plugins=[failure])
    answer.send((int(code), failure.name))
