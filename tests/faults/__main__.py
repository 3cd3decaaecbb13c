"""Plants every fault of the table in a copy of the tree and says which ones the tests let live.

    python -m tests.faults                       # all of them
    python -m tests.faults jaxrl/ lpn/search     # those whose file or description has such a part
    python -m tests.faults --jobs=4
    python -m tests.faults --first=before.log    # what this command printed before

A fault is killed when a test that the table names for its file fails, and passes without it. They
run as by default: a test that needs `-m` does not count. With `--first`, the test that killed a
fault before runs alone, and the others only if it passes. The tree is copied once per job, whole
files are put back after each fault, compiled programs are shared by all of them, and tests run in
processes forked from one that has loaded JAX. Exit code 1 if a fault survives.
"""

import argparse
import contextlib
import importlib
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from tests.faults import child
from tests.faults.table import FAULTS, Fault
from tests.source_tree import ROOT

IGNORED = shutil.ignore_patterns(".*", "__pycache__", "runs", "_build")
LONGEST = 1200  # seconds; a fault that makes a program run forever is seen
EIGHT = "--xla_force_host_platform_device_count=8"
LIBRARIES = "jax.numpy flax.linen flax.nnx optax orbax.checkpoint ml_collections pytest".split()
LIBRARIES += ["scipy.special", "scipy.ndimage", "matplotlib.pyplot"]
KILLED = re.compile(r"^killed +\d+ s +(\S+: .+?) +(\w+\.py::\w+)", re.MULTILINE)

forks = multiprocessing.get_context("forkserver")


def killers(printed: str) -> dict[str, str]:
    """Name of a fault -> `test_file.py::test_name`, all cases of what killed it, the last one."""
    return dict(KILLED.findall(printed))


def alone(fault: Fault, killer: str) -> list[str]:
    """What pytest calls the killer of a fault; empty if the table does not name its file."""
    file, _, test = killer.partition("::")
    return [f"{path}::{test}" if test else path for path in fault.tests if Path(path).name == file]


def failing(arguments: list[str], tree: Path) -> list[str]:
    """What fails in the tree when pytest is called so."""
    output = tree.with_suffix(".txt")
    flags = os.environ.get("XLA_FLAGS", "")
    if any("multidevice/cases_" in argument for argument in arguments):
        flags = f"{flags} {EIGHT}"
    answer, sent = forks.Pipe(duplex=False)
    process = forks.Process(target=child.run, args=(tree, arguments, flags, output, sent))
    process.start()
    sent.close()
    try:
        if not answer.poll(LONGEST):
            return [f"no end within {LONGEST} s"]
        code, names = answer.recv()
    except EOFError:
        code, names = "no answer", []
    finally:
        process.kill()
        process.join()
    if code not in (0, 1):
        print(f"{' '.join(arguments)}: pytest ended with {code}\n{output.read_text()[-3000:]}")
    return names


def killed_by(fault: Fault, killer: str, tree: Path) -> str:
    """The test that fails with the fault in the tree, empty if none does."""
    path = tree / fault.file
    text = path.read_text()
    path.write_text(text.replace(fault.old, fault.new))
    try:
        first = alone(fault, killer)
        found = (first and failing(["-x", *first], tree)) or failing(["-x", *fault.tests], tree)
        return found[0] if found else ""
    finally:
        path.write_text(text)


@contextlib.contextmanager
def copies(number: int) -> Iterator[Queue[Path]]:
    """So many copies of the tree, and the environment of the tests."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        Path(folder).chmod(0o755)  # for tests that give up the rights of root
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(folder, "programs")))
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # which a planted file could be taken from
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # that of hypothesis takes a second
        importlib.import_module("tests.conftest")  # JAX reads its settings when it is loaded
        forks.set_forkserver_preload(LIBRARIES)
        trees: Queue[Path] = Queue()
        for i in range(number):
            trees.put(Path(shutil.copytree(ROOT, Path(folder, str(i)), ignore=IGNORED)))
        yield trees


def verdicts(
    faults: list[Fault], trees: Queue[Path], known: dict[str, str]
) -> Iterator[tuple[Fault, str, float]]:
    """Each fault with what killed it and seconds, in the order of the table."""

    def one(fault: Fault) -> tuple[Fault, str, float]:
        tree, start = trees.get(), time.monotonic()
        try:
            test = killed_by(fault, known.get(fault.name, ""), tree)
            return fault, test, time.monotonic() - start
        finally:
            trees.put(tree)

    with ThreadPoolExecutor(trees.qsize()) as pool:
        yield from pool.map(one, faults)


def unsound(kills: dict[Fault, str], tree: Path) -> dict[Fault, str]:
    """The kills by a test that fails without the fault too: they say nothing."""
    cases = {fault: alone(fault, test.partition("[")[0]) for fault, test in kills.items()}
    files: dict[str, set[str]] = {}
    for name in (name for names in cases.values() for name in names):
        files.setdefault(name.partition("::")[0], set()).add(name)
    failed = {name for names in files.values() for name in failing(sorted(names), tree)}
    return {fault: test for fault, test in kills.items() if test in failed}


def main(names: list[str], jobs: int, first: Path | None) -> int:
    chosen = [f for f in FAULTS if not names or any(name in f.name for name in names)]
    known = killers(first.read_text()) if first else {}
    kills: dict[Fault, str] = {}
    with copies(jobs) as trees:
        for fault, test, seconds in verdicts(chosen, trees, known):
            verdict = "killed" if test else "SURVIVED"
            print(f"{verdict:9}{seconds:5.0f} s  {fault.name}  {test}", flush=True)
            if test:
                kills[fault] = test
        for fault, test in unsound(kills, trees.get()).items():
            print(f"SURVIVED, since {test} fails without the fault: {fault.name}")
            del kills[fault]
    survivors = [fault for fault in chosen if fault not in kills]
    print(f"{len(chosen)} faults, {len(kills)} killed, {len(survivors)} survived")
    for fault in survivors:
        print(f"  {fault.name}: {fault.old.strip()!r} -> {fault.new.strip()!r}")
    return bool(survivors)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--first", type=Path, metavar="FILE")
    given = parser.parse_args()
    sys.exit(main(given.names, given.jobs, given.first))
