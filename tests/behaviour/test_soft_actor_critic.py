"""Soft actor-critic swings a pendulum up; an agent that does not learn does not.

Three seeds; about a minute on one CPU core.
"""

import json

import numpy as np
import pytest

from experiments import soft_actor_critic

pytestmark = [pytest.mark.behaviour, pytest.mark.slow]


@pytest.fixture(scope="module")
def returns(tmp_path_factory):
    def run(variant):
        workdir = tmp_path_factory.mktemp(variant) / "run"
        spec = f"--config=configs/soft_actor_critic.py:{variant}"
        soft_actor_critic.main(argv=[spec, "--sweep=seed=0:3", f"--workdir={workdir}"])
        final = json.loads((workdir / "summary.json").read_text())["final"]
        return np.array(final["return"]["trials"])

    return run


def test_the_pendulum_is_swung_up_and_held(returns):
    assert (returns("small") > -250).all()


def test_control_a_frozen_agent_fails(returns):
    assert (returns("small_frozen") < -900).all()
