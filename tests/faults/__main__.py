"""Plants every fault of the table in a copy of the tree and says which ones the tests let live.

    python -m tests.faults                       # all of them
    python -m tests.faults jaxrl/ lpn/search     # those whose file or description has such a part
    python -m tests.faults --jobs=4

A fault is killed when the tests that the table names for its file fail. They run as by default: a
test that needs `-m` does not count. The tree is copied once per job, whole files are put back after
each fault, and compiled programs are shared by all of them. Exit code 1 if a fault survives.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from tests.faults.table import FAULTS, Fault
from tests.source_tree import ROOT

IGNORED = shutil.ignore_patterns(".*", "__pycache__", "runs", "_build")
LONGEST = 1200  # seconds; a fault that makes a program run forever is seen
EIGHT = "--xla_force_host_platform_device_count=8"


def environment(cache: str, fault: Fault) -> dict[str, str]:
    """Of the tests: one cache of programs, no bytecode that a planted file could be taken from."""
    found = dict(os.environ)
    found.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    if (data := ROOT.parent / "shared" / "data").is_dir():
        found.setdefault("JAXTTA_DATA", str(data))
    if any("multidevice/cases_" in path for path in fault.tests):
        found["XLA_FLAGS"] = f"{found.get('XLA_FLAGS', '')} {EIGHT}"
    return found | {"PYTHONDONTWRITEBYTECODE": "1"}


def killed_by(fault: Fault, tree: Path, cache: str) -> str:
    """The test that fails with the fault in the tree, empty if none does."""
    path = tree / fault.file
    text = path.read_text()
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no"]
    path.write_text(text.replace(fault.old, fault.new))
    try:
        run = subprocess.run(
            [*command, *fault.tests],
            cwd=tree,
            env=environment(cache, fault),
            capture_output=True,
            text=True,
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        return f"no end within {LONGEST} s"
    finally:
        path.write_text(text)
    if run.returncode not in (0, 1):
        print(f"{fault.name}: pytest ended with {run.returncode}\n{run.stdout[-3000:]}")
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (?:\S*/)?(\S+)", run.stdout, re.MULTILINE)
    return "" if run.returncode == 0 else failed.group(1) if failed else "a test"


def verdicts(faults: list[Fault], jobs: int) -> Iterator[tuple[Fault, str, float]]:
    """Each fault with what killed it and seconds, in the order of the table."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        trees: Queue[Path] = Queue()
        for job in range(jobs):
            trees.put(Path(shutil.copytree(ROOT, Path(folder, str(job)), ignore=IGNORED)))

        def one(fault: Fault) -> tuple[Fault, str, float]:
            tree, start = trees.get(), time.monotonic()
            try:
                return (
                    fault,
                    killed_by(fault, tree, str(Path(folder, "programs"))),
                    (time.monotonic() - start),
                )
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(one, faults)


def main(names: list[str], jobs: int) -> int:
    chosen = [f for f in FAULTS if not names or any(name in f.name for name in names)]
    survivors = []
    for fault, test, seconds in verdicts(chosen, jobs):
        print(
            f"{'killed' if test else 'SURVIVED':9}{seconds:5.0f} s  {fault.name}  {test}",
            flush=True,
        )
        if not test:
            survivors.append(fault)
    print(f"{len(chosen)} faults, {len(chosen) - len(survivors)} killed, {len(survivors)} survived")
    for fault in survivors:
        print(f"  {fault.name}: {fault.old.strip()!r} -> {fault.new.strip()!r}")
    return bool(survivors)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    sys.exit(main(given.names, given.jobs))
