"""The command of soft actor-critic end to end, and its settings."""

import json
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import soft_actor_critic
from jaxtrain.host.config import load


class Agent(NamedTuple):
    params: Any


def test_several_seeds_are_trained_and_judged(tmp_path):
    argv = ["--config=configs/soft_actor_critic.py:debug", "--sweep=seed=0:2"]
    soft_actor_critic.main(argv=[*argv, f"--workdir={tmp_path}"])
    final = json.loads((tmp_path / "summary.json").read_text())["final"]
    assert len(final["return"]["trials"]) == 2 and np.ptp(final["return"]["trials"]) > 0
    assert (tmp_path / "plots" / "episode_return.png").stat().st_size > 1000


def test_schedules_count_updates_and_agents_are_judged_by_their_likeliest_actions(monkeypatch):
    config, _ = load("configs/soft_actor_critic.py:debug")
    learner = lambda env, network, optimizer, **options: (optimizer, options)
    monkeypatch.setattr(soft_actor_critic, "soft_actor_critic", learner)
    steps = lambda rate, *, steps_per_update: steps_per_update
    monkeypatch.setattr(soft_actor_critic, "adam", steps)
    optimizer, options = soft_actor_critic.build_core(config, None, None)
    assert optimizer == options["num_updates"] == 2 and options["num_workers"] == 4
    assert options["capacity"] == 10 and options["random_steps"] == 8 and options["tau"] == 0.005
    seen = {}
    monkeypatch.setattr(soft_actor_critic, "acting", lambda net, params, **how: seen.update(how))
    training = soft_actor_critic.build(config, SimpleNamespace(sweep=None))
    monkeypatch.setattr(soft_actor_critic, "episode", lambda *args: (jnp.float32(0.0), 0))
    training.watch(Agent(()), 0, jax.random.key(0))
    assert seen == {"greedy": True}
