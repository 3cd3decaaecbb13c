"""Data is a function of position."""

import threading
import time

import numpy as np
import pytest

from jaxtrain.host.data import arrays, prefetch


def rows(pipeline, steps):
    return np.concatenate([pipeline.batch(step)["x"] for step in steps])


def test_every_epoch_holds_every_example_once_in_another_order():
    tree = {"x": np.arange(10), "y": np.arange(10) * 2}
    pipeline = arrays(tree, batch_size=4, seed=3)
    stream = rows(pipeline, range(10))  # 40 places, 4 epochs
    epochs = stream.reshape(4, 10)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert not np.array_equal(stream, rows(arrays(tree, batch_size=4, seed=4), range(10)))
    batch = pipeline.batch(7)
    np.testing.assert_array_equal(batch["y"], batch["x"] * 2)


def test_a_batch_depends_on_the_step_alone():
    pipeline = arrays({"x": np.arange(100)}, batch_size=7, seed=0)
    forward = [pipeline.batch(step)["x"] for step in range(40)]
    other = arrays({"x": np.arange(100)}, batch_size=7, seed=0)
    for step in reversed(range(40)):
        np.testing.assert_array_equal(other.batch(step)["x"], forward[step])


def test_without_shuffling_the_order_is_given_and_a_batch_may_exceed_an_epoch():
    pipeline = arrays({"x": np.arange(3)}, batch_size=7, seed=0, shuffle=False)
    np.testing.assert_array_equal(pipeline.batch(1)["x"], [1, 2, 0, 1, 2, 0, 1])


def test_processes_take_disjoint_slices_of_the_same_batch(monkeypatch):
    whole = arrays({"x": np.arange(20)}, batch_size=8, seed=1).batch(2)["x"]
    monkeypatch.setattr("jax.process_count", lambda: 2)
    slices = []
    for index in range(2):
        monkeypatch.setattr("jax.process_index", lambda index=index: index)
        slices.append(arrays({"x": np.arange(20)}, batch_size=8, seed=1).batch(2)["x"])
    np.testing.assert_array_equal(np.concatenate(slices), whole)
    with pytest.raises(ValueError, match="batch_size is 7 for 2 processes"):
        arrays({"x": np.arange(20)}, batch_size=7, seed=1)


@pytest.mark.parametrize(
    "tree", [{}, {"x": np.zeros(3), "y": np.zeros(4)}, {"x": np.zeros((0, 2))}]
)
def test_impossible_arrays(tree):
    with pytest.raises(ValueError, match="the same number of examples"):
        arrays(tree, batch_size=2, seed=0)


class Counting:
    """Batch n is n; remembers which batches were made and in which threads."""

    def __init__(self, fail_at=None):
        self.made, self.threads, self.fail_at = [], set(), fail_at

    def batch(self, step):
        if step == self.fail_at:
            raise OSError(f"batch {step} is unreadable")
        self.made.append(step)
        self.threads.add(threading.current_thread())
        return step


def ended(threads):
    return not any(thread.is_alive() for thread in threads)


def test_prefetch_yields_every_step_in_order_from_one_thread():
    pipeline = Counting()
    found = list(prefetch(pipeline, 3, 30, place=lambda batch: batch * 10))
    assert found == [(step, step * 10) for step in range(3, 30)]
    assert pipeline.made == list(range(3, 30))
    assert len(pipeline.threads) == 1 and ended(pipeline.threads)
    assert threading.current_thread() not in pipeline.threads


def test_prefetch_works_ahead_but_not_further_than_its_depth():
    pipeline = Counting()
    batches = prefetch(pipeline, 0, depth=2)
    next(batches)
    deadline = time.monotonic() + 5
    while len(pipeline.made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert pipeline.made == [0, 1, 2, 3]  # one taken, two waiting, one in hand
    batches.close()
    assert ended(pipeline.threads)


def test_prefetch_raises_errors_at_the_batch_they_belong_to():
    pipeline = Counting(fail_at=2)
    batches = prefetch(pipeline, 0)
    assert [next(batches), next(batches)] == [(0, 0), (1, 1)]
    with pytest.raises(OSError, match="batch 2 is unreadable"):
        next(batches)
    assert ended(pipeline.threads)
