"""The cue is seen once, and asked for once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.envs import check_env, recall
from jaxrl.rollout import new_worker, rollout


@pytest.mark.parametrize("right", [True, False])
def test_the_choice_is_right_when_it_is_the_cue(right):
    env = recall(3, delay=2)
    check_env(env)
    observation, state = env.reset(jax.random.key(1), env.params)
    cue, action = int(state.cue), (int(state.cue) + (not right)) % 3
    np.testing.assert_array_equal(observation, [*np.eye(3)[cue], 0])
    for time in range(4):
        step = env.step(jax.random.key(0), state, jnp.int32(action), env.params)
        assert step.reward == (right and time == 3)
        assert bool(step.terminated) == (time == 3) and not step.truncated
        np.testing.assert_array_equal(step.observation, [0, 0, 0, time == 2])
        state = step.state


def test_every_cue_is_asked_for():
    env = recall(3, delay=0)
    worker = new_worker(env, env.params, jax.random.key(0))
    act = lambda key, observation: (jnp.int32(0), ())
    _, steps = rollout(env, env.params, act, jax.random.key(1), worker, 60)
    shown = np.asarray(steps.observation)[::2, :3].argmax(1)
    assert set(shown) == {0, 1, 2} and (steps.done == (np.arange(60) % 2 == 1)).all()
    np.testing.assert_array_equal(steps.reward[1::2], shown == 0)


def test_one_cue_is_refused():
    with pytest.raises(ValueError, match="give at least 2"):
        recall(1)
    with pytest.raises(ValueError, match="delay is -1"):
        recall(3, delay=-1)
