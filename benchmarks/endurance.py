"""Kills the small run of every command again and again, and counts what is lost when it goes on.

python -m benchmarks.endurance                              # 25 minutes on two cores
python -m benchmarks.endurance --commands=ppo,meta_rl --kills=20

Every command of `COMMANDS` is run once undisturbed. Then it is run in another folder and stopped,
`--kills` times, each time by SIGKILL or SIGTERM, at a random moment of each of these kinds in turn
(`--moments` takes some of them):

  time       any moment, from the start of Python to the end
  FOLDER     a while after something in this folder of the run changed: `checkpoints` is inside or
             just after a save, `evaluation` and `plots` while it evaluates and draws
  lines      as soon as a line of metrics appeared: before, or in, the save that may follow it
  files      the same for any other file
  full disk  no signal: no file may grow as large as one of the undisturbed run was, so that saves,
             lines or figures fail half-way, and the command has to say so and end

A command on two hosts loses one of them; the other has to end by itself. After each stop the same
command is started again and continues. Whenever it is done, what it computed is compared with the
undisturbed run, and if more kills are wanted it starts over in a fresh folder. A row counts the
bits that differ (arrays of the last checkpoint, summary, evaluation, figures, and whatever file is
there in one of the two alone) and the lines that are missing or there twice. `starts` goes on with
one run many times in one process, and shows what has grown meanwhile. Exits with 1 if anything is
lost or grows; the folders are kept then.

Compiled programs are shared through `JAX_COMPILATION_CACHE_DIR`, or a folder of the drill. Runs
that are to be stopped read but do not write them: JAX does not do that atomically, and half a
program would be a warning at every later start.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import tiny_run
from jaxtrain.host.checkpoint import load_arrays


class Command(NamedTuple):
    """What is killed: a module with its flags, `{}` for the run folder, and on how many hosts."""

    line: str
    hosts: int = 1


def debug(name: str, steps: int = 6, more: str = "") -> str:
    return (
        f"experiments.{name} --config=configs/{name}.py:debug --workdir={{}} {more}"
        f"--config.num_steps={steps} --config.log_every=1 --config.checkpoint.every=2"
    )


COMMANDS = {
    "tiny_run": Command("benchmarks.tiny_run --num_steps=400 --workdir={}"),
    "build_rearc_cache": Command(
        "experiments.build_rearc_cache --tasks=first:4 --samples=200 --workers=1 --out={}"
    ),
    "ppo": Command(debug("ppo", more="--config.eval_every=2 ")),
    "gpicl": Command(debug("gpicl", more="--config.eval_every=2 ")),
    "meta_rl": Command(debug("meta_rl", more="--config.eval_every=2 ")),
    "lpn_patterns": Command(debug("lpn_patterns", more="--config.eval_every=2 ")),
    "lpn_arc": Command(debug("lpn_arc", more="--config.eval_every=2 ")),
    "lr_schedules": Command(debug("lr_schedules")),
    "tta_images": Command(
        "experiments.tta_images --config=configs/tta_images.py:debug --workdir={} "
        "--config.methods=('source','tent','cotta')"
    ),
    "ppo_on_two_hosts": Command(debug("ppo", more="--config.eval_every=2 "), hosts=2),
}
STOPPED = {3, -signal.SIGTERM, -signal.SIGKILL}  # saved and left, or killed where it stood
CLOCKS = ("starts", "wall_seconds", "core_hours", "device_hours")  # of summary.json
NO_PROGRAMS = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9"}  # are written
UNLIKE = ("environment.json", "timing.jsonl", "wandb_id.txt")
MEMORY_OF_A_SAVE = 32_000  # bytes; TensorStore keeps 20,000 of every save when its metrics are read
SECONDS_TO_END = 120  # for a partner that notices, and for children of a killed process


def changes(folder: Path) -> Iterator[tuple[str, str, int]]:
    """Part, name and size of the files of a run folder and of what is in its folders."""
    with contextlib.suppress(OSError):  # gone while it is looked at
        for entry in os.scandir(folder):
            if not entry.is_dir():
                part = "lines" if entry.name == "metrics.jsonl" else "files"
                yield part, entry.name, entry.stat().st_size
            elif entry.name != "tensorboard":
                with contextlib.suppress(OSError):
                    for inner in os.scandir(entry):
                        size = 0 if inner.is_dir() else inner.stat().st_size
                        yield entry.name, inner.name, size


def computed(folder: Path) -> dict[str, bytes]:
    """Everything in a run folder that does not come from a clock, by name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or name.name in UNLIKE:
            continue
        if not {"checkpoints", "tensorboard"} & set(name.parts):
            found[str(name)] = path.read_bytes()
    if summary := found.get("summary.json"):
        kept = {k: v for k, v in json.loads(summary).items() if k not in CLOCKS}
        found["summary.json"] = json.dumps(kept).encode()
    steps = [int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdecimal()]
    if steps:
        arrays = load_arrays(folder / "checkpoints" / str(max(steps)))
        found |= {f"step {max(steps)}: {name}": x.tobytes() for name, x in arrays.items()}
    return found


