"""Which runs are made and read for the claims; the claims themselves are in tests/behaviour."""

import json

import numpy as np
import pytest

from experiments import lpn_claims
from experiments.data.arc import scoring
from jaxtrain.host import files


@pytest.fixture
def started(monkeypatch):
    """What was started; a run only leaves its numbers."""
    seen = []

    def main(argv):
        folder = next(item for item in argv if item.startswith("--workdir=")).partition("=")[2]
        seen.append(argv)
        if "--mode=train" in argv:
            files.write_json(f"{folder}/summary.json", {"final": {}})
            return
        names = [f"rearc/gradient_ascent/per_output/accuracy/{top}" for top in scoring.TOPS]
        shares = ([0.25, 0.5], [0.5, len(seen) / 8])
        final = {name: {"trials": trials} for name, trials in zip(names, shares, strict=True)}
        files.write_json(f"{folder}/evaluation/summary-evaluate.json", {"final": final})

    monkeypatch.setattr(lpn_claims.lpn_arc, "main", main)
    return seen


def test_views_are_compared_on_one_training_and_read_again(started, tmp_path):
    folder = tmp_path / "small_views"
    found = lpn_claims.train("small_views", folder, 2)
    training, *evaluations = started
    assert training[:2] == ["--config=configs/lpn_arc.py:small_views", "--sweep=seed=0:2"]
    assert [argv[2:] for argv in evaluations] == [
        [
            f"--config.evaluation.augmentations={number}",
            f"--config.evaluation.search.num_steps={steps}",
        ]
        for number, steps in lpn_claims.VIEWS.values()
    ]
    np.testing.assert_array_equal(found.final["4 views, 12 steps_top_2_accuracy"], [0.5, 3 / 8])
    again = lpn_claims.train("small_views", folder, 2)
    assert len(started) == 4 and json.loads((folder / "summary.json").read_text())
    for name, values in found.final.items():
        np.testing.assert_array_equal(again.final[name], values)
    text = lpn_claims.tables({"small_views": found})
    assert text.count("first attempt") == text.count("two attempts") == 3
    assert "8 views, 5 steps, two attempts" in text and "50.0 50.0" in text


def test_decoder_calls_are_as_stated():
    """Three demonstrations, one test input; the latents on the way are the start and the steps 1,
    2, 4, 8, ..."""
    calls = []
    for number, steps in lpn_claims.VIEWS.values():
        passed = 1 + sum(2**i <= steps for i in range(10))
        calls.append(number * (3 * (steps + 1) + 2 + passed))
    assert calls == [192, 184, 192]
