"""Two processes save one checkpoint, stop together when one of them is asked to, and go on."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxtrain.host.checkpoint import load_arrays

ROOT = Path(__file__).parents[2]


def run(workdir: Path, mode: str, data: str, disturb: bool = False) -> tuple[list[int], str]:
    """Exit codes of both processes and what the first one printed."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    wish = "yes" if disturb else "no"
    module = [sys.executable, "-m", "tests.resume.two_processes"]
    processes = [
        subprocess.Popen(
            [*module, address, str(i), str(workdir), mode, data, wish],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        printed = [process.communicate(timeout=150)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], "\n".join(printed)


@pytest.mark.multihost
@pytest.mark.ci
@pytest.mark.parametrize(("mode", "data"), [("jit", "generated"), ("pmap", "host")])
def test_a_signal_to_one_process_stops_both_and_the_resumed_run_has_the_same_bits(
    tmp_path, mode, data
):
    folders = [tmp_path / name for name in ("undisturbed", "disturbed")]
    codes, printed = run(folders[0], mode, data)
    assert codes == [0, 0], printed
    codes, printed = run(folders[1], mode, data, disturb=True)
    assert codes == [3, 3] and printed.count("step 30\n") == 2, printed
    codes, printed = run(folders[1], mode, data)
    assert codes == [0, 0] and "step 10/60" not in printed, printed

    logs = [(folder / "metrics.jsonl").read_bytes() for folder in folders]
    assert logs[0] == logs[1] and logs[0].count(b"\n") == 9
    x, y = (load_arrays(folder / "checkpoints/60") for folder in folders)
    assert x.keys() == y.keys()
    assert all(x[name].tobytes() == y[name].tobytes() for name in x)

    from benchmarks.tiny_run import run as run_here

    assert jax.process_count() == 1
    run_here(tmp_path / "alone", data, 60)
    alone = load_arrays(tmp_path / "alone/checkpoints/60")
    np.testing.assert_allclose(x["w"], alone["w"], atol=1e-3)
    run_here(folders[1], data, 80)  # one process goes on where two stopped
