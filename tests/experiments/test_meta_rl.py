"""Where meta-training begins."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from experiments import meta_rl
from jaxtrain.host.config import load


def test_evolution_of_a_rule_starts_from_zero(monkeypatch):
    config, _ = load("configs/meta_rl.py:debug")
    monkeypatch.setattr(meta_rl, "build_setting", lambda *given: None)
    monkeypatch.setattr(meta_rl, "fitness_of_lives", lambda *given, **options: None)
    monkeypatch.setattr(meta_rl, "build_strategy", lambda *given: lambda start, fitness: start)
    rule = SimpleNamespace(init=lambda key: {"weights": jnp.ones((2, 3))})
    start = meta_rl.rule_core(config, SimpleNamespace(max_steps=(1, 2)), rule)
    np.testing.assert_array_equal(start(jax.random.key(0))["weights"], np.zeros((2, 3)))
