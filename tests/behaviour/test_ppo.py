"""PPO and DPO solve CartPole; an agent that does not learn does not.

Three runs of eight seeds; about eight minutes on one CPU core.
"""

import json

import numpy as np
import pytest

from experiments import ppo

pytestmark = [pytest.mark.behaviour, pytest.mark.slow]


@pytest.fixture(scope="module")
def returns(tmp_path_factory):
    """`returns(variant)` -> mean evaluation return of each of eight seeds."""

    def run(variant):
        workdir = tmp_path_factory.mktemp(variant) / "run"
        ppo.main(
            argv=[f"--config=configs/ppo.py:{variant}", "--sweep=seed=0:8", f"--workdir={workdir}"]
        )
        final = json.loads((workdir / "summary.json").read_text())["final"]
        return np.array(final["return"]["trials"])

    return run


@pytest.mark.parametrize("variant", ["small", "small_dpo"])
def test_cart_pole_is_solved(returns, variant):
    assert (returns(variant) >= 475).sum() >= 7


def test_control_a_frozen_agent_fails(returns):
    assert (returns("small_frozen,num_steps=48,checkpoint.every=48") < 100).all()
