"""HILP's latents measure a maze, and planning in them reaches what a direction alone does not.

Three seeds; about a minute and a half on one CPU core. That plain HILP reaches more than behaviour
cloning is not claimed.
"""

import json

import numpy as np
import pytest

from experiments import skills

pytestmark = [pytest.mark.behaviour, pytest.mark.slow]


@pytest.fixture(scope="module")
def final(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("hilp") / "run"
    skills.main(
        argv=["--config=configs/skills.py:small", "--sweep=seed=0:3", f"--workdir={workdir}"]
    )
    found = json.loads((workdir / "summary.json").read_text())["final"]
    return {k: np.array(v["trials"]) if isinstance(v, dict) else v for k, v in found.items()}


def test_latent_distances_are_those_of_the_maze(final):
    assert (final["rho"] > 0.95).all() and (final["rho"] > final["rho_straight"] + 0.1).all()


def test_control_untrained_latents_know_no_walls(final):
    assert (final["rho_untrained"] < final["rho_straight"] + 0.05).all()


def test_the_direction_of_the_goal_is_a_prompt(final):
    assert (final["reach_direct"] >= final["reach_random"] + 0.2).all()


def test_control_random_directions_reach_nothing(final):
    assert (final["reach_random"] <= 0.1).all()


def test_planning_reaches_more(final):
    assert (final["reach_plan"] >= final["reach_direct"] + 0.1).all()
