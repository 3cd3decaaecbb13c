"""Trials of `tta_images` and the rows they keep."""

import math
import os
import signal

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import tta_images
from experiments.images.report import Row
from experiments.images.trials import SWEEPABLE, read_row, save_row, trials_of
from jaxtrain.host import sweep
from jaxtrain.host.config import UsageError, load
from jaxtrain.host.loop import Preempted

OWN = ConfigDict(
    {"seed": 3, "num_seeds": 1, "method": {"tent": {"learning_rate": 0.1, "optimizer": "adam"}}}
).lock()


def parse(text, config=OWN):
    return sweep.parse(text, SWEEPABLE, config)


def row(name="tent", error=0.25):
    shifts = {"fog": {"error": error, "nll": 1.5}}
    return Row(name, 3, shifts, [error, 0.5], 1.0, 0.0, 0.125, {}, None)


def test_without_a_sweep_there_is_one_trial_of_all_seeds():
    (one,) = trials_of(ConfigDict({**OWN.to_dict(), "num_seeds": 2}), None)
    assert (one.seeds, one.folder, one.about) == ([3, 4], "", {})


def test_trials_have_the_numbers_that_were_typed_and_share_what_is_equal():
    found = trials_of(OWN, parse("seed=0:2;method.tent.learning_rate=1e-3,3e-3"))
    assert [trial.seeds for trial in found] == [[0], [0], [1], [1]]
    rates = [trial.config.method.tent.learning_rate for trial in found]
    assert rates == [1e-3, 3e-3, 1e-3, 3e-3] and OWN.method.tent.learning_rate == 0.1
    assert found[0].config is found[2].config and found[0].config is not found[1].config
    assert found[3].folder == "trial_3"
    assert found[3].about == {"seed": 1, "method.tent.learning_rate": 3e-3}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("method.eata.learning_rate=1,2", "the config has no key 'method.eata.learning_rate'"),
        ("method.tent.optimizer=1,2", "varies numbers, and 'method.tent.optimizer' is none"),
        ("num_seeds=1,2", "cannot vary 'num_seeds'"),
    ],
)
def test_what_cannot_be_swept_is_named(text, sentence):
    with pytest.raises(UsageError, match=sentence):
        parse(text)


def test_seeds_are_said_in_one_way_and_keys_without_effect_are_refused():
    config, _ = load("configs/tta_images.py:debug,methods=('tent',)")
    with pytest.raises(UsageError, match="num_seeds=2 asks for others"):
        trials_of(config, parse("seed=0:2", config))
    own = ConfigDict({"seed": 0, "num_seeds": 1})
    with pytest.raises(UsageError, match="method.eata.fisher_weight would have no effect"):
        trials_of(own, parse("method.eata.fisher_weight=1,2", config))


def test_seeds_beyond_the_largest_are_refused():
    last = 2**31 - 1
    at = lambda number: ConfigDict({"seed": last - 1, "num_seeds": number})
    assert trials_of(at(2), None)[0].seeds == [last - 1, last]
    with pytest.raises(UsageError, match=rf"seeds up to {last + 1}, and {last} is the largest"):
        trials_of(at(3), None)


def test_a_row_is_read_as_it_was_written(tmp_path):
    save_row(tmp_path / "r" / "tent.json", row(error=math.nan))
    found = read_row(tmp_path / "r" / "tent.json")
    assert math.isnan(found.shifts["fog"]["error"]) and math.isnan(found.rounds[0])
    assert found._replace(shifts={}, rounds=[]) == row()._replace(shifts={}, rounds=[])
    assert read_row(tmp_path / "none.json") is None
    (tmp_path / "odd.json").write_text("[3]")
    with pytest.raises(UsageError, match="odd.json is no row of results"):
        read_row(tmp_path / "odd.json")


def test_rows_that_are_done_are_kept_and_a_signal_stops_after_one(tmp_path, monkeypatch):
    config, _ = load("configs/tta_images.py:debug,methods=('tent',)")
    asked = []

    def computed(config, build, clean, shown, mesh, seed, names):
        asked.append(names)
        for number, name in enumerate(names):
            if len(asked) == 1 and number == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield row(name, number / 4)

    monkeypatch.setattr(tta_images, "computed", computed)
    start = lambda: tta_images.evaluated(config, None, None, None, None, seed=3, folder=tmp_path)
    with pytest.raises(Preempted, match="step 2 of 3 methods on seed 3"):
        start()
    rows = start()
    assert asked == [["source", "reset", "tent"], ["tent"]]
    assert [found.method for found in rows] == ["source", "reset", "tent"]
    assert start() == rows and asked[2:] == [[]]
    np.testing.assert_equal([found.rounds[0] for found in rows], [0.0, 0.25, 0.0])


def test_a_sweep_reports_the_mean_over_the_seeds_of_each_trial():
    trials = [{"tent_error": np.array([0.25, 0.75])}, {"tent_error": np.array([0.5, 0.0])}]
    np.testing.assert_array_equal(tta_images.over_seeds(trials)["tent_error"], [0.5, 0.25])