def bits(a: bytes, b: bytes) -> int:
    """How many bits differ; those that one of them lacks count."""
    n = min(len(a), len(b))
    both = (np.frombuffer(x[:n], np.uint8) for x in (a, b))
    return int(np.bitwise_count(np.bitwise_xor(*both)).sum()) + 8 * abs(len(a) - len(b))


class Drill:
    """One command, its undisturbed result, and the random moments at which it is stopped.

    Attributes:
      kinds: how often it was stopped, by kind of moment.
      bits, lines: that were lost.
      faults: what went wrong, in sentences.
    """

    def __init__(
        self, name: str, command: Command, folder: Path, seed: int, moments: Sequence[str] = ()
    ) -> None:
        self.command, self.folder = command, folder / name
        self.random = random.Random(f"{name}/{seed}")
        self.kinds: Counter[str] = Counter()
        self.bits = self.lines = 0
        self.faults: list[str] = []
        began = time.monotonic()
        self.reference = self.folder / "undisturbed"
        self.parts: Counter[str] = Counter()
        started = self.start(self.reference)
        for part in self.watched(started, self.reference):
            self.parts[part] += 1
        self.seconds = time.monotonic() - began
        codes, said = self.ended(started)
        if any(codes):
            sys.exit(f"the undisturbed run of {name} failed with {codes}:\n{said}")
        self.expected = computed(self.reference)
        known = sorted({"time", *self.parts} - {""}) + ["full disk"] * (command.hosts == 1)
        if unknown := set(moments) - set(known):
            sys.exit(f"{name} has no moment {', '.join(unknown)}; it has {', '.join(known)}")
        self.moments = self.in_turn(list(moments) or known)

    def in_turn(self, kinds: list[str]) -> Iterator[str]:
        """Every kind once in random order, again and again."""
        while True:
            yield from self.random.sample(kinds, len(kinds))

    def start(self, workdir: Path) -> list[subprocess.Popen[str]]:
        """Starts every host in a session of its own, so that its children can be found."""
        workdir.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        arguments = [sys.executable, "-m", *self.command.line.format(workdir).split()]
        hosts = self.command.hosts
        if hosts > 1:
            arguments += [f"--coordinator=localhost:{port}", f"--num_processes={hosts}"]
            arguments += ["--partner_timeout=30", "--join_timeout=60"]
        return [
            subprocess.Popen(
                [*arguments, *([f"--process_id={host}"] if hosts > 1 else [])],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env=os.environ | ({} if workdir == self.reference else NO_PROGRAMS),
            )
            for host in range(hosts)
        ]

    def watched(self, processes: list[subprocess.Popen[str]], workdir: Path) -> Iterator[str]:
        """The parts of the run folder that change, until the processes have ended."""
        seen = set(changes(workdir))
        while any(process.poll() is None for process in processes):
            new = set(changes(workdir)) - seen
            seen |= new
            yield from (part for part, *_ in new)
            yield ""
            time.sleep(0.001)

    def ended(self, processes: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
        """Exit codes and last words; none of them and none of their children may go on."""
        said = []
        for process in processes:
            try:
                said.append(process.communicate(timeout=SECONDS_TO_END)[0][-3000:])
            except subprocess.TimeoutExpired:
                self.faults.append("a process did not end")
            with contextlib.suppress(ProcessLookupError):
                for _ in range(100 * SECONDS_TO_END):
                    os.killpg(process.pid, 0)
                    time.sleep(0.01)
                self.faults.append("a child of a process that had ended went on")
                os.killpg(process.pid, signal.SIGKILL)
        return [process.wait() for process in processes], "\n".join(said)

    def stop_once(self, workdir: Path) -> str | None:
        """Starts the command and stops it; None if it was done before the moment came.

        Returns:
          What happened, in words.
        """
        kind = next(self.moments)
        left = self.random.randint(1, self.parts[kind] or 1)
        pause = self.random.uniform(0.0, 0.05) * (kind != "lines")
        deadline = time.monotonic() + self.random.uniform(0.0, self.seconds)
        number = self.random.choice([signal.SIGKILL, signal.SIGTERM])
        sizes = sorted(len(content) for content in self.expected.values())
        processes = self.start(workdir)
        if kind == "full disk":
            for process in processes:
                limit = self.random.choice(sizes) - 1, resource.RLIM_INFINITY
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limit)
        for part in self.watched(processes, workdir):
            left -= part == kind
            if left <= 0 or kind == "time" and time.monotonic() > deadline:
                time.sleep(pause)
                self.random.choice(processes).send_signal(number)
                break
        codes, said = self.ended(processes)
        if not any(codes):
            return None
        expected = {2} if kind == "full disk" else STOPPED
        expected = expected | ({1, 2} if self.command.hosts > 1 else set())  # of the partner
        if not set(codes) <= expected:
            self.faults.append(f"stopped by {kind}, it ended with {codes}:\n{said}")
        self.kinds[kind] += 1
        how = kind if kind == "full disk" else f"{signal.Signals(number).name} in {kind}"
        return f"{how}: ended with {', '.join(map(str, codes))}"

    def compare(self, workdir: Path) -> None:
        """Counts what the run in `workdir` lacks or has twice."""
        found = computed(workdir)
        for name in sorted(found.keys() | self.expected.keys()):
            a, b = self.expected.get(name, b""), found.get(name, b"")
            if a == b:
                continue
            counts = [Counter(x.splitlines()) for x in (a, b)]
            lines = (counts[0] - counts[1] | counts[1] - counts[0]).total()
            lines = lines if name.endswith(".jsonl") else 0
            self.lines += lines
            self.bits += bits(a, b)
            self.faults.append(f"{workdir.name}, {name}: {bits(a, b)} bits, {lines} lines")
            print(f"  {self.faults[-1]}", flush=True)

    def run(self, kills: int) -> None:
        """Stops the command `kills` times, prints what happens, compares whatever is done."""
        life = 1
        while life <= 10 * max(kills, 1):
            workdir = self.folder / f"disturbed_{life}"
            if self.kinds.total() < kills:
                if said := self.stop_once(workdir):
                    print(f"  {self.kinds.total():3} {said}", flush=True)
                    continue
            else:
                codes, said = self.ended(self.start(workdir))
                if any(codes):
                    self.faults.append(f"it could not go on, {codes}:\n{said}")
                    return
            self.compare(workdir)
            if self.kinds.total() >= kills:
                return
            life += 1
        self.faults.append("the run is too short to be killed")


