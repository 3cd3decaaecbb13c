"""Fitness of a drift against a loop of updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import actor_critic, drift, envs
from jaxrl.meta.learned_drift import fitness_of_drift
from jaxrl.networks import mlp
from jaxtrain.optimizers import adam

WORKERS, HORIZON = 2, 4


def build(the_drift):
    env = envs.cart_pole()
    return actor_critic.ppo(
        env,
        mlp(env.action, (4,)),
        adam(0.05, max_norm=0.5, eps=1e-5),
        num_workers=WORKERS,
        num_steps=16,
        num_minibatches=1,
        drift=the_drift,
        horizon=HORIZON,
    )


def test_fitness_is_the_return_at_the_end_of_a_training():
    weights = drift.random_weights(jax.random.key(0), 8, temporal=True)
    key_task, key_run = jax.random.split(jax.random.key(1))
    fitness = fitness_of_drift(build, num_workers=WORKERS, horizon=HORIZON, window=2)
    found = jax.jit(fitness)(weights, key_task, key_run)

    core = build(drift.learned(weights))
    state, update, returns = core.init(key_task), jax.jit(core.update), []
    for i in range(HORIZON):
        state, out = update(state, jnp.arange(WORKERS), jax.random.fold_in(key_run, i))
        returns.append(float(out.metrics["episode_return"]))
    np.testing.assert_allclose(found, np.mean(returns[-2:]), rtol=1e-5)
    assert found > 0


@pytest.mark.parametrize("name", ["num_workers", "horizon", "window"])
def test_trainings_without_anything_are_refused(name):
    sizes = {"num_workers": WORKERS, "horizon": HORIZON, "window": 2, name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0"):
        fitness_of_drift(build, **sizes)
