"""RLCF: the reward of better towers helps, that of the policy itself and of wrong texts does not.

CIFAR-10 and a ResNet-20, which must lie beside the checkout; three seeds, minutes of one CPU core.
"""

import json

import numpy as np
import pytest

from experiments import tta_clip
from tests.shared_data import DATA

pytestmark = [pytest.mark.behaviour, pytest.mark.slow]
FILES = [DATA / "cifar10" / "test.webp", DATA / "weights" / "cifar10_resnet20.npz"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    if missing := [file for file in FILES if not file.is_file()]:
        pytest.skip(f"{missing[0]} is not there")
    folder = tmp_path_factory.mktemp("tta_clip") / "run"
    config = "--config=configs/tta_clip.py:cifar"
    tta_clip.main(argv=[config, f"--workdir={folder}", f"--config.data.data_dir={DATA}"])
    return json.loads((folder / "summary.json").read_text())["final"]


@pytest.mark.parametrize("row", ["rlcf", "rlcf_image"])
def test_reward_helps_in_every_seed(found, row):
    accuracy = lambda name: np.array(found[f"{name}_accuracy"]["trials"])
    assert (accuracy(row) > accuracy("zero_shot")).all()
    assert (accuracy(row) > accuracy("tpt")).all()
    assert found["differences"][f"{row} over zero_shot"]["low"] > 0


def test_the_policys_own_reward_does_not_help(found):
    gain = found["differences"]["own_reward over zero_shot"]
    assert gain["low"] < 0 and gain["value"] < 0.04


def test_the_reward_of_other_texts_does_not_help(found):
    assert found["differences"]["permuted over zero_shot"]["value"] < 0
