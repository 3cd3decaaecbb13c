"""The other processes of a run: joining them, and ending when one of them is gone.

JAX's coordination service notices that a process is silent and makes the others abort, without a
word that says which. Here every process keeps a counter in the service that the others watch, so
that the last word before the abort names the one that is gone.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax

from jaxtrain.host.config import UsageError

_ABORT = ctypes.CFUNCTYPE(None, ctypes.c_int)
_FOR_LIFE = contextlib.ExitStack()  # never closed: the process ends with what is in it


def join(
    join_timeout: int,
    partner_timeout: int,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a run, see `jax.distributed.initialize`.

    Args:
      join_timeout: seconds to wait for all of them.
      partner_timeout: seconds of silence after which a process counts as dead.
      coordinator: address of process 0; None where the environment says it, as the other two.
      num_processes: of the run.
      process_id: of this process.

    Raises:
      UsageError: not all of them came.
      ValueError: the environment does not say where they meet.
    """
    at = coordinator or "the coordinator"
    late = (
        f"not all processes of the run came to {at} within {join_timeout} s; start all of them, or "
        "let them wait longer with --join_timeout=SECONDS"
    )
    with _last_word(lambda: late, code=2):
        try:
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                initialization_timeout=join_timeout,
                heartbeat_timeout_seconds=partner_timeout,
                shutdown_timeout_seconds=partner_timeout,
            )
        except RuntimeError as error:
            raise UsageError(late) from error


class Watch:
    """Counts in the coordination service while this process lives, and watches the others' counts.

    Args:
      client: with `key_value_set` and `key_value_try_get`.
      me: index of this process.
      others: indices of the others.
      period: seconds between two looks.
    """

    def __init__(self, client: Any, me: int, others: Collection[int], period: float) -> None:
        self._client, self._me, self._period = client, me, period
        self._seen = {other: ("", time.monotonic()) for other in others}
        self._count = 0

    def look(self) -> None:
        """Counts once and reads the others' counts; a service that is gone says nothing new."""
        self._count += 1
        with contextlib.suppress(Exception):
            self._client.key_value_set(f"alive/{self._me}", str(self._count), True)
        for other, (before, _) in self._seen.items():
            with contextlib.suppress(Exception):
                now = self._client.key_value_try_get(f"alive/{other}")
                if now != before:
                    self._seen[other] = now, time.monotonic()

    def silent(self) -> list[int]:
        """Processes that missed three looks, or else the one that is silent for longest."""
        now = time.monotonic()
        ages = {other: now - last for other, (_, last) in self._seen.items()}
        found = [other for other, age in ages.items() if age > 3 * self._period]
        return found or [max(ages, key=lambda other: ages[other])]

    def run(self) -> None:
        """Looks for ever."""
        while True:
            self.look()
            time.sleep(self._period)


def watch(partner_timeout: int, coordinator: str) -> None:
    """Names the process that is gone when JAX aborts this one; for the rest of its life.

    Args:
      partner_timeout: as for `join`.
      coordinator: `HOST:PORT` of process 0, or "" where it is not known.
    """
    me, count = jax.process_index(), jax.process_count()
    others = [i for i in range(count) if i != me]
    if not others:
        return
    from jax._src.distributed import global_state  # no public door to the service

    seen = Watch(global_state.client, me, others, period=max(partner_timeout / 8, 0.2))
    threading.Thread(target=seen.run, daemon=True).start()
    says = lambda: lost([0] if me and coordinator and not _answers(coordinator) else seen.silent())
    _FOR_LIFE.enter_context(_last_word(says))


def lost(gone: Collection[int]) -> str:
    """The sentence for processes that are gone."""
    which = "process " if len(gone) == 1 else "processes "
    return (
        f"{which}{', '.join(map(str, gone))} of the run died or fell silent; start all processes "
        "again, and they go on from the newest checkpoint"
    )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _last_word(says: Callable[[], str], code: int = 1) -> Iterator[None]:
    """Prints `says()` and ends with `code` where the runtime aborts the process.

    Python's own handlers do not run inside an abort, so this one is the C library's.
    """

    def handler(number: int) -> None:
        print(f"error: {says()}", file=sys.stderr, flush=True)
        os._exit(code)

    library = ctypes.CDLL(None)
    library.signal.restype = ctypes.c_void_p
    kept = _ABORT(handler)
    _FOR_LIFE.callback(lambda: kept)  # C keeps no reference
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    before = library.signal(signal.SIGABRT, ctypes.cast(kept, ctypes.c_void_p))
    try:
        yield
    finally:
        library.signal(signal.SIGABRT, before)
