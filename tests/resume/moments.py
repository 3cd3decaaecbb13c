"""Starts runs that are killed at a chosen moment; used by `test_kill_drills.py`.

Reads lines `moment workdir data` from standard input, runs each in a forked process (so that the
imports are paid once) and prints its exit status, negative for a signal. The functions that mark
the moments are replaced in the forked process only.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint._src.path.atomicity as atomicity

from benchmarks import tiny_run
from jaxtrain.host import checkpoint, loop, metrics

AT = 60  # the save that is disturbed: not the first, not the last
NUM_STEPS = 100


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def before(owner: Any, name: str, act: Callable[[], None], when: Callable[..., bool]) -> None:
    """Calls `act` when `owner.name` is about to run with arguments for which `when` holds."""
    original = getattr(owner, name)

    def replaced(*args: Any, **options: Any) -> Any:
        if when(*args):
            act()
        return original(*args, **options)

    setattr(owner, name, replaced)


def at_step(step: int) -> Callable[..., bool]:
    return lambda self, found, *rest: found == step


def during_a_window(act: Callable[[], None], workdir: str) -> None:
    """Once the line of the window before is there, and a little later."""

    def watch() -> None:
        log = Path(workdir) / "metrics.jsonl"
        while not log.exists() or f'"step": {AT - 10},' not in log.read_text():
            time.sleep(0.0005)
        time.sleep(0.002)
        act()

    threading.Thread(target=watch, daemon=True).start()


def during_a_batch(act: Callable[[], None], workdir: str) -> None:
    before(type(tiny_run.host_data()), "batch", act, at_step(AT - 5))


def half_a_line(workdir: str) -> None:
    original = metrics._line

    def torn(step: int, numbers: Any) -> str:
        line = original(step, numbers)
        if step < AT:
            return line
        with open(Path(workdir) / "metrics.jsonl", "a") as file:
            file.write(line[: len(line) // 2])
        die()
        return ""

    metrics._line = torn


def while_saving(act: Callable[[], None], name: str) -> None:
    """When everything of checkpoint AT is written but not yet renamed, or nothing is."""
    owner = atomicity.AtomicRenameTemporaryPath
    before(owner, name, act, lambda self: self.get_final().name == str(AT))


MOMENTS: dict[str, Callable[[str], None]] = {
    "never": lambda workdir: None,
    "first save": lambda w: while_saving_first(),
    "in a step": lambda w: during_a_window(die, w),
    "in a batch": lambda w: during_a_batch(die, w),
    "before the line": lambda w: before(metrics.Writer, "write", die, at_step(AT)),
    "in the line": half_a_line,
    "before the save": lambda w: before(checkpoint.Checkpoints, "maybe_save", die, at_step(AT)),
    "save begins": lambda w: while_saving(die, "create"),
    "save ends": lambda w: while_saving(die, "finalize"),
    "after the save": lambda w: before(
        checkpoint.Checkpoints, "_prune", die, lambda self: str(AT) in os.listdir(self.directory)
    ),
    "in the removal": lambda w: before(
        shutil, "rmtree", die, lambda path, **_: str(path).endswith(".removing")
    ),
    "in the log's repair": lambda w: before(
        os, "replace", die, lambda source, target: str(target).endswith("metrics.jsonl")
    ),
    "signal in a step": lambda w: during_a_window(terminate, w),
    "signal in a batch": lambda w: during_a_batch(terminate, w),
    "signal before the save": lambda w: before(
        checkpoint.Checkpoints, "maybe_save", terminate, at_step(AT)
    ),
    "signal in the save": lambda w: while_saving(terminate, "finalize"),
}


def while_saving_first() -> None:
    owner = atomicity.AtomicRenameTemporaryPath
    before(owner, "finalize", die, lambda self: self.get_final().name == "20")


def child(moment: str, workdir: str, data: str) -> int:
    jax.config.update("jax_platforms", "cpu")
    MOMENTS[moment](workdir)
    try:
        tiny_run.run(workdir, data, NUM_STEPS)
    except loop.Preempted:
        return 3
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    for line in sys.stdin:
        moment, workdir, data = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            os.dup2(2, 1)
            os._exit(child(moment, workdir, data))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(status, flush=True)


if __name__ == "__main__":
    main()
