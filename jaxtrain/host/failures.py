"""What the machine does to a run, in a sentence: a disk that is full, a folder that is gone."""

import contextlib
import errno
import logging
import threading
from collections.abc import Iterator
from typing import Any

_CODES = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
}


def in_a_sentence(error: BaseException) -> str:
    """What happened and what to do where the machine and not the program is the cause, else ""."""
    from jaxtrain.host.stored import CheckpointError

    if isinstance(error, CheckpointError):
        return f"{error} Mend that and start the same command again."
    if not isinstance(error, OSError) or error.errno not in _CODES:
        return ""
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}{error.strerror}; what was saved before is untouched, so mend that and start the "
        "same command again"
    )


@contextlib.contextmanager
def quiet_threads() -> Iterator[None]:
    """Threads that meet such a failure say nothing: the run meets it, too, and says it once.

    That holds for the threads that save checkpoints, whose failures `Checkpoints.wait` raises.
    """
    previous, log = threading.excepthook, logging.getLogger("absl")
    told_later = lambda record: "Thread.run() raised an exception" not in record.getMessage()
    log.addFilter(told_later)

    def hook(about: Any) -> None:
        if about.exc_value is None or not in_a_sentence(about.exc_value):
            previous(about)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = previous
        log.removeFilter(told_later)
