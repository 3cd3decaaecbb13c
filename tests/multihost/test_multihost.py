"""Two processes on one machine form a cluster and compute what one process computes."""

import os
import sys
from pathlib import Path

import pytest

from tests.multihost.processes import free_port, together

ROOT = Path(__file__).parents[2]
NUM_PROCESSES = 2


@pytest.mark.multihost
@pytest.mark.ci
def test_two_processes_equal_one():
    address = f"127.0.0.1:{free_port()}"
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    worker = [sys.executable, "-m", "tests.multihost.worker", address, str(NUM_PROCESSES)]
    commands = [[*worker, str(i)] for i in range(NUM_PROCESSES)]
    for ended in together(commands, ROOT, environment, timeout=240):
        assert ended.code == 0 and ended.out.rstrip().endswith("ok"), ended.out + ended.err
