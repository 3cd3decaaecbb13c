"""Which runs are made and read for the claims; the claims themselves are in tests/behaviour."""

import json

import numpy as np
import pytest

from experiments import lpn_claims
from experiments.data.arc import scoring
from jaxtrain.host import files
from jaxtrain.host.config import UsageError


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


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--seeds=1"], "--seeds=1 is impossible; it must be from 2 to 1000"),
        (["--seeds=-3"], "--seeds=-3 is impossible"),
        (["--variants=tiny"], "--variants: 'tiny' is unknown; they are small, "),
        (["--variants=map"], "--variants must contain small"),
        (["--workdir="], "--workdir names no folder"),
    ],
)
def test_impossible_flags_start_nothing(started, capsys, flags, sentence):
    with pytest.raises(SystemExit) as stop:
        lpn_claims.main(flags)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith(f"error: {sentence}") and said.count("\n") == 1
    assert not started


def test_a_folder_of_another_run_is_named(tmp_path):
    """Three seeds are no five, and what cannot be read is no run."""
    final = {"mean_accuracy": {"trials": [0.1, 0.2, 0.3]}, "mean_pixels": {"trials": [1, None, 0]}}
    files.write_json(tmp_path / "summary.json", {"final": final})
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1}\n')
    with pytest.raises(UsageError, match="is damaged or no folder of a finished run: .*timing"):
        lpn_claims.train("small", tmp_path, 3)
    (tmp_path / "timing.jsonl").write_text('{"step": 1, "steps_per_second": 2}\n')
    found = lpn_claims.train("small", tmp_path, 3)
    assert found.rate == 2 and np.isnan(found.final["mean_pixels"][1])
    with pytest.raises(UsageError, match="--seeds=5, but .* has a run of 3; remove that folder"):
        lpn_claims.train("small", tmp_path, 5)
    for content in ("{", "[1]", '{"final": [1]}', '{"final": {"a": {}}}'):
        (tmp_path / "summary.json").write_text(content)
        with pytest.raises(UsageError, match="is damaged or no folder of a finished run"):
            lpn_claims.train("small", tmp_path, 3)
