"""An evolved rule trains agents on held-out levels; an evolved drift told n / N is a schedule.

What docs/meta_rl.md shows in each of its seeds and no more. Two meta-trainings and two short
controls; about twenty minutes on two CPU cores with other work.
"""

import json

import pytest

from experiments import meta_rl

pytestmark = [pytest.mark.behaviour, pytest.mark.slow]


@pytest.fixture
def final(tmp_path):
    """`final(variant)` -> the final numbers of a run."""

    def run(variant):
        workdir = tmp_path / variant.partition(",")[0]
        meta_rl.main(argv=[f"--config=configs/meta_rl.py:{variant}", f"--workdir={workdir}"])
        return json.loads((workdir / "summary.json").read_text())["final"]

    return run


def test_an_evolved_rule_trains_agents_on_held_out_levels(final):
    """Mean over three horizons of the return over the optimal one."""
    assert final("small_lpg")["normalised"] > 0.3


def test_control_a_rule_of_one_generation_does_not(final):
    assert final("small_lpg,num_steps=1")["normalised"] < 0.1


def test_the_drift_of_ta_lpo_changes_over_a_lifetime(final):
    # The numbers asked for are of the drift alone; one short agent suffices for the rest.
    shortened = "evaluation.horizons=(15,),evaluation.num_seeds=1"
    assert final(f"small_ta_lpo,{shortened}")["slope_change"] > 0.05
    assert final(f"small_lpo,num_steps=3,{shortened}")["slope_change"] == 0  # control
