"""Learners as configs describe them."""

import pytest

from experiments import ppo
from jaxtrain.host.config import load


@pytest.mark.parametrize(
    ("method", "drift", "steps"), [("ppo", ("ppo", 0.3), 6), ("dpo", "dpo", 6), ("a2c", None, 1)]
)
def test_drift_and_optimiser_steps_are_those_of_the_method(monkeypatch, method, drift, steps):
    spec = "rollout.num_epochs=3,rollout.num_minibatches=2,loss.clip=0.3"
    config, _ = load(f"configs/ppo.py:debug,method={method},{spec}")
    learner = lambda env, network, optimizer, drift=None, **options: (optimizer, drift)
    for name in ("ppo", "a2c"):
        monkeypatch.setattr(ppo, name, learner)
    monkeypatch.setattr(ppo, "adam", lambda rate, *, steps_per_update, **rest: steps_per_update)
    monkeypatch.setattr(ppo.drift, "ppo", lambda clip: ("ppo", clip))
    monkeypatch.setattr(ppo.drift, "dpo", lambda: "dpo")
    assert ppo.build_core(config, None, None) == (steps, drift)
