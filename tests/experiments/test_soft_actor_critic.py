"""The command of soft actor-critic end to end, and its settings."""

import json
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import soft_actor_critic
from jaxrl.control.srl import SequenceNetwork
from jaxrl.envs import pendulum
from jaxrl.memory import Decided
from jaxtrain.host.config import load


class Agent(NamedTuple):
    params: Any


@pytest.mark.parametrize("variant", ["debug", pytest.param("debug_srl", marks=pytest.mark.ci)])
def test_several_seeds_are_trained_and_judged(variant, tmp_path):
    argv = [f"--config=configs/soft_actor_critic.py:{variant}", "--sweep=seed=0:2"]
    soft_actor_critic.main(argv=[*argv, f"--workdir={tmp_path}"])
    final = json.loads((tmp_path / "summary.json").read_text())["final"]
    assert len(final["return"]["trials"]) == 2 and np.ptp(final["return"]["trials"]) > 0
    np.testing.assert_allclose(final["return_held_1"]["trials"], final["return"]["trials"], 1e-5)
    assert final["return_held_2"]["trials"] != final["return_held_1"]["trials"]
    assert len(final["fas"]["trials"]) == 2
    for name in ("episode_return", "held"):
        assert (tmp_path / "plots" / f"{name}.png").stat().st_size > 1000


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


def test_srl_gets_its_length_and_its_model(monkeypatch):
    config, _ = load("configs/soft_actor_critic.py:debug_srl")
    env = pendulum()
    network = soft_actor_critic.build_network(config, env)
    assert isinstance(network, SequenceNetwork) and network.start.shape == (8,)
    observation, action = jnp.array([1.0, 2.0, 3.0]), jnp.zeros(1)
    _, _, model = network.init(jax.random.key(0), observation)
    assert (network.model(model, observation, action) != observation).any()
    config, _ = load("configs/soft_actor_critic.py:debug_srl,sequence.model=identity")
    control = soft_actor_critic.build_network(config, env)
    np.testing.assert_array_equal(control.model(model, observation, action), observation)
    monkeypatch.setattr(soft_actor_critic, "srl", lambda *args, **options: options)
    assert soft_actor_critic.build_core(config, env, network)["length"] == 2


@pytest.mark.parametrize("variant", ["debug", "debug_srl"])
def test_an_agent_decides_every_few_steps(variant):
    config, _ = load(f"configs/soft_actor_critic.py:{variant}")
    env = pendulum()
    network = soft_actor_critic.build_network(config, env)
    params = SimpleNamespace(actor=network.init(jax.random.key(0), jnp.ones(3))[0])
    seen, act = soft_actor_critic.playing(env, network, params, 3)
    start, _ = seen.reset(jax.random.key(0), env.params)
    decided, _ = act(jax.random.key(1), start)
    assert isinstance(decided, Decided) and decided.memory.place == 1
    np.testing.assert_array_equal(decided.action, act(jax.random.key(2), start)[0].action)
    # What is seen between two decisions counts for nothing.
    later = [start._replace(memory=decided.memory, observation=x) for x in jnp.eye(3)[:2]]
    first, second = (act(jax.random.key(1), x)[0].action for x in later)
    np.testing.assert_array_equal(first, second)
