"""SLIM: a space that does not stretch, skills that last an episode, rewards by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl.control.slim import new_space, place_in, several, spectral_norm, with_skill
from jaxrl.envs import check_env
from jaxrl.envs.environment import step_and_reset
from jaxrl.envs.pusher import PusherParams, pusher
from jaxrl.rollout import Transition

RANDOM = np.random.default_rng(0)


def draw(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 8), (8, 8), (8, 2)])
def test_the_norm_of_a_layer_is_its_largest_singular_value(shape):
    weights = draw(*shape)
    expected = np.linalg.norm(weights, 2)
    np.testing.assert_allclose(spectral_norm(jnp.asarray(weights), 60), expected, rtol=1e-3)
    assert 0.9 * expected < spectral_norm(jnp.asarray(weights)) < 1.001 * expected


def test_places_are_not_further_apart_than_what_is_seen():
    space = jax.tree.map(lambda x: 3 * x + 1, new_space(jax.random.key(0), (3, 16, 2)))
    a, b = draw(200, 3), draw(200, 3)
    places = jax.vmap(lambda x: place_in(space, x))
    apart = np.linalg.norm(places(a) - places(b), axis=1) / np.linalg.norm(a - b, axis=1)
    assert 0.1 < apart.max() < 1.05


def test_a_skill_lasts_for_an_episode():
    env = with_skill(pusher(PusherParams(3)), 2)
    check_env(env)
    observation, state = env.reset(jax.random.key(0), env.params)
    skills = [observation[-2:]]
    for number in range(4):
        keys = jax.random.split(jax.random.key(number))
        step = step_and_reset(env, *keys, state, jnp.zeros(2), env.params)
        state = step.state
        skills.append(step.observation[-2:])
        np.testing.assert_array_equal(step.info["final_observation"][-2:], skills[-2])
    np.testing.assert_allclose(np.linalg.norm(skills, axis=1), 1, rtol=1e-5)
    same = [bool((a == b).all()) for a, b in zip(skills[:-1], skills[1:], strict=True)]
    assert same == [True, True, False, True]


def steps_of(moved):
    """Steps `[3, 4]` of an object that has moved, with a skill behind what is seen."""
    before, skill = draw(3, 4, 2), draw(3, 4, 2)
    seen = lambda place: jnp.concatenate([place, skill], -1)
    none = np.zeros((3, 4))
    return Transition(
        seen(before), draw(3, 4, 1), (), none, none, none, seen(before + moved), none, none
    )


def test_rewards_are_those_of_each_place_and_their_sum_is_for_one_critic():
    steps = steps_of(draw(3, 4, 2))
    others = lambda steps: jnp.stack([steps.action[..., 0], jnp.ones((3, 4))], -1)
    options = dict(sizes=(2, 5, 2), scales=(2.0, 10.0, 0.5))
    make = lambda **more: several(lambda o: o[..., :2], others, optax.sgd(0.1), **options, **more)
    kept = make().init(jax.random.key(1))
    found, after, told = jax.jit(make().apply)(kept, steps, jax.random.key(0))
    place = jax.jit(jax.vmap(jax.vmap(lambda seen: place_in(kept[0], seen[:2]))))
    way = np.asarray(place(steps.next_observation) - place(steps.observation))
    earned = np.einsum("wtk,wtk->wt", way, steps.observation[..., 2:])
    expected = np.stack([2 * earned, 10 * steps.action[..., 0], np.full((3, 4), 0.5)], -1)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(told["skill_reward"], earned.mean(), rtol=1e-3, atol=1e-6)
    summed, _, _ = jax.jit(make(summed=True).apply)(kept, steps, jax.random.key(0))
    np.testing.assert_allclose(summed, expected.sum(-1), rtol=1e-3, atol=1e-5)
    assert jax.tree.structure(after) == jax.tree.structure(kept)


def test_the_space_learns_to_tell_the_ways_of_skills_apart():
    steps = steps_of(draw(3, 4, 2))
    aligned = steps._replace(
        next_observation=steps.observation.at[..., :2].add(0.3 * steps.observation[..., 2:])
    )
    none = lambda steps: jnp.zeros((3, 4, 1))
    rewards = several(
        lambda o: o[..., :2], none, optax.adam(3e-2), sizes=(2, 8, 2), scales=(1.0, 1.0)
    )
    kept, apply = rewards.init(jax.random.key(0)), jax.jit(rewards.apply)
    told = []
    for _ in range(30):
        _, kept, said = apply(kept, aligned, jax.random.key(0))
        told.append(float(said["skill_reward"]))
    assert told[-1] > told[0] + 0.05
