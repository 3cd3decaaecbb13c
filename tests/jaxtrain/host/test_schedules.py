"""Files of numbers that a schedule is refined from; the rates that a run is about to have."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxtrain.host import sweep
from jaxtrain.host.config import UsageError
from jaxtrain.host.schedules import read_numbers, read_schedule, write_schedule

NORMS = np.array([3.0, 1.0, 2.0])


def test_numbers_of_steps_or_of_trials(tmp_path):
    np.save(tmp_path / "norms.npy", NORMS)
    np.testing.assert_array_equal(read_numbers(str(tmp_path / "norms.npy")), NORMS)
    np.savetxt(tmp_path / "norms.txt", NORMS)
    np.testing.assert_array_equal(read_numbers(str(tmp_path / "norms.txt")), NORMS)
    np.save(tmp_path / "trials.npy", np.stack([NORMS, 9 * NORMS, 2 * NORMS]))
    np.testing.assert_array_equal(read_numbers(str(tmp_path / "trials.npy")), 2 * NORMS)


@pytest.mark.parametrize(
    "given", [np.array([print], object), np.array(["a"]), np.float64(3), np.zeros((2, 2, 2))]
)
def test_other_files_are_named(given, tmp_path):
    path = tmp_path / "norms.npy"
    np.save(path, given)
    with pytest.raises(UsageError, match="norms.npy is damaged or no"):
        read_numbers(str(path))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UsageError, match="norms.npy is damaged or no"):
        read_numbers(str(path))
    with pytest.raises(UsageError, match="does not exist; gradient norms are recorded with"):
        read_numbers(str(tmp_path / "none.npy"))


def test_the_rates_to_come_are_those_of_every_trial(tmp_path):
    section = {"learning_rate": 0.5, "warmup_steps": 0, "schedule": "constant"}
    config = ConfigDict({"num_steps": 4, "optimizer": section})
    axes = sweep.parse("optimizer.learning_rate=0.2,0.4", ("optimizer.learning_rate",))
    for axis, peaks in ((None, [0.5]), (axes, [0.2, 0.4])):
        write_schedule(tmp_path, config, axis)
        found = read_schedule(tmp_path)
        assert found["steps"] == [0, 1, 2, 3] and found["schedule"] == "constant"
        np.testing.assert_allclose(found["rates"], np.outer(peaks, np.ones(4)), rtol=1e-6)


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"steps": [0]}', '{"schedule": "x", "steps": [0, 1], "rates": [[1]]}']
)
def test_odd_lists_of_rates_are_named(content, tmp_path):
    assert read_schedule(tmp_path) is None
    (tmp_path / "schedule.json").write_text(content)
    with pytest.raises(UsageError, match="schedule.json is damaged or no list of rates"):
        read_schedule(tmp_path)
