"""Iterative-deepening sampling from the command line: tables, figure, a second start."""

import json

import numpy as np
import pytest

from experiments import lm_search
from jaxtrain.host.config import UsageError, load


def run(workdir, spec="debug"):
    lm_search.main(argv=[f"--config=configs/lm_search.py:{spec}", f"--workdir={workdir}"])
    return json.loads((workdir / "summary.json").read_text())["final"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm_search") / "run"
    return folder, run(folder)


def test_a_run_ends_with_every_rule_and_a_figure(finished):
    folder, final = finished
    by_rule = final["1_steps"]
    names = ("plain samples", "once, at the end", "every 4 tokens", "budgets x 2", "filler, x 2")
    assert set(names) <= by_rule.keys()
    assert by_rule["plain samples"]["triggers"] == 0
    assert by_rule["every 4 tokens"]["triggers"] > 0
    assert set(by_rule["differences"]["growing over plain"]) == {"value", "low", "high"}
    assert (folder / "plots" / "deepening.png").stat().st_size > 1000
    held = [np.load(file) for file in sorted((folder / "checkpoints" / "samples").iterdir())]
    assert held[0]["answer"].shape == (2, 2, 4) and len(held) == len(by_rule) - 1
    for rule in held:  # on which all differences rest
        np.testing.assert_array_equal(rule["right"], held[0]["right"])
        np.testing.assert_array_equal(rule["depth"], held[0]["depth"])
        np.testing.assert_array_equal(rule["tokens"], rule["sampled"] + rule["triggers"])


def test_a_second_start_reads_what_is_there(finished, capsys):
    folder, final = finished
    before = [
        file.stat().st_mtime_ns for file in sorted((folder / "checkpoints" / "samples").iterdir())
    ]
    assert run(folder) == final
    after = [
        file.stat().st_mtime_ns for file in sorted((folder / "checkpoints" / "samples").iterdir())
    ]
    assert before == after
    assert "growing over constant" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:  # samples of another config are not taken for its own
        run(folder, "debug,seed=7")
    assert stop.value.code == 2 and "seed: 0 -> 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("deepening.first=12", "must be below deepening.cap=12"),
        ("deepening.factors=(1.0,)", "above 1.0"),
        ("deepening.factors=()", "at least one value"),
    ],
)
def test_impossible_settings_are_named(spec, sentence):
    with pytest.raises(UsageError, match=sentence):
        config, _ = load(f"configs/lm_search.py:debug,{spec}")
        lm_search.validate(config)


def test_another_base_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, "debug,base=huge")
    assert stop.value.code == 2 and "no base model 'huge'" in capsys.readouterr().err
