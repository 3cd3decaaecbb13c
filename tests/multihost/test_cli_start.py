"""Two processes on this machine, started by the flags of the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxtrain.host import workdir
from tests.multihost.processes import free_port, together

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "jaxtrain" / "tiny"

pytestmark = [pytest.mark.multihost, pytest.mark.ci]


def start_two(folder, *argv, second=()):
    """Runs the tiny experiment in two processes; returns (exit code, stdout, stderr) of each."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, str(TINY / "experiment.py"), f"--config={TINY / 'config.py'}:small"]
    cluster = [f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    commands = [
        [*command, *cluster, f"--process_id={index}", *argv, *(second if index else ())]
        for index in range(2)
    ]
    spoken = lambda text: "\n".join(x for x in text.splitlines() if not x.startswith("[Gloo]"))
    ended = together(commands, folder, environment, timeout=150)
    return [(one.code, spoken(one.out), one.err) for one in ended]


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_two_processes_train_one_run(tmp_path):
    (code_0, out_0, err_0), (code_1, out_1, err_1) = start_two(tmp_path)
    assert (code_0, code_1) == (0, 0), err_0 + err_1
    assert out_0.startswith("experiment:small on 2 cpu devices, work folder runs/experiment-small-")
    assert not out_1  # process 0 alone speaks
    (folder,) = (tmp_path / "runs").iterdir()  # the processes agreed on it
    (start,) = json.loads((folder / "environment.json").read_text())["starts"]
    assert start["processes"] == 2 and start["devices"]["count"] == 2
    assert (folder / "summary.json").exists()

    alone = subprocess.run(
        [
            sys.executable,
            TINY / "experiment.py",
            f"--config={TINY / 'config.py'}:small",
            "--workdir=a",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert alone.returncode == 0, alone.stderr
    assert losses(folder) == pytest.approx(losses(tmp_path / "a"), rel=1e-5)


def test_a_folder_in_use_is_refused_by_every_process(tmp_path):
    with workdir.claimed(tmp_path / "w"):
        for code, out, err in start_two(tmp_path, "--workdir=w"):
            assert code == 2
            assert "error: --workdir='w' is in use by another process; wait until that" in err
            assert "Traceback" not in err and not out


def test_different_configs_are_refused_by_every_process(tmp_path):
    results = start_two(tmp_path, "--workdir=w", second=("--config.batch_size=8",))
    for code, out, err in results:
        assert code == 2
        assert (
            "error: the config, the flags or the JAX version of processes 1 differ from those of "
            "process 0; start all processes with the same command\n"
        ) in err
        assert "Traceback" not in err and not out
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_is_named_by_the_other(tmp_path, victim):
    port = free_port()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    flags = [
        f"--config={TINY / 'config.py'}:small,num_steps=10000000,log_every=100",
        *("--config.checkpoint.every=1000000", "--workdir=w", "--partner_timeout=8"),
        *(f"--coordinator=localhost:{port}", "--num_processes=2"),
    ]
    start = [sys.executable, str(TINY / "experiment.py"), *flags]
    pipes = dict(cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    processes = [
        subprocess.Popen([*start, f"--process_id={index}"], text=True, **pipes)
        for index in range(2)
    ]
    try:
        while not processes[0].stdout.readline().startswith("step "):
            assert processes[0].poll() is None
        processes[victim].kill()
        _, said = processes[1 - victim].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
    assert processes[1 - victim].returncode == 1
    assert f"error: process {victim} of the run died or fell silent; start all" in said


def test_processes_wait_for_each_other_as_long_as_they_are_told(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    flags = ("--coordinator=localhost:1", "--num_processes=2", "--process_id=1", "--join_timeout=2")
    ended = subprocess.run(
        [sys.executable, TINY / "experiment.py", f"--config={TINY / 'config.py'}:small", *flags],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "not all processes of the run came to localhost:1 within 2 s; start all" in ended.stderr
