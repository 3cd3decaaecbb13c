"""SPO keeps a quota that no reward of single actions can say.

Three seeds with a judge that is right and one that errs; about a minute on one CPU core.
"""

import json

import numpy as np
import pytest

from experiments import control

pytestmark = [pytest.mark.behaviour, pytest.mark.slow]


@pytest.fixture(scope="module")
def final(tmp_path_factory):
    """`final(variant)` -> numbers, `[3 seeds, 2 judges]`."""
    done = {}

    def run(variant):
        if variant not in done:
            workdir = tmp_path_factory.mktemp(variant) / "run"
            config = f"--config=configs/control.py:{variant}"
            control.main(argv=[config, "--sweep=seed=0:3;flips=0.0,0.2", f"--workdir={workdir}"])
            found = json.loads((workdir / "summary.json").read_text())["final"]
            done[variant] = {k: np.reshape(found[k]["trials"], (3, 2)) for k in ("early", "kept")}
        return done[variant]

    return run


def test_self_play_keeps_the_quota_and_the_return_even_with_a_judge_that_errs(final):
    spo = final("small")
    assert (spo["early"] > 11.5).all() and (spo["kept"] > 0.95).all()


def test_control_a_reward_of_actions_alone_has_to_choose(final):
    model = final("small_reward_model")
    assert ((model["early"] < 11.5) | (model["kept"] < 0.9)).all()
