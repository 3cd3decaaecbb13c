"""Sparsey stores in one trial, and similar items have similar codes because of what is familiar.

Two programs of six memories; half a minute on one CPU core.
"""

import json

import numpy as np
import pytest

from experiments import memory

pytestmark = [pytest.mark.behaviour, pytest.mark.slow]


def run(folder, variant, sweep):
    config = f"--config=configs/memory.py:{variant}"
    memory.main(argv=[config, f"--workdir={folder}", f"--sweep=seed=0:3;{sweep}"])
    final = json.loads((folder / "summary.json").read_text())["final"]
    return {name: np.array(x["trials"]).reshape(3, 2) for name, x in final.items()}


def test_below_capacity(tmp_path):
    found = run(tmp_path / "run", "small", "memory.chi=0,100")
    assert (found["self_retrieval"] >= 0.99).all()
    assert (found["overlap_correlation"][:, 1] > 0.5).all()
    assert (np.abs(found["overlap_correlation"][:, 0]) < 0.1).all()  # the control
    assert (found["familiarity_stored"] - found["familiarity_novel"] > 0.2).all()
    # The sheet: 0.02 and 0.66, 0.895 and 0.875, weights 0.06 and 0.05.
    assert found["overlap_correlation"][:, 1].mean() == pytest.approx(0.66, abs=0.12)
    np.testing.assert_allclose(found["accuracy"].mean(0), [0.895, 0.875], atol=0.06)
    np.testing.assert_allclose(found["fill"].mean(0), [0.06, 0.05], atol=0.006)


def test_freezing_trades_late_items_for_what_is_alike(tmp_path):
    """300 items, 32 x 16: free and frozen at 0.3, beside the rows of the sheet."""
    found = run(tmp_path / "run", "narrow", "memory.freeze=1,0.3")
    mean = {name: x.mean(0) for name, x in found.items()}
    np.testing.assert_allclose(mean["self_retrieval"], [0.93, 0.69], atol=0.04)
    np.testing.assert_allclose(mean["overlap_correlation"], [0.30, 0.64], atol=0.08)
    np.testing.assert_allclose(mean["accuracy"], [0.497, 0.865], atol=0.12)
    np.testing.assert_allclose(mean["fill"], [0.30, 0.24], atol=0.02)
