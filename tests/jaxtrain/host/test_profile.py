"""Trace windows, the compile counter, and FLOPs counted from a program."""

import gzip
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.host import profile
from jaxtrain.host.config import UsageError


def test_window_of_steps():
    assert profile.parse_window("100:120") == (100, 120)
    for text in ("", "5", "5:5", "6:5", "a:b", "-1:5", "1:2:3"):
        with pytest.raises(UsageError, match="must be FROM:TO, two steps such as 100:120"):
            profile.parse_window(text)


def test_trace_records_the_groups_that_overlap_the_window(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *a, **k: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    trace = profile.Trace(tmp_path, 5, 9)
    for start in range(0, 16, 4):
        with trace(start, start + 4):
            calls.append(start)
    assert calls == [0, "start", 4, 8, "stop", 12]

    calls.clear()
    with trace(4, 8):  # the run ends inside the window
        pass
    trace.close()
    trace.close()
    assert calls == ["start", "stop"]

    calls.clear()
    with pytest.raises(RuntimeError), trace(4, 8):
        raise RuntimeError
    assert calls == ["start", "stop"]


def test_trace_holds_the_steps(tmp_path):
    step = jax.jit(lambda x: x @ x)
    x = jnp.ones((8, 8))
    trace = profile.Trace(tmp_path / "profile", 2, 4)
    for start in (0, 2, 4):
        with trace(start, start + 2):
            x = step(x).block_until_ready()
    (file,) = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    steps = {e["args"]["step_num"] for e in events if e.get("name") == "train"}
    assert steps == {"2"}


def test_compilations_are_counted_by_function():
    @jax.jit
    def doubled(x):
        return 2 * x

    @jax.jit
    def tripled(x):
        return 3 * x

    xs = [np.ones(n, np.float32) for n in (2, 2, 3)]
    with profile.Compilations() as seen:
        for x in xs:
            doubled(x)
        tripled(xs[0])
    tripled(xs[2])  # after the end: not counted
    assert seen.traced["doubled"] == seen.compiled["doubled"] == 2
    assert seen.compiled["tripled"] == 1
    assert seen.again() == ["doubled"] and seen.seconds > 0


def test_peak_memory_is_that_of_the_fullest_device_or_of_the_process(monkeypatch):
    class Device(NamedTuple):
        peak: int

        def memory_stats(self):
            return {"peak_bytes_in_use": self.peak}

    assert 2**25 < profile.peak_memory() < 2**40  # a CPU says nothing: this process
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(3), Device(2**41), Device(5)])
    assert profile.peak_memory() == 2**41
