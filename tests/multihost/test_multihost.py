"""Two processes on one machine form a cluster and compute what one process computes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NUM_PROCESSES = 2


def free_address() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.multihost
@pytest.mark.ci
def test_two_processes_equal_one():
    address = free_address()
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.multihost.worker", address, str(NUM_PROCESSES), str(i)],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(NUM_PROCESSES)
    ]
    try:
        printed = [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, text in zip(workers, printed, strict=True):
        assert worker.returncode == 0 and text.rstrip().endswith("ok"), text
