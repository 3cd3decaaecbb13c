"""Runs every `cases_*.py` in a process with eight simulated devices.

The number of devices is fixed when JAX starts, so these tests cannot share a process with others.
Run one by hand with

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m pytest tests/multidevice/cases_x.py
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CASES = sorted(HERE.glob("cases_*.py"))


@pytest.mark.multidevice
@pytest.mark.parametrize(
    "chosen",
    [
        "not ci and not slow",
        pytest.param("ci", marks=pytest.mark.ci),
        pytest.param("slow", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem.removeprefix("cases_"))
def test_with_eight_devices(path, chosen):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", chosen, str(path)],
        cwd=HERE.parents[1],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    nothing_chosen = 5
    assert result.returncode in (0, nothing_chosen), result.stdout + result.stderr
