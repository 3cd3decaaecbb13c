"""Soft actor-critic swings a pendulum up, an agent that does not learn does not; sequences of SRL
survive seldom decisions.

Three seeds; five minutes on one CPU core.
"""

import json

import numpy as np
import pytest

from experiments import soft_actor_critic

pytestmark = [pytest.mark.behaviour, pytest.mark.slow]


@pytest.fixture(scope="module")
def final(tmp_path_factory):
    """`final(variant)` -> numbers by name, `[3 seeds]`."""
    done = {}

    def run(variant):
        if variant not in done:
            workdir = tmp_path_factory.mktemp(variant) / "run"
            spec = f"--config=configs/soft_actor_critic.py:{variant}"
            soft_actor_critic.main(argv=[spec, "--sweep=seed=0:3", f"--workdir={workdir}"])
            found = json.loads((workdir / "summary.json").read_text())["final"]
            done[variant] = {name: np.array(x["trials"]) for name, x in found.items()}
        return done[variant]

    return run


def test_the_pendulum_is_swung_up_and_held(final):
    assert (final("small")["return"] > -250).all()


def test_control_a_frozen_agent_fails(final):
    assert (final("small_frozen")["return"] < -900).all()


def test_sequences_survive_seldom_decisions(final):
    srl, sac = final("small_srl"), final("small")
    assert (srl["return"] > -250).all()
    assert (srl["fas"] > sac["fas"] + 0.1).all()
    assert (srl["return_held_8"] > sac["return_held_8"] + 200).all()


def test_control_a_model_in_which_nothing_changes_fails(final):
    assert (final("small_srl_identity")["fas"] < final("small_srl")["fas"] - 0.1).all()
