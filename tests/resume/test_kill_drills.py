"""Runs are killed at chosen and at random moments and must end with the same bits and the same log.

Every moment is checked twice: that it was really hit (by what it leaves on disk), and that the run,
started again until it is done, equals one that was never disturbed.
"""

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import endurance
from jaxtrain.host.checkpoint import load_arrays

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
Start = Callable[[str, Path, str], int]

# moment -> exit status, which checkpoint may be the newest (saving runs in the background), last
# line of the log and half-made folders of the run that was disturbed at step 60; None: any
KILLED = {
    "first save": (-9, {0}, None, ["20.orbax-checkpoint-tmp"]),
    "in a step": (-9, {20, 40}, 50, None),
    "in a batch": (-9, {20, 40}, 50, None),
    "before the line": (-9, {20, 40}, 50, None),
    "in the line": (-9, {20, 40}, 50, None),
    "before the save": (-9, {20, 40}, 60, None),
    "save begins": (-9, {40}, None, []),
    "save ends": (-9, {40}, None, ["60.orbax-checkpoint-tmp"]),
    "after the save": (-9, {60}, None, []),
    "in the removal": (-9, {60}, None, ["20.removing"]),
    "signal in a step": (3, {60}, 60, []),
    "signal in a batch": (3, {60}, 60, []),
    "signal before the save": (3, {70}, 70, []),
    "signal in the save": (3, {70, 80, 90}, None, []),
}
QUICK = ("in a step", "save ends", "before the save")  # the others run with -m ci


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """`start(moment, workdir, data) -> exit status`."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("moments.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )

    def start(moment: str, workdir: Path, data: str) -> int:
        print(moment, workdir, data, sep="\t", file=server.stdin, flush=True)
        return int(server.stdout.readline())

    yield start
    server.stdin.close()
    assert server.wait() == 0


@pytest.fixture(scope="module")
def undisturbed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    done: dict[str, Path] = {}

    def run(data: str) -> Path:
        if data not in done:
            done[data] = tmp_path_factory.mktemp(data)
            assert start("never", done[data], data) == 0
        return done[data]

    return run


def assert_same(a: Path, b: Path, step: int = 100) -> None:
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    x, y = (load_arrays(folder / "checkpoints" / str(step)) for folder in (a, b))
    assert x.keys() == y.keys() and len(x) == 4
    assert all(x[name].tobytes() == y[name].tobytes() for name in x)


def saved(workdir: Path) -> list[int]:
    return sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal())


def logged(workdir: Path) -> list[int]:
    lines = (workdir / "metrics.jsonl").read_text().split("\n")[:-1]
    return [int(line.split('"step": ')[1].split(",")[0]) for line in lines]


@pytest.mark.parametrize(
    "moment", [m if m in QUICK else pytest.param(m, marks=pytest.mark.ci) for m in KILLED]
)
def test_killed_at_a_moment(start, undisturbed, tmp_path, moment):
    data = "host" if "batch" in moment else "generated"
    expected = undisturbed(data)
    status, newest, line, half_made = KILLED[moment]
    assert start(moment, tmp_path, data) == status
    assert max(saved(tmp_path), default=0) in newest
    if line is not None:
        assert logged(tmp_path)[-1] == line
    if half_made is not None:
        left = os.listdir(tmp_path / "checkpoints")
        assert [name for name in left if not name.isdecimal()] == half_made
    torn = not (tmp_path / "metrics.jsonl").read_text().endswith("\n")
    assert torn == (moment == "in the line")
    assert start("never", tmp_path, data) == 0
    assert_same(tmp_path, expected)
    assert saved(tmp_path) == saved(expected)
    assert all(name.isdecimal() for name in os.listdir(tmp_path / "checkpoints"))


@pytest.mark.ci
def test_killed_again_while_repairing_the_log(start, undisturbed, tmp_path):
    assert start("before the save", tmp_path, "generated") == -9
    assert start("in the log's repair", tmp_path, "generated") == -9
    assert logged(tmp_path)[-1] == 60  # the old log is still whole
    assert start("never", tmp_path, "generated") == 0
    assert_same(tmp_path, undisturbed("generated"))


@pytest.mark.ci
def test_a_last_checkpoint_damaged_by_the_crash(start, undisturbed, tmp_path):
    assert start("after the save", tmp_path, "generated") == -9
    for file in (tmp_path / "checkpoints/60/state").rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)
    assert start("never", tmp_path, "generated") == 0
    assert_same(tmp_path, undisturbed("generated"))
    assert (tmp_path / "checkpoints/60.damaged").is_dir()


@pytest.mark.ci
def test_random_drill_on_the_command_line(tmp_path):
    command = [sys.executable, "-m", "benchmarks.endurance", "--kills=4", "--seed=1"]
    result = subprocess.run(
        [*command, f"--folder={tmp_path}", "--commands=tiny_run,starts", "--starts=4"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^tiny_run +4 +0 +0 ", result.stdout, re.MULTILINE), result.stdout
    assert re.search(r"^starts +4 ", result.stdout, re.MULTILINE)


def test_a_drill_counts_bits_and_lines_that_differ_and_files_that_only_one_run_has(tmp_path):
    drill = endurance.Drill.__new__(endurance.Drill)
    drill.bits, drill.lines, drill.faults = 0, 0, []
    for name, text in {"metrics.jsonl": "1\n1\n3\n", "summary.json": '{"starts": 2}'}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "left.part").write_bytes(b"12")
    drill.expected = {"metrics.jsonl": b"1\n2\n3\n", "summary.json": b"{}"}
    drill.compare(tmp_path)
    assert drill.lines == 2  # one lost, one there twice
    assert drill.bits == 2 + 16  # "1" for "2", and a file of two bytes
    assert len(drill.faults) == 2


def test_a_drill_takes_every_kind_of_moment_in_turn():
    drill = endurance.Drill.__new__(endurance.Drill)
    drill.random = random.Random(0)
    kinds = ["time", "evaluation", "plots"]
    moments = drill.in_turn(kinds)
    for _ in range(3):
        assert sorted(next(moments) for _ in kinds) == sorted(kinds)
