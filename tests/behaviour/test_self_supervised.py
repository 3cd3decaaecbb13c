"""Barlow Twins: both terms give a representation; the first alone collapses its components.

One program of twelve runs; two minutes on one CPU core.
"""

import json

import numpy as np
import pytest

from experiments import self_supervised

pytestmark = [pytest.mark.behaviour, pytest.mark.slow]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Name -> `[seeds, invariance 1 or 0, redundancy 0.01 or 0]`."""
    folder = tmp_path_factory.mktemp("self_supervised") / "run"
    sweep = "--sweep=seed=0:3;loss.invariance=1,0;loss.redundancy=0.01,0"
    self_supervised.main(
        argv=["--config=configs/self_supervised.py:small", f"--workdir={folder}", sweep]
    )
    final = json.loads((folder / "summary.json").read_text())["final"]
    trials = {name: x["trials"] for name, x in final.items() if isinstance(x, dict)}
    return {name: np.array(x).reshape(3, 2, 2) for name, x in trials.items()}


def test_both_terms_beat_the_untrained_encoder_with_one_label(found):
    full, untrained = found["accuracy_1"][:, 0, 0], found["accuracy_1"][:, 1, 1]
    assert (full - untrained).mean() > 0.05 and (full > untrained).all()


def test_both_terms_beat_either(found):
    mean = found["accuracy_1"].mean(0)
    assert mean[0, 0] > mean[0, 1] and mean[0, 0] > mean[1, 0]


def test_invariance_alone_collapses(found):
    off = found["off_diagonal"]
    assert (off[:, 0, 1] > 2 * off[:, 0, 0]).all()


def test_the_table_of_before(found):
    """Full, invariance only, redundancy only, from a trial with code of its own."""
    diagonal, off = found["diagonal"].mean(0), found["off_diagonal"].mean(0)
    rows = [(0, 0), (0, 1), (1, 0)]
    np.testing.assert_allclose([diagonal[r] for r in rows], [0.78, 0.88, 0.08], atol=0.1)
    np.testing.assert_allclose([off[r] for r in rows], [0.27, 0.88, 0.10], atol=0.08)
