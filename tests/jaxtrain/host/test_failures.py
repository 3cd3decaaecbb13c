"""A full disk or a folder without permission is one sentence; faults of the program are not."""

import errno
import logging
import threading

import pytest

from jaxtrain.host import failures
from jaxtrain.host.stored import CheckpointError


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/metrics"), "a/metrics: No space left"),
        (OSError(errno.EFBIG, "File too large", "a/metrics"), "a/metrics: File too large"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system; what was saved"),
        (PermissionError(errno.EACCES, "Permission denied", "w"), "w: Permission denied; what"),
        (FileExistsError(errno.EEXIST, "File exists", "w/plots"), "w/plots: File exists; what was"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "w/a.png"), "w/a.png: Is a directory;"),
        (CheckpointError("saving checkpoint 3 failed."), "saving checkpoint 3 failed. Mend that"),
    ],
)
def test_what_the_machine_does_is_a_sentence(error, sentence):
    assert failures.in_a_sentence(error).startswith(sentence)


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "no", "x"), ValueError("x")])
def test_faults_of_the_program_keep_their_traceback(error):
    assert not failures.in_a_sentence(error)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_threads_that_meet_a_full_disk_are_silent(monkeypatch, caplog):
    heard = []
    monkeypatch.setattr(threading, "excepthook", lambda about: heard.append(about.exc_type))

    def fail(error):
        raise error

    log = logging.getLogger("absl")
    with caplog.at_level(logging.ERROR), failures.quiet_threads():
        log.error("_SignalingThread.run() raised an exception: No space left on device")
        log.error("something else")
        for error in (OSError(errno.ENOSPC, "full"), ValueError("x")):
            thread = threading.Thread(target=fail, args=(error,))
            thread.start()
            thread.join()
    assert heard == [ValueError]
    assert [record.getMessage() for record in caplog.records] == ["something else"]
