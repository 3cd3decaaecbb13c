"""A run of pytest in a process that was forked with its libraries loaded, see `__main__`."""

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest


class Failures:
    """Keeps the tests, or files, that fail: `test_file.py::test_name[case]`."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed:
            path = report.nodeid.split("::")[0]
            self.names.append(Path(path).name + report.nodeid.removeprefix(path))

    pytest_collectreport = pytest_runtest_logreport


def run(tree: Path, arguments: list[str], xla_flags: str, output: Path, answer: Connection) -> None:
    """Tests of `tree` in this process; sends pytest's exit code and what failed.

    This file imports nothing else of the repository, so that all of it comes from `tree`.
    """
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ["XLA_FLAGS"] = xla_flags
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["pytest", "-q", "-p", "no:cacheprovider", "--tb=no", *arguments]
    failures = Failures()
    code = pytest.main(sys.argv[1:], plugins=[failures])
    answer.send((int(code), failures.names))
