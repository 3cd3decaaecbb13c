"""A walk on five places and linear agents, small enough for whole updates to compile quickly."""

import jax
import jax.numpy as jnp

from jaxrl.distributions import Categorical
from jaxrl.envs.environment import Discrete, Environment, Step
from jaxrl.networks import Network

FEATURES = 3


def _observe(place, time):
    return jnp.stack([1.0, 0.5 * place, 0.3 * time + 0.1 * place**2]).astype(jnp.float32)


def walk():
    """One place left or right; ends two places from the middle, is cut after three steps."""

    def reset(key, params):
        place, time = jax.random.randint(key, (), -1, 2), jnp.int32(0)
        return _observe(place, time), (place, time)

    def step(key, state, action, params):
        place, time = state[0] + 2 * action - 1, state[1] + 1
        reward = jnp.float32(2.0 * place + 0.5 * time - 0.3)
        terminated = jnp.abs(place) >= 2
        truncated = (time >= 3) & ~terminated
        return Step(_observe(place, time), (place, time), reward, terminated, truncated, {})

    return Environment(reset, step, Discrete(2), ())


def linear():
    """Logits and value are linear in the observation."""

    def init(key, observation):
        key_actor, key_critic = jax.random.split(key)
        return {
            "actor": jax.random.normal(key_actor, (2, FEATURES)),
            "critic": jax.random.normal(key_critic, (FEATURES,)),
        }

    policy = lambda params, observation: Categorical(params["actor"] @ observation)
    return Network(init, policy, lambda params, observation: params["critic"] @ observation)
