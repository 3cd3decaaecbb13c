"""Processes that draw Re-ARC samples ahead of training.

Workers are plain child processes that talk over pipes. A process pool of the standard library
would import the whole main program, JAX included, into every worker.
"""

import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from experiments.data.arc import rearc

_ROOT = Path(__file__).parents[3]


class Pool:
    """A fixed number of worker processes for pure functions. Use it as a context manager."""

    def __init__(self, num_workers: int):
        if num_workers < 1:
            raise ValueError(f"num_workers is {num_workers}; at least 1 is needed.")
        self._threads = ThreadPoolExecutor(num_workers, "rearc")  # one waits for each worker
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._all = [_start() for _ in range(num_workers)]
        for worker in self._all:
            self._idle.put(worker)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Calls an importable function in some worker; its exceptions come back."""
        return self._threads.submit(self._call, function, arguments)

    def close(self) -> None:
        """Drops calls that have not begun and ends the workers."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._all:
            worker.kill()  # they hold no state; the threads that wait for them end with them
        self._threads.shutdown()
        for worker in self._all:
            worker.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        worker = self._idle.get()
        try:
            assert worker.stdin is not None and worker.stdout is not None
            pickle.dump((function, arguments), worker.stdin)
            worker.stdin.flush()
            done, answer = pickle.load(worker.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise rearc.RearcError(
                f"a Re-ARC worker process ended unexpectedly (exit status {worker.poll()}); "
                "the machine may be out of memory, so use fewer workers."
            ) from error
        finally:
            self._idle.put(worker)
        if not done:
            raise answer
        return answer


def _start() -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.data.arc.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Sets of strings, should a generator use them, must not depend on the process.
        env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"},
    )
