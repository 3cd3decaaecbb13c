"""The systems of `lm_reward` end to end: two updates, numbers, figures, resume."""

import json

import numpy as np
import pytest

from experiments import lm_reward


def run(variant, workdir, *flags):
    config = f"--config=configs/lm_reward.py:{variant}"
    lm_reward.main(argv=[config, f"--workdir={workdir}", *flags])
    return json.loads((workdir / "summary.json").read_text())["final"]


def test_coverage_of_tables_for_several_n(tmp_path, capsys):
    sweep = "--sweep=seed=0:2;dco.num_samples=1,64"
    final = run("dco_exact_debug", tmp_path, sweep)
    assert len(final["pass_at_1"]["trials"]) == 4 and final["pass_at_4"]["mean"] > 0.3
    assert "num_samples=64" in capsys.readouterr().out
    assert (tmp_path / "plots" / "coverage.png").stat().st_size > 1000
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any("eval/pass_at_4" in line for line in lines)


def test_sharpening_of_tables(tmp_path, capsys):
    final = run("sharpening_exact_debug", tmp_path, "--sweep=seed=0:2;sharpening.num_samples=1,2")
    law, before = (np.array(final[name]["trials"]) for name in ("best_by_law", "best_before"))
    np.testing.assert_allclose(law[[0, 2]], before[[0, 2]], rtol=1e-5)
    assert (law[[1, 3]] > before[[1, 3]] + 0.01).all()
    assert (before > 0.25).all()  # the best of four sequences has a quarter at least
    assert (tmp_path / "plots" / "sharpening.png").stat().st_size > 1000


@pytest.mark.ci
@pytest.mark.parametrize(
    ("variant", "number", "figure"),
    [
        ("debug", "pass_at_4", "coverage"),
        ("sharpening_debug", "own_choice_of_2", "sharpening"),
        ("verifier_debug", "gap_3", "verification"),
    ],
)
def test_language_models_run(variant, number, figure, tmp_path):
    final = run(variant, tmp_path, "--sweep=seed=0:2")
    assert np.isfinite(final[number]["trials"]).all()
    assert (tmp_path / "plots" / f"{figure}.png").stat().st_size > 1000


@pytest.mark.ci
def test_regression_on_pairs_runs(tmp_path):
    final = run("sharpening_exact_debug,sharpening.objective=pairs", tmp_path)
    assert 0 < final["distance"] < 1
