"""Agents with memory keep a cue and learn in context.

Those with neither memory nor the last action and reward do neither. Eight runs of three seeds;
about six minutes on one CPU core.
"""

import json

import numpy as np
import pytest

from experiments import ppo

pytestmark = [pytest.mark.behaviour, pytest.mark.slow]


@pytest.fixture(scope="module")
def final(tmp_path_factory):
    """`final(variant)` -> final numbers of three seeds, trained once."""
    known = {}

    def run(variant):
        if variant not in known:
            workdir = tmp_path_factory.mktemp(variant) / "run"
            spec = f"--config=configs/ppo.py:{variant}"
            ppo.main(argv=[spec, "--sweep=seed=0:3", f"--workdir={workdir}"])
            found = json.loads((workdir / "summary.json").read_text())["final"]
            known[variant] = {name: np.array(x["trials"]) for name, x in found.items()}
        return known[variant]

    return run


@pytest.mark.parametrize("variant", ["small_recall", "small_recall_transformer"])
def test_the_cue_is_remembered(final, variant):
    assert (final(variant)["return"] >= 0.9).all()


def test_control_without_memory_the_choice_is_a_guess(final):
    assert (final("small_recall_memoryless")["return"] <= 0.32).all()


def test_a_goal_that_was_found_is_found_again(final):
    found = final("small_goals")
    assert (found["return_last"] >= found["return_first"] + 0.15).all()
    assert (found["return_last"] >= 0.95).all()


def test_memory_adds_to_what_the_last_pull_tells(final):
    told = final("small_bandits_told")["return_last"]
    assert (final("small_bandits")["return_last"] >= told + 0.08).all()


def test_pulls_get_better(final):
    found = final("small_bandits")
    assert (found["return_last"] >= found["return_first"] + 0.1).all()


@pytest.mark.parametrize("task", ["bandits", "goals"])
def test_control_without_memory_episodes_are_alike(final, task):
    found = final(f"small_{task}_memoryless")
    assert (np.abs(found["return_last"] - found["return_first"]) <= 0.06).all()
