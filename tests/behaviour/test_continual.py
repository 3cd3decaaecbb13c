"""OVOR: fewer images are taken for another task, and a little of it is where outliers lie.

Three orders of the classes; minutes on one CPU core. The classes are those of MNIST,
which must lie beside the checkout.
"""

import json

import numpy as np
import pytest

from experiments import continual
from tests.shared_data import DATA

pytestmark = [pytest.mark.behaviour, pytest.mark.slow]
FILE = DATA / "digits" / "mnist_10k_10k.npz"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    if not FILE.is_file():
        pytest.skip(f"{FILE} is not there")
    folder = tmp_path_factory.mktemp("continual") / "run"
    flags = [f"--config.{part}.name={FILE}" for part in ("data", "source")]
    config = "--config=configs/continual.py:mnist"
    continual.main(argv=[config, f"--workdir={folder}", *flags])
    return json.loads((folder / "summary.json").read_text())["final"]


@pytest.mark.parametrize("other", ["head_only", "one_prompt"])
def test_outliers_lower_the_confusion_of_tasks(found, other):
    crossed = lambda row: np.array(found[f"{row}_crossed"]["trials"])
    assert (crossed("ovor") < crossed(other)).all()
    part = found["differences"][f"ovor over {other}"]
    assert part["crossed"]["high"] < 0 < part["right"]["low"]


def test_most_of_the_gain_is_not_where_outliers_lie(found):
    gain = lambda first, second: found["differences"][f"{first} over {second}"]["right"]
    assert gain("ovor", "on_data")["low"] > 0
    assert gain("on_data", "head_only")["value"] > 0.5 * gain("ovor", "head_only")["value"]
