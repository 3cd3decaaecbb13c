"""Scalars as TensorBoard event files, written by the thread that calls: when the disk is full, the
caller hears of it, and no queue without a reader holds the run up."""

import time
from pathlib import Path

from jaxtrain.host.extras import import_extra


class Scalars:
    """One event file.

    Args:
      folder: of all event files of a run; made if absent.
      purge_step: events of other files from this step on are hidden.

    Raises:
      UsageError: the package is not installed.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        self._events = import_extra("tensorboardX.proto.event_pb2", "experiments")
        self._scalar = import_extra("tensorboardX.summary", "experiments").scalar
        writer = import_extra("tensorboardX.event_file_writer", "experiments")
        folder.mkdir(parents=True, exist_ok=True)
        suffix = f".{time.time_ns()}"  # else two starts in a second share a file
        self._file = writer.EventsWriter(str(folder / "events"), suffix)
        log = self._events.SessionLog
        self._add(step=purge_step, file_version="brain.Event:2")
        self._add(step=purge_step, session_log=log(status=log.START))

    def _add(self, **content: object) -> None:
        self._file.write_event(self._events.Event(wall_time=time.time(), **content))

    def add(self, name: str, value: float, step: int) -> None:
        """One point of a curve."""
        self._add(step=step, summary=self._scalar(name, value))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
