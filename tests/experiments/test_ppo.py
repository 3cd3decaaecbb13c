"""Learners as configs describe them, and what their policies earn."""

import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import ppo
from experiments.rl import environments
from jaxrl.distributions import Categorical
from jaxrl.envs import cart_pole
from jaxrl.rollout import episode
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


def test_the_mean_return_is_that_of_the_likeliest_actions():
    """Pushing left is hardly likelier than pushing right, and drops the pole within 11 steps."""
    env, options = cart_pole(), dict(num_episodes=16, max_steps=12)
    network = SimpleNamespace(policy=lambda params, observation: Categorical(params))
    state = SimpleNamespace(params=jnp.array([0.01, 0.0]), observation_moments=())
    measure = functools.partial(ppo.mean_return, env, network, state, **options)
    greedy, drawn = (jax.jit(functools.partial(measure, greedy=x)) for x in (True, False))
    left = lambda key, observation: (jnp.int32(0), ())
    key = jax.random.key(0)
    play = lambda k: episode(env, env.params, left, k, 12)[0]
    earned = jax.jit(jax.vmap(play))(jax.random.split(key, 16))
    assert len(np.unique(earned)) > 1
    np.testing.assert_allclose(greedy(key), earned.mean(), rtol=1e-6)
    assert drawn(key) != greedy(key)


@pytest.mark.parametrize("memory", ["gru", "lstm", "transformer"])
def test_memory_and_segments_are_those_of_the_config(monkeypatch, memory):
    spec = f"network.memory={memory},rollout.segment=2,network.transformer.num_heads=2"
    config, _ = load(f"configs/ppo.py:debug_memory,{spec}")
    env = environments.make(config.env)
    network = ppo.build_network(config, env)
    name = "block_0" if memory == "transformer" else ("hr" if memory == "gru" else "hf")
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(23))
    assert name in params["memory"]
    learner = lambda env, network, optimizer, *, segment, **options: segment
    monkeypatch.setattr(ppo, "memory_ppo", learner)
    assert ppo.build_core(config, env, network) == 2
    config.rollout.segment = 0
    assert ppo.build_core(config, env, network) is None


def test_an_agent_with_memory_is_evaluated_in_its_trials(tmp_path):
    argv = ["--config=configs/ppo.py:debug_memory", "--sweep=seed=0:2", f"--workdir={tmp_path}"]
    ppo.main(argv=argv)
    final = json.loads((tmp_path / "summary.json").read_text())["final"]
    first, last = (final[name]["trials"] for name in ("return_first", "return_last"))
    assert len(first) == len(last) == 2 and all(0 <= x <= 1 for x in first + last)
    assert (tmp_path / "plots" / "by_episode.png").stat().st_size > 1000
