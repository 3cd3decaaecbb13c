"""Trainings in memory: the numbers of one scan, saved on the way, continued with the same bits."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.core import Core, StepOutput, on_arrays
from jaxtrain.host import scans
from jaxtrain.host.config import UsageError
from jaxtrain.host.loop import Preempted

KEY = jax.random.key(3)
ARRAYS = {"x": np.arange(12.0, dtype=np.float32).reshape(6, 2)}


def core(rate=0.1, after=None):
    """Moves w towards the rows of a batch, with noise; `after(loss)` is told of every update."""

    def update(w, batch, key):
        error = w - batch["x"].mean(0) + jax.random.normal(key, (2,))
        loss = (error**2).sum()
        if after is not None:
            jax.debug.callback(after, loss, ordered=True)
        return w - rate * error, StepOutput({"loss": loss})

    return Core(lambda w: w, update)


def train(folder, num_steps=7, **options):
    settings = dict(name="the toy", folder=folder, batch_size=2, num_steps=num_steps)
    made = core(**options)
    return scans.trained(made, made.init, (jnp.ones(2),), ARRAYS, KEY, **settings)


def test_windows_have_the_bits_of_one_scan(monkeypatch):
    monkeypatch.setattr(scans, "WINDOW", 3)
    made = core()
    whole = jax.jit(lambda w, arrays: on_arrays(made, w, arrays, KEY, batch_size=2, num_steps=7))
    w, metrics = whole(jnp.ones(2), ARRAYS)
    found, means = train(None)
    np.testing.assert_array_equal(found, w)
    np.testing.assert_allclose(means["loss"], metrics["loss"][6], rtol=1e-6)


def test_a_signal_stops_after_a_window_and_the_same_bits_follow(tmp_path, monkeypatch):
    monkeypatch.setattr(scans, "WINDOW", 2)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    seen = []

    def stop(loss):
        seen.append(float(loss))
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGHUP)

    with pytest.raises(Preempted, match="step 4 of the toy$"):
        train(tmp_path / "toy", after=stop)
    signal.signal(signal.SIGHUP, before)
    found, means = train(tmp_path / "toy", after=seen.append)
    assert len(seen) == 7  # none twice
    np.testing.assert_array_equal(found, train(None)[0])
    again, means_again = train(tmp_path / "toy", after=seen.append)
    assert len(seen) == 7 and means_again == means
    np.testing.assert_array_equal(again, found)


# --- Functions that take a scan -------------------------------------------------------------------

TABLE = np.arange(20.0, dtype=np.float32).reshape(10, 2)


def smoothed(scan, start=0.5, seen=None):
    """Averages of rows with noise of the step's own key; returns the last one and all norms."""
    table = jnp.asarray(TABLE)  # closed over

    def body(carry, given):
        mean, number = carry
        place, key = given
        mean = 0.9 * mean + 0.1 * (table[place] + jax.random.normal(key, (2,)))
        if seen is not None:
            jax.debug.callback(seen, mean, ordered=True)
        return (mean, number + 1), {"norm": (mean**2).sum()}

    xs = (np.arange(7, dtype=np.int32)[::-1], jax.random.split(KEY, 7))
    return scan(body, (jnp.full(2, start), jnp.int32(0)), xs)


def test_a_saving_scan_has_the_bits_of_a_scan(tmp_path):
    expected = jax.jit(lambda: smoothed(jax.lax.scan))()
    for folder in (None, tmp_path / "toy"):
        found = smoothed(scans.saving("the toy", folder, window=3))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert found[0][1] == 7


def test_a_saving_scan_goes_on_after_a_signal(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    seen, scan = [], scans.saving("the toy", tmp_path / "toy", window=2)

    def stop(mean):
        seen.append(mean)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGHUP)

    with pytest.raises(Preempted, match="step 4 of the toy$"):
        smoothed(scan, seen=stop)
    signal.signal(signal.SIGHUP, before)
    found = smoothed(scan, seen=seen.append)
    assert len(seen) == 7  # none twice
    jax.tree.map(np.testing.assert_array_equal, found, smoothed(jax.lax.scan))
    again = smoothed(scan, seen=seen.append)
    assert len(seen) == 7
    jax.tree.map(np.testing.assert_array_equal, again, found)
    with pytest.raises(FloatingPointError, match="the toy: .* NaN at step 3; try a lower"):
        smoothed(scans.saving("the toy", tmp_path / "other", window=3), start=jnp.nan)
    assert not (tmp_path / "other").exists()


def test_divergence_and_foreign_checkpoints_are_named(tmp_path):
    with pytest.raises(FloatingPointError, match="the toy: metric 'loss' is not finite"):
        train(tmp_path / "toy", num_steps=90, rate=1e30)
    train(tmp_path / "toy")
    with pytest.raises(UsageError, match="holds another state"):
        scans.trained(
            *(core(), lambda: jnp.ones(3), (), ARRAYS, KEY),
            **dict(name="the toy", folder=tmp_path / "toy", batch_size=2, num_steps=7),
        )
