"""Kills a run again and again, resumes it each time, and shows that nothing has changed.

python -m benchmarks.resume_drill                            # a run of its own; minutes on 2 cores
python -m benchmarks.resume_drill --kills=20 -- \\
    python -m experiments.lpn_patterns --config=configs/lpn_patterns.py:debug

The command after `--` is run once undisturbed, with `--workdir` added. Then it is run in another
folder and killed with SIGKILL or SIGTERM at random moments of four kinds, until it has been killed
often enough:

  time   any moment, from the start of Python to the end
  step   a while after a line of metrics appeared
  save   a while after the folder of an unfinished checkpoint appeared
  log    as soon as a line of metrics appeared: before, or in, the save that may follow it

After each kill the command is run again and continues. Whenever it is done, the arrays of its last
checkpoint must have the same bits, and `metrics.jsonl` the same bytes, as those of the undisturbed
run; if more kills are wanted it starts over in a fresh folder. Prints one line per kill and a
summary; exits with 1 at the first difference.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from jaxtrain.host.checkpoint import load_arrays
from jaxtrain.host.metrics import read

STOPPED = {3, -signal.SIGTERM, -signal.SIGKILL}  # saved and left, or killed where it stood
TINY = [sys.executable, "-m", "benchmarks.tiny_run"]


def saved_steps(workdir: Path) -> list[int]:
    return sorted(int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdecimal())


def progress(workdir: Path) -> tuple[int, bool]:
    """Size of the log, and whether a save is under way."""
    log = workdir / "metrics.jsonl"
    size = log.stat().st_size if log.exists() else 0
    return size, any(workdir.glob("checkpoints/*.orbax-checkpoint-tmp*"))


class Drill:
    """One command, its undisturbed result, and the random moments at which it is killed."""

    def __init__(self, command: list[str], folder: Path, seed: int):
        self.command, self.folder = command, folder
        self.random = random.Random(seed)
        began = time.monotonic()
        self.reference = folder / "undisturbed"
        code = self.start(self.reference).wait()
        self.seconds = time.monotonic() - began
        if code:
            sys.exit(f"the undisturbed run failed with code {code}:\n{self.output(self.reference)}")
        self.lines = len(read(self.reference / "metrics.jsonl"))

    def start(self, workdir: Path) -> subprocess.Popen:
        workdir.mkdir(parents=True, exist_ok=True)
        with open(workdir.with_suffix(".output"), "a") as output:
            return subprocess.Popen(
                [*self.command, f"--workdir={workdir}"], stdout=output, stderr=output
            )

    def output(self, workdir: Path) -> str:
        return workdir.with_suffix(".output").read_text()[-3000:]

    def kill_once(self, workdir: Path) -> tuple[str, str] | None:
        """Starts the command and kills it; None if it was done before the moment came.

        Returns:
          The kind of the moment, and what happened in words.
        """
        kind = self.random.choice(["time", "step", "save", "log"])
        number = self.random.choice([signal.SIGKILL, signal.SIGTERM])
        windows = self.random.randint(1, max(1, min(5, self.lines // 4)))
        later = self.random.uniform(0.0, 0.05)
        deadline = time.monotonic() + self.random.uniform(0.0, self.seconds)
        process = self.start(workdir)
        size, saving = progress(workdir)
        while process.poll() is None:
            before, was_saving = size, saving
            size, saving = progress(workdir)
            windows -= size > before
            if kind == "time":
                reached = time.monotonic() > deadline
            elif kind == "save":
                reached = windows <= 0 and saving and not was_saving
            else:
                reached = windows <= 0 and size > before
            if reached:
                time.sleep(later if kind in ("step", "save") else 0.0)
                break
            time.sleep(0.0005)
        process.send_signal(number)
        code = process.wait()
        if code == 0:
            return None
        if code not in STOPPED:
            sys.exit(f"the run failed with code {code}:\n{self.output(workdir)}")
        state = "saved and left" if code == 3 else "gone"
        half = ", a checkpoint half made" if progress(workdir)[1] else ""
        return kind, f"{signal.Signals(number).name} in {kind}: {state}{half}"

    def compare(self, workdir: Path) -> str:
        """Raises if anything differs; returns what was compared."""
        last = saved_steps(self.reference)[-1]
        if saved_steps(workdir)[-1] != last:
            raise AssertionError(f"{workdir} ended at {saved_steps(workdir)[-1]}, not {last}")
        expected, found = (
            load_arrays(folder / "checkpoints" / str(last)) for folder in (self.reference, workdir)
        )
        if expected.keys() != found.keys():
            raise AssertionError(f"other leaves: {sorted(expected.keys() ^ found.keys())}")
        for name, array in expected.items():
            if array.tobytes() != found[name].tobytes() or array.dtype != found[name].dtype:
                raise AssertionError(f"{workdir}: leaf {name} differs")
        logs = [(folder / "metrics.jsonl").read_bytes() for folder in (self.reference, workdir)]
        if logs[0] != logs[1]:
            raise AssertionError(f"{workdir}: metrics.jsonl differs")
        size = sum(array.nbytes for array in expected.values())
        return f"{len(expected)} arrays ({size:,} bytes), {logs[0].count(10)} lines, step {last}"


def main() -> None:
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one by default")
    options = parser.parse_args(arguments[:split])
    folder = options.folder or Path(tempfile.mkdtemp(prefix="resume_drill_"))
    command = arguments[split + 1 :] or TINY
    if command[0] == "python":
        command[0] = sys.executable

    drill = Drill(command, folder, options.seed)
    print(f"undisturbed: {drill.seconds:.1f} s, {drill.lines} lines of metrics", flush=True)
    kinds: Counter[str] = Counter()
    life = 1
    while kinds.total() < options.kills:
        workdir = folder / f"disturbed_{life}"
        found = drill.kill_once(workdir)
        if found is None:
            print(f"run {life} done, same bits: {drill.compare(workdir)}", flush=True)
            if life > 10 * options.kills:
                sys.exit("the run is too short to be killed; use more steps.")
            life += 1
            continue
        kinds[found[0]] += 1
        newest = (saved_steps(workdir) or ["none"])[-1]
        print(f"kill {kinds.total():2}: {found[1]}; newest checkpoint {newest}", flush=True)
    workdir = folder / f"disturbed_{life}"
    if code := drill.start(workdir).wait():
        sys.exit(f"the run failed with code {code}:\n{drill.output(workdir)}")
    print(f"run {life} done, same bits: {drill.compare(workdir)}")
    of = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(f"{kinds.total()} kills ({of}), {life} run(s): same bits and same log every time")
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
