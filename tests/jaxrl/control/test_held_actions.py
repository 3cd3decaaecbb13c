"""Actions that are held, and the score of it, against loops and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.control.held_actions import LENGTHS, frequency_averaged_score, holding, nothing_held
from jaxrl.envs import Box, Environment, Step
from jaxrl.memory import remembering
from jaxrl.rollout import new_worker, rollout

BOX = Box((1,), -10.0, 10.0)


def clock():
    """Observes the step since the start, from 1; an episode has five steps."""

    def step(key, time, action, params):
        ends = time >= 5
        return Step(time[None] + 1.0, time + 1, action[0], jnp.zeros_like(ends), ends, {})

    return Environment(lambda key, params: (jnp.ones(1), jnp.int32(1)), step, BOX, ())


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, [1, 2, 3, 4, 5, 1, 2, 3]), (2, [1, 1, 3, 3, 5, 1, 1, 3]), (9, [1] * 8)],
)
def test_an_action_is_repeated_until_the_next_decision(length, expected):
    env = remembering(clock(), nothing_held(BOX))
    act = holding(lambda key, observation: (observation, "said"), length)
    extras = act(jax.random.key(0), env.reset(jax.random.key(0), ())[0])[1]
    assert extras == "said"
    bare = holding(lambda key, observation: (observation, ()), length)
    worker = new_worker(env, (), jax.random.key(0))
    steps = rollout(env, (), bare, jax.random.key(1), worker, 8)[1]
    np.testing.assert_array_equal(steps.reward, expected)


def test_the_score_is_the_area_under_the_returns():
    returns = np.random.default_rng(0).normal(-300, 200, (2, len(LENGTHS))).astype(np.float32)
    found = frequency_averaged_score(jnp.asarray(returns), LENGTHS, offset=1550, max_return=1350)
    for row, score in zip(returns.astype(np.float64) + 1550, found, strict=True):
        area = sum(
            (row[i] + row[i + 1]) / 2 * (LENGTHS[i + 1] - LENGTHS[i]) for i in range(len(row) - 1)
        )
        np.testing.assert_allclose(score, area / (30 * 1350), rtol=1e-5)
    most = frequency_averaged_score(jnp.full(16, -200.0), LENGTHS, offset=1550, max_return=1350)
    np.testing.assert_allclose(most, 29 / 30, rtol=1e-6)
    assert LENGTHS[:3] == (1, 2, 4) and LENGTHS[-1] == 30 and len(LENGTHS) == 16
