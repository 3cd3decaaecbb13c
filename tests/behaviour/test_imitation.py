"""BESO goes both ways past a trap into which the mean of the demonstrations leads.

Three seeds and their control; about two minutes on one CPU core.
"""

import json

import numpy as np
import pytest

from experiments import imitation

pytestmark = [pytest.mark.behaviour, pytest.mark.slow]


@pytest.fixture(scope="module")
def final(tmp_path_factory):
    """`final(variant)` -> numbers of three seeds."""
    done = {}

    def run(variant):
        if variant not in done:
            workdir = tmp_path_factory.mktemp(variant) / "run"
            config = f"--config=configs/imitation.py:{variant}"
            imitation.main(argv=[config, "--sweep=seed=0:3", f"--workdir={workdir}"])
            found = json.loads((workdir / "summary.json").read_text())["final"]
            done[variant] = {
                k: np.array(v["trials"]) if isinstance(v, dict) else v for k, v in found.items()
            }
        return done[variant]

    return run


def test_both_ways_are_taken(final):
    beso = final("small")
    assert (beso["left"] >= 0.25).all() and (beso["right"] >= 0.25).all()


def test_control_the_mean_leads_into_the_trap(final):
    beso, control = final("small"), final("small_cloning")
    assert (beso["reach"] >= 2 * control["reach"]).all()
    assert (np.minimum(control["left"], control["right"]) <= 0.15).all()


def test_whoever_ignores_the_goal_is_in_the_wrong_pocket_half_of_the_time(final):
    beso = final("small")
    assert (beso["reach_without_goal"] <= 0.7 * beso["reach"]).all()


def test_three_steps_are_as_good_as_ten(final):
    beso = final("small")
    assert np.abs(beso["reach"] - beso["reach_more_steps"]).mean() < 0.1
