"""OVOR: outliers beside a loop, both phases beside finite differences, and what stays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta.ovor import (
    Head,
    energy_loss,
    logits_of,
    neighbour_distance,
    new_head,
    ovor,
    prompt_phase,
    quarter_cosine,
    virtual_outliers,
)

RNG = np.random.default_rng(0)
F, C, PER_TASK, TASK = 3, 6, 2, 1
FEATURES = RNG.normal(size=(14, F)).astype(np.float32) + 2
KEY = jax.random.key(0)
HEAD = Head(RNG.normal(size=(F, C)).astype(np.float32), RNG.normal(size=C).astype(np.float32))
PROMPT = RNG.normal(size=F).astype(np.float32)
WEIGHTS = {"w": RNG.normal(size=(4, F)).astype(np.float32)}
SIZES = dict(num_boundary=3, num_neighbors=4, num_offsets=5)


def network(weights, prompts, inputs, task):
    return jnp.tanh(inputs @ weights["w"] + prompts[None]), 0.1 * prompts[0] * jnp.ones(len(inputs))


OPTIMIZER = optax.sgd(0.5, momentum=0.9)
FIRST = prompt_phase(network, OPTIMIZER, classes_per_task=PER_TASK)
SECOND = ovor(OPTIMIZER, classes_per_task=PER_TASK, weight=0.7, low=-2.0, high=-1.0)
START = FIRST.init(WEIGHTS, PROMPT, HEAD, TASK)
IMAGES = {
    "inputs": RNG.normal(size=(5, 4)).astype(np.float32),
    "labels": np.array([2, 3, 3, 2, 3]),
}
OUTSIDE = {
    "features": FEATURES[:5],
    "labels": IMAGES["labels"],
    "outliers": RNG.normal(size=(4, F)).astype(np.float32),
}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def kth(queries, k):
    away = ((queries[:, None] - unit(FEATURES)[None]) ** 2).sum(-1)
    return np.sort(away, axis=1)[:, k - 1]


def test_a_point_is_the_first_neighbour_of_itself():
    points = jnp.asarray(unit(FEATURES))
    for k in (1, 4):
        np.testing.assert_allclose(neighbour_distance(points, points, k), kth(points, k), atol=1e-5)


def test_outliers_are_those_of_a_loop():
    found = virtual_outliers(KEY, jnp.asarray(FEATURES), 6, scale=0.3, **SIZES)
    edge = FEATURES[np.argsort(-kth(unit(FEATURES), 4))[:3]]
    noise = np.asarray(jax.random.normal(KEY, (3, 5, F)))
    candidates = np.stack([e + 0.3 * n for e, each in zip(edge, noise, strict=True) for n in each])
    best = np.argsort(-kth(unit(candidates), 4))[:6]
    np.testing.assert_allclose(found, candidates[best], rtol=1e-5)


def test_outliers_are_distinct_and_those_of_the_release_are_not():
    draw = functools.partial(virtual_outliers, KEY, jnp.asarray(FEATURES), 9, **SIZES)
    distinct = lambda x: len(np.unique(np.asarray(x), axis=0))
    outliers = np.asarray(draw(scale=0.3))
    assert distinct(outliers) == 9
    assert np.abs(outliers[:, None] - FEATURES[None]).sum(-1).min() > 0.01
    released = np.asarray(draw(scale=0.3, around_origin=True))
    assert distinct(released) == 3  # each of the best three for each of three boundary points
    noise = 0.3 * np.asarray(jax.random.normal(KEY, (5, F)))
    best = noise[np.argsort(-kth(noise, 4))[:3]]  # at their own lengths
    assert {*map(tuple, released.round(5))} == {*map(tuple, best.round(5))}
    on_data = np.asarray(draw(scale=0.0))
    assert distinct(on_data) <= 3
    assert np.abs(on_data[:, None] - FEATURES[None]).sum(-1).min(1).max() == 0


def test_few_features_are_all_neighbours():
    found = virtual_outliers(KEY, jnp.asarray(FEATURES), 5)
    assert found.shape == (5, F) and np.isfinite(found).all()
    with pytest.raises(ValueError, match="number is 16"):
        virtual_outliers(KEY, jnp.asarray(FEATURES), 16, **SIZES)


def test_the_loss_of_energies_is_its_formula():
    inside, outside = np.array([-20.0, -14.5, -10.0]), np.array([-1.0, -3.5, -9.0, -3.0])
    # Huber: half the square up to 1, then linear. Above -15: 0, 0.5, 5; below -3: 0, 0.5, 6, 0.
    expected = (0 + 0.125 + 4.5) / 3 + (0 + 0.125 + 5.5 + 0) / 4
    found = energy_loss(jnp.asarray(inside), jnp.asarray(outside), -15.0, -3.0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_logits_are_those_of_the_task_or_of_all_seen():
    logits = FEATURES @ HEAD.kernel + HEAD.bias
    own = logits_of(HEAD, jnp.asarray(FEATURES), TASK, PER_TASK)
    np.testing.assert_allclose(own[:, 2:4], logits[:, 2:4], rtol=1e-5)
    assert np.isneginf(own[:, [0, 1, 4, 5]]).all()
    seen = logits_of(HEAD, jnp.asarray(FEATURES), TASK, PER_TASK, seen=True)
    np.testing.assert_allclose(seen[:, :4], logits[:, :4], rtol=1e-5)
    assert np.isneginf(seen[:, 4:]).all()


def of_logits(logits, labels):
    own = logits[:, 2:4]
    sums = np.log(np.exp(own).sum(1))
    return (sums - own[np.arange(len(own)), labels - 2]).mean(), -sums


def huber(x):
    return np.where(x <= 1, x**2 / 2, x - 0.5).mean()


def first_loss(prompt, kernel, bias):
    features = np.tanh(IMAGES["inputs"] @ WEIGHTS["w"] + prompt)
    return of_logits(features @ kernel + bias, IMAGES["labels"])[0] + 0.1 * prompt[0]


def second_loss(prompt, kernel, bias):
    value, inside = of_logits(OUTSIDE["features"] @ kernel + bias, OUTSIDE["labels"])
    _, outside = of_logits(OUTSIDE["outliers"] @ kernel + bias, np.full(4, 2))
    above, below = np.maximum(inside + 2, 0), np.maximum(-1 - outside, 0)
    return value + 0.7 * (huber(above) + huber(below))


def slopes(loss, parts):
    found = []
    for i, part in enumerate(parts):
        slope = np.zeros(part.shape)
        for place in np.ndindex(part.shape):
            ends = []
            for sign in (1, -1):
                moved = [x.astype(np.float64) for x in parts]
                moved[i][place] += sign * 1e-5
                ends.append(loss(*moved))
            slope[place] = (ends[0] - ends[1]) / 2e-5
        found.append(slope)
    return found


@pytest.mark.parametrize(
    ("core", "batch", "loss", "moves"),
    [(FIRST, IMAGES, first_loss, True), (SECOND, OUTSIDE, second_loss, False)],
)
def test_a_step_descends_the_loss(core, batch, loss, moves):
    state, out = jax.jit(core.update)(START, batch, KEY)
    parts = (PROMPT, HEAD.kernel, HEAD.bias)
    np.testing.assert_allclose(out.metrics["loss"], loss(*parts), rtol=1e-5)
    after = (state.params.prompts, *state.params.head)
    for i, (new, old, slope) in enumerate(zip(after, parts, slopes(loss, parts), strict=True)):
        if i or moves:
            np.testing.assert_allclose(new, old - 0.5 * slope, atol=1e-4)
        else:
            np.testing.assert_array_equal(new, old)
    # The parts of other tasks stay, bit for bit.
    others = [0, 1, 4, 5]
    np.testing.assert_array_equal(state.params.head.kernel[:, others], HEAD.kernel[:, others])
    np.testing.assert_array_equal(state.params.head.bias[jnp.array(others)], HEAD.bias[others])


def test_later_prompts_do_not_depend_on_the_second_phase():
    first, second = jax.jit(FIRST.update), jax.jit(SECOND.update)
    plain, _ = first(
        FIRST.init(WEIGHTS, PROMPT, HEAD, 0), {**IMAGES, "labels": np.zeros(5, int)}, KEY
    )
    other, _ = second(plain, {**OUTSIDE, "labels": np.zeros(5, int)}, KEY)
    assert (other.params.head.kernel != plain.params.head.kernel).any()
    assert plain.opt_state.prompts[0].trace.any()  # with which prompts would move
    jax.tree.map(np.testing.assert_array_equal, other.params.prompts, plain.params.prompts)
    ends = [first(FIRST.init(WEIGHTS, *x.params, 1), IMAGES, KEY)[0] for x in (plain, other)]
    np.testing.assert_array_equal(*(end.params.prompts for end in ends))
    np.testing.assert_array_equal(*(end.params.head.kernel[:, 2:] for end in ends))
    assert (ends[0].params.head.kernel != ends[1].params.head.kernel).any()


def test_rates_fall_by_epoch_over_a_quarter_of_a_cosine():
    rates = quarter_cosine(2.0, 5, 3)
    expected = [2 * np.cos(99 * np.pi * e / (200 * 4)) for e in (0, 0, 0, 1, 1, 1, 4, 4)]
    steps = (0, 1, 2, 3, 4, 5, 12, 99)
    np.testing.assert_allclose([rates(step) for step in steps], expected, rtol=1e-5)


def test_a_new_head_reaches_as_far_as_that_of_pytorch():
    head = new_head(KEY, 100, 50)
    assert head.kernel.shape == (100, 50) and head.bias.shape == (50,)
    for part in head:
        assert 0.09 < np.abs(part).max() <= 0.1 and abs(float(part.mean())) < 0.03


def test_impossible_numbers_and_batches_are_named():
    with pytest.raises(ValueError, match="classes_per_task is 0"):
        ovor(OPTIMIZER, classes_per_task=0)
    with pytest.raises(ValueError, match="takes a dict of inputs, labels, but got"):
        FIRST.update(START, OUTSIDE, KEY)
    with pytest.raises(ValueError, match="takes a dict of features, labels, outliers"):
        SECOND.update(START, IMAGES, KEY)
