"""RLCF and TPT: rewards, steps beside finite differences, and what is kept from image to image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.core import episodic
from jaxtta.vision_language.rlcf import remembering, rewards, rlcf, tpt

RNG = np.random.default_rng(0)
V, C, SHAPE = 4, 5, (2, 2, 1)
PARAMS = RNG.normal(size=(4, C)).astype(np.float32)
KNOWN = {"scale": np.float32(3.0), "texts": RNG.normal(size=(4, C)).astype(np.float32)}
KEY = jax.random.key(0)
RATE = 0.5


def policy(params, known, images):
    return known["scale"] * images.reshape(len(images), -1) @ params


def reward(known, images):
    return jnp.tanh(images.reshape(len(images), -1) @ known["texts"])


def views(seed):
    return {"inputs": np.random.default_rng(seed).normal(size=(V, *SHAPE)).astype(np.float32)}


OPTIONS = dict(share=0.5, num_candidates=3, num_steps=2)


@functools.cache
def update_of(kind="rlcf", alone=True, **changes):
    options = OPTIONS | changes
    if kind == "tpt":
        core = tpt(policy, optax.sgd(RATE), share=0.5, num_steps=options["num_steps"])
    else:
        core = rlcf(policy, reward, optax.sgd(RATE), **options)
    return jax.jit((episodic(core) if alone else core).update)


START = rlcf(policy, reward, optax.sgd(RATE)).init(PARAMS, KNOWN)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def logits_of(params, x):
    return KNOWN["scale"] * x.reshape(len(x), -1) @ params


def kept_views(x, number):
    log_p = log_softmax(logits_of(PARAMS, x))
    order = np.argsort(-(np.exp(log_p) * log_p).sum(-1), kind="stable")
    return order[:number]


def descended(loss_at, x, steps):
    """Parameters after steps along central differences; `loss_at(params)` fixes its candidates."""
    params = PARAMS.astype(np.float64)
    for _ in range(steps):
        loss, slope = loss_at(params), np.zeros_like(params)
        for place in np.ndindex(params.shape):
            ends = []
            for sign in (1, -1):
                moved = params.copy()
                moved[place] += sign * 1e-6
                ends.append(loss(moved))
            slope[place] = (ends[0] - ends[1]) / 2e-6
        params = params - RATE * slope
    return params


def test_rewards_of_a_view_sum_to_zero():
    cosines = np.array([[0.2, 0.5, -0.3], [0.9, 0.1, 0.4]])
    found = rewards(jnp.asarray(cosines))
    clipped = 2.5 * np.array([[0.2, 0.5, 0.0], [0.9, 0.1, 0.4]])
    np.testing.assert_allclose(found, clipped - clipped.mean(1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(found.sum(1), 0, atol=1e-6)
    amplified = rewards(jnp.asarray(cosines), amplified=True)
    np.testing.assert_allclose(amplified.sum(1), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(amplified, axis=1, ddof=1), 1, rtol=1e-3)


@pytest.mark.parametrize("steps", [1, 2])
def test_steps_descend_reward_times_cross_entropy_on_views_chosen_once(steps):
    given = views(1)
    chosen = given["inputs"][kept_views(given["inputs"], 2)]
    cosines = np.tanh(chosen.reshape(2, -1) @ KNOWN["texts"])

    def loss_at(params):
        best = np.argsort(-logits_of(params, chosen), axis=1)[:, :3]
        score = 2.5 * np.maximum(np.take_along_axis(cosines, best, 1), 0)
        score = score - score.mean(1, keepdims=True)

        def loss(params):
            log_p = log_softmax(logits_of(params, chosen))
            return -(score * np.take_along_axis(log_p, best, 1)).mean()

        return loss

    state, out = update_of(alone=False, num_steps=steps)(START, given, KEY)
    expected = descended(loss_at, chosen, steps)
    np.testing.assert_allclose(state.params, expected, atol=1e-4)
    logits = logits_of(expected, given["inputs"][:1])
    np.testing.assert_allclose(out.outputs.logits, np.repeat(logits, V, 0), rtol=1e-3, atol=1e-3)
    assert set(np.flatnonzero(out.outputs.selected)) == {*kept_views(given["inputs"], 2).tolist()}


def test_tpt_descends_the_entropy_of_the_mean_prediction():
    given = views(2)
    chosen = given["inputs"][kept_views(given["inputs"], 2)]

    def loss(params):
        p = np.exp(log_softmax(logits_of(params, chosen))).mean(0)
        return -(p * np.log(p)).sum()

    state, out = update_of("tpt", alone=False, num_steps=1)(START, given, KEY)
    np.testing.assert_allclose(state.params, descended(lambda _: loss, chosen, 1), atol=1e-4)
    np.testing.assert_allclose(out.metrics["loss"], loss(PARAMS), rtol=1e-4)


def test_equal_rewards_and_no_steps_leave_the_policy():
    plain = np.asarray(logits_of(PARAMS, views(3)["inputs"][:1]))
    for change in (dict(num_steps=0), dict(weight=0.0)):
        out = update_of(**change)(START, views(3), KEY)[1]
        np.testing.assert_allclose(out.outputs.logits[:1], plain, rtol=1e-5)


def test_an_image_is_independent_of_the_others_bit_for_bit():
    update, state = update_of(), START
    alone = update(START, views(5), KEY)[1]
    for seed in (3, 4):
        state, _ = update(state, views(seed), KEY)
    jax.tree.map(np.testing.assert_array_equal, update(state, views(5), KEY)[1], alone)
    leaked = START
    for seed in (3, 4):
        leaked, _ = update_of(alone=False)(leaked, views(seed), KEY)
    assert (update_of()(leaked, views(5), KEY)[1].outputs.logits != alone.outputs.logits).any()


def test_later_images_begin_at_the_average_of_what_earlier_ones_led_to():
    core = rlcf(policy, reward, optax.sgd(RATE), **OPTIONS)
    each = jax.jit(remembering(core, decay=0.9, every=2, weight=0.75).update)
    state = remembering(core).init(PARAMS, KNOWN)
    leads_to = lambda start, i: update_of(alone=False)(start, views(i), KEY)[0].params
    first, second = leads_to(START, 1), leads_to(START, 2)
    state, _ = each(state, views(1), KEY)
    np.testing.assert_array_equal(state.state.params, PARAMS)
    state, _ = each(state, views(2), KEY)
    average = 0.9 * (0.9 * PARAMS + 0.1 * first) + 0.1 * second
    np.testing.assert_allclose(state.average, average, rtol=1e-5)
    np.testing.assert_allclose(state.state.params, 0.25 * PARAMS + 0.75 * average, rtol=1e-5)
    assert state.num_images == 0
    third = leads_to(state.state, 3)
    state, _ = each(state, views(3), KEY)
    np.testing.assert_allclose(state.average, 0.9 * average + 0.1 * third, rtol=1e-4, atol=1e-6)


def test_a_step_that_is_not_finite_is_not_made():
    wild = {**KNOWN, "texts": np.full((4, C), np.nan, np.float32)}
    state, out = update_of(alone=False)(
        START._replace(known=type(START.known)(wild)), views(1), KEY
    )
    np.testing.assert_array_equal(state.params, PARAMS)
    assert np.isfinite(out.outputs.logits).all()


def test_impossible_numbers_and_batches_are_named():
    make = functools.partial(rlcf, policy, reward, optax.sgd(1.0))
    with pytest.raises(ValueError, match="share is 0"):
        make(share=0.0)
    with pytest.raises(ValueError, match="num_candidates is 1"):
        make(num_candidates=1)
    with pytest.raises(ValueError, match="there are 5 classes"):
        make(num_candidates=6).update(START, views(0), KEY)
    with pytest.raises(ValueError, match="leave out the mask"):
        make().update(START, {**views(0), "mask": np.ones(V, bool)}, KEY)
    with pytest.raises(ValueError, match="every is 0"):
        remembering(make(), every=0)
