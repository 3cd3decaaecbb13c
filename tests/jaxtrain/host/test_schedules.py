"""Numbers that a schedule is refined from: files of the user."""

import numpy as np
import pytest

from jaxtrain.host.config import UsageError
from jaxtrain.host.schedules import read_numbers

NORMS = np.array([3.0, 1.0, 2.0])


def test_numbers_of_steps_or_of_trials(tmp_path):
    np.save(tmp_path / "norms.npy", NORMS)
    np.testing.assert_array_equal(read_numbers(str(tmp_path / "norms.npy")), NORMS)
    np.savetxt(tmp_path / "norms.txt", NORMS)
    np.testing.assert_array_equal(read_numbers(str(tmp_path / "norms.txt")), NORMS)
    np.save(tmp_path / "trials.npy", np.stack([NORMS, 3 * NORMS, 2 * NORMS]))
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
