"""Learners as configs describe them, and what their policies earn."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import ppo
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
