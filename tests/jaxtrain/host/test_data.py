"""Data is a function of position."""

import sys
import threading
import time

import chex
import numpy as np
import pytest

from jaxtrain.host.data import arrays, prefetch, records, tfds_source


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


def test_records_are_taken_in_the_order_of_arrays():
    table = np.arange(10)
    rows_of = lambda row: {"x": row, "twice": 2.0 * row}
    pipeline = records(table.tolist(), batch_size=4, seed=3, convert=rows_of)
    reference = arrays({"x": table}, batch_size=4, seed=3)
    for step in (7, 0, 3):
        batch = pipeline.batch(step)
        chex.assert_trees_all_equal(batch["x"], reference.batch(step)["x"])
        chex.assert_trees_all_equal(batch["twice"], 2.0 * batch["x"])
    with pytest.raises(ValueError, match="data source is empty"):
        records([], batch_size=2, seed=0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        records([1], batch_size=0, seed=0)


def test_a_prepared_tensorflow_dataset_is_read_without_tensorflow(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Squares(tfds.core.GeneratorBasedBuilder):
        VERSION, code_path = tfds.core.Version("1.0.0"), None  # it is not part of a package

        def _info(self):
            features = {"x": tfds.features.Tensor(shape=(2,), dtype=np.float32), "n": np.int64}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(6):
                yield i, {"x": np.full(2, i**2, np.float32), "n": i}

    Squares(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = tfds_source("squares", "train", data_dir=str(tmp_path))
    epoch = [records(source, batch_size=3, seed=0).batch(step) for step in range(2)]
    found = {k: np.concatenate([batch[k] for batch in epoch]) for k in ("n", "x")}
    assert sorted(found["n"]) == list(range(6))
    np.testing.assert_array_equal(found["x"], np.stack([found["n"] ** 2] * 2, axis=1))
    assert "tensorflow" not in sys.modules
    with pytest.raises(ValueError, match="split 'test' of the dataset 'squares' cannot be read"):
        tfds_source("squares", "test", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="the dataset 'nothere' cannot be read"):
        tfds_source("nothere", "train", data_dir=str(tmp_path))


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
