"""T3AL helps where names say little of what actions look like, and harms where they say much.

Five worlds of 48 videos, twice; half a minute on one CPU core. Timelines are those of THUMOS14
where they lie beside the checkout, made up elsewhere.
"""

import json

import numpy as np
import pytest

from experiments import tta_vision_language
from jaxtrain.host.report import interval
from tests.shared_data import DATA

pytestmark = [pytest.mark.behaviour, pytest.mark.slow]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t3al") / "run"
    file = DATA / "video" / "thumos14_annotations.json.gz"
    flags = [f"--config.data.timelines={file}"] if file.is_file() else []
    config = "--config=configs/tta_vision_language.py:small"
    tta_vision_language.main(argv=[config, f"--workdir={folder}", *flags])
    final = json.loads((folder / "summary.json").read_text())["final"]
    return lambda kind, name: np.array(final[kind][name]["trials"])


def test_both_regimes(found):
    _, low, _ = interval(found("weak", "gain"))
    _, _, high = interval(found("good", "gain"))
    assert low > 0 > high


@pytest.mark.parametrize("kind", ["weak", "good"])
def test_a_wrong_label_localises_worse(found, kind):
    lost = found(kind, "rank adapted") - found(kind, "rank wrong")
    assert lost.mean() > 0.1 and (lost > 0).all()


@pytest.mark.parametrize("kind", ["weak", "good"])
def test_taking_the_background_away_helps(found, kind):
    assert (found(kind, "rank free") - found(kind, "rank background left in")).mean() > 0


@pytest.mark.parametrize("kind", ["weak", "good"])
def test_a_wrong_name_is_at_chance_before_and_gains_most(found, kind):
    assert abs(found(kind, "rank wrong, free").mean() - 0.5) < 0.05
    assert (found(kind, "gain, wrong label") - found(kind, "gain")).mean() > 0