def seconds_of_children() -> float:
    """CPU time of all processes that have ended."""
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def memory() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def growth(folder: Path, starts: int) -> dict[str, int]:
    """By how much the largest sizes of later starts exceed those of the first half.

    A start makes 100 steps and saves 5 times. The log is left out, since it may grow.
    """
    sizes: list[dict[str, int]] = []
    for start in range(1, starts + 1):
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            tiny_run.run(folder, num_steps=100 * start)
        files = [path for path in folder.rglob("*") if path.is_file()]
        kept = [path.stat().st_size for path in files if path.suffix != ".jsonl"]
        opened = len(os.listdir("/proc/self/fd"))
        sizes.append(
            {
                "bytes in memory": memory(),
                "open files": opened,
                "files on disk": len(files),
                "bytes on disk": sum(kept),
            }
        )
        if start % 10 == 0:
            print(f"  {start:3} starts, {memory():,} bytes in memory", flush=True)
    half = max(1, starts // 2)
    largest = lambda name, some: max(found[name] for found in some)
    return {name: largest(name, sizes[half:]) - largest(name, sizes[:half]) for name in sizes[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*COMMANDS, "starts"]
    parser.add_argument("--kills", type=int, default=6, help="of each command")
    parser.add_argument("--commands", default=",".join(names), help="which, with commas")
    parser.add_argument(
        "--moments", default="", help="kinds of moments of one command, with commas; all if empty"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--starts", type=int, default=60, help="of `starts`")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one by default")
    options = parser.parse_args()
    chosen = options.commands.split(",")
    if unknown := set(chosen) - set(names):
        parser.error(f"--commands has {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if options.moments and (len(chosen) > 1 or chosen == ["starts"]):
        parser.error("--moments are those of one command; name it by --commands")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="endurance_"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))

    rows = [
        f"{'command':<20}{'kills':>6}{'bits lost':>12}{'lines lost':>12}{'wall s':>9}{'CPU s':>9}"
    ]
    faults = []
    for name in chosen:
        print(rows[-1], name, sep="\n", flush=True)
        began, cpu = time.monotonic(), seconds_of_children()
        if name == "starts":
            grown = growth(folder / name, options.starts)
            limits = {"bytes in memory": 2**24 + MEMORY_OF_A_SAVE * 5 * options.starts}
            limits |= {"open files": 0, "files on disk": 0}
            limits |= {"bytes on disk": 100_000}  # of the same arrays; how well they are compressed
            faults += [f"{name}: more {what}" for what in grown if grown[what] > limits[what]]
            said = ", ".join(f"{size:+,} {what}" for what, size in grown.items())
            rows.append(f"{name:<20}{options.starts:6} starts of one run in one process: {said}")
            continue
        moments = [moment for moment in options.moments.split(",") if moment]
        drill = Drill(name, COMMANDS[name], folder, options.seed, moments)
        drill.run(options.kills)
        faults += [f"{name}: {fault}" for fault in drill.faults]
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(drill.kinds.items()))
        rows.append(
            f"{name:<20}{drill.kinds.total():6}{drill.bits:12}{drill.lines:12}"
            f"{time.monotonic() - began:9.0f}{seconds_of_children() - cpu:9.0f}  {kinds}"
        )
    print("", *rows, *faults, sep="\n")
    if faults:
        sys.exit(f"{folder} is kept")
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
