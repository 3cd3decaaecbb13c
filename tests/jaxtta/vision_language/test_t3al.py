"""T3AL: its parts beside loops, what a step does, and what is kept from video to video."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.core import episodic
from jaxtta.vision_language.t3al import (
    Towers,
    adam_of_towers,
    candidates,
    drawn_to,
    picked,
    regions,
    smoothed,
    t3al,
)

RNG = np.random.default_rng(0)
T, D, E, N, C = 24, 5, 4, 3, 2
TOWERS = Towers(*(jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((D, E), (N, E), ())))
NAMES = jnp.asarray(RNG.normal(size=(C, N)), jnp.float32)
SMALL = dict(picks=2, per_pick=3, jitter=1, width=3, gap=1)
KEY = jax.random.key(0)


def video(seed, length=T):
    frames = np.random.default_rng(seed).normal(size=(T, D)).astype(np.float32)
    return {"inputs": frames, "mask": np.arange(T) < length}


@functools.cache
def update_of(num_steps, alone):
    core = t3al(optax.adam(0.05), num_steps=num_steps, **SMALL)
    return jax.jit((episodic(core) if alone else core).update)


START = t3al(optax.adam(0.05), **SMALL).init(TOWERS, NAMES)


def test_the_average_repeats_both_ends():
    values, last, width = RNG.normal(size=12).astype(np.float32), 8, 4
    held = values[: last + 1]
    padded = np.concatenate([[held[0]] * width, held, [held[-1]] * (width + 3)])
    means = np.convolve(padded, np.ones(width) / width, "valid")
    begin = width - width // 2
    found = smoothed(jnp.asarray(values), jnp.array(last), width)
    np.testing.assert_allclose(found, means[begin : begin + 12], atol=1e-5)
    np.testing.assert_allclose(smoothed(jnp.ones(6), jnp.array(5), 3), 1, rtol=1e-6)


def test_picks_are_spread_over_the_chosen_frames_in_time():
    chosen = np.zeros(20, bool)
    chosen[[1, 4, 5, 9, 12, 13, 17]] = True
    # Every (7 - 1) // (3 - 1) = third: 0, 3, 6.
    assert picked(jnp.asarray(chosen), jnp.array(7), 3).tolist() == [1, 9, 17]
    assert picked(jnp.asarray(chosen), jnp.array(7), 4).tolist() == [1, 5, 12, 17]


def test_positives_are_of_the_highest_and_negatives_of_the_lowest_frames():
    similarity = jnp.asarray(RNG.permutation(30).astype(np.float32))
    find = functools.partial(candidates, similarity, jnp.array(20), KEY, picks=2, jitter=0)
    good, bad = find(per_pick=3)  # 6 of 20
    order = np.argsort(-np.asarray(similarity[:20]))
    top, bottom = sorted(order[:6]), sorted(order[-6:])
    assert good.tolist() == [top[0], top[5]] and bad.tolist() == [bottom[0], bottom[5]]
    good, _ = find(per_pick=13)  # 26 modulo 20 are 6 again
    assert good.tolist() == [top[0], top[5]]
    good, bad = find(per_pick=10)  # 20 modulo 20: all
    assert good.tolist() == bad.tolist() == [0, 19]
    moved = [
        candidates(similarity, jnp.array(20), k, picks=2, per_pick=3, jitter=2)[0]
        for k in jax.random.split(KEY, 40)
    ]
    by = np.stack(moved) - np.array([top[0], top[5]])
    assert by.min() >= -2 and by.max() == 1 and np.stack(moved).min() >= 0


def test_the_loss_of_a_pair_is_its_formula():
    a, b = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4))
    target = 0.8 * b / np.linalg.norm(b, axis=1, keepdims=True) + 0.2 / 4
    cosine = (a / np.linalg.norm(a, axis=1, keepdims=True) * target).sum(1)
    np.testing.assert_allclose(drawn_to(jnp.asarray(a), jnp.asarray(b)), 2 - 2 * cosine, rtol=1e-5)
    slope = jax.grad(lambda b: drawn_to(jnp.asarray(a), b).sum())(jnp.asarray(b))
    assert not slope.any()


@pytest.mark.parametrize(
    ("on", "gap", "found"),
    [
        ("0110011100", 2, "-0000000--"),
        ("0110011100", 1, "-00--111--"),
        ("1000000011", 2, "--------00"),
        ("1010000010", 1, "000-------"),
        ("0000000000", 2, "----------"),
    ],
)
def test_runs_are_joined_over_gaps_and_single_frames_dropped(on, gap, found):
    run = regions(jnp.array([x == "1" for x in on]), gap)
    assert run.tolist() == [-1 if x == "-" else int(x) for x in found]


def test_without_steps_scores_are_those_of_numpy():
    given = video(1, 20)
    _, out = update_of(0, True)(START, given, KEY)
    v = given["inputs"][:20] @ np.asarray(TOWERS.visual)
    names = np.asarray(NAMES @ TOWERS.text)
    names = names / np.linalg.norm(names, axis=1, keepdims=True)
    away = v.mean(0)
    label = (names @ away).argmax()
    centred = (v - away) / np.linalg.norm(v - away, axis=1, keepdims=True)
    raw = np.asarray(smoothed(jnp.asarray(centred @ names[label]), jnp.array(19), 3))
    score = (raw - raw.min()) / (raw.max() - raw.min())
    np.testing.assert_allclose(out.outputs.score[:20], score, atol=1e-4)
    assert (out.outputs.label == label).all() and (out.outputs.region[20:] == -1).all()
    run = np.asarray(regions(jnp.asarray(np.append(score > score.mean(), [False] * 4)), 1))
    np.testing.assert_array_equal(out.outputs.region, run)
    first = v[run[:20] == 0].mean(0)
    logits = np.exp(TOWERS.log_scale) * names @ (first / np.linalg.norm(first))
    sure = (np.exp(logits) / np.exp(logits).sum())[label]
    np.testing.assert_allclose(out.outputs.confidence[run == 0], sure, rtol=1e-3)


def test_steps_raise_what_is_above_the_mean_for_the_given_label():
    given = video(2) | {"label": np.full(T, 1)}
    before, after = (update_of(n, True)(START, given, KEY)[1] for n in (1, 20))
    assert after.metrics["loss"] < before.metrics["loss"]
    assert (after.outputs.label == 1).all() and after.metrics["label"] == 1


def test_a_video_alone_is_independent_of_the_others_bit_for_bit():
    update, state = update_of(3, True), START
    alone = update(START, video(5), KEY)[1]
    for seed in (3, 4):
        state, _ = update(state, video(seed), KEY)
    after = update(state, video(5), KEY)[1]
    jax.tree.map(np.testing.assert_array_equal, after, alone)
    leaking, leaked = update_of(3, False), START
    for seed in (3, 4):
        leaked, _ = leaking(leaked, video(seed), KEY)
    other = leaking(leaked, video(5), KEY)[1]
    assert (other.outputs.score != alone.outputs.score).any()


def test_what_leaks_is_the_state_one_step_before_the_end_and_all_moments():
    state, _ = update_of(3, False)(START, video(6), KEY)
    shorter, _ = update_of(4, False)(START, video(6), KEY)
    fewer, _ = update_of(2, False)(START, video(6), KEY)
    # Three steps leave the parameters of two, which are those that four steps have before the last.
    assert (state.params.visual != START.params.visual).any()
    assert (fewer.params.visual != state.params.visual).any()
    assert (shorter.params.visual != state.params.visual).any()
    assert [s.opt_state[0].count.item() for s in (fewer, state, shorter)] == [2, 3, 4]
    one, _ = update_of(1, False)(START, video(6), KEY)
    jax.tree.map(np.testing.assert_array_equal, one.params, START.params)


def test_frames_move_a_thousandth_as_fast():
    optimizer = adam_of_towers(0.1)
    grads = jax.tree.map(jnp.ones_like, TOWERS)
    updates, _ = optimizer.update(grads, optimizer.init(TOWERS), TOWERS)
    np.testing.assert_allclose(updates.text, -0.1, rtol=1e-3)
    np.testing.assert_allclose(updates.visual, -1e-4, rtol=1e-3)


def test_impossible_numbers_and_frames_are_named():
    with pytest.raises(ValueError, match="picks is 0"):
        t3al(optax.sgd(1.0), picks=0)
    with pytest.raises(ValueError, match="num_steps is -1"):
        t3al(optax.sgd(1.0), num_steps=-1)
    with pytest.raises(ValueError, match=r"frames \[T, 5\]"):
        t3al(optax.sgd(1.0)).update(START, {"inputs": jnp.zeros((4, 3))}, KEY)


def test_the_loss_of_a_step_is_that_of_numpy():
    given = video(2) | {"label": np.full(T, 1)}
    _, out = update_of(1, False)(START, given, KEY)
    one = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    v, t = given["inputs"] @ np.asarray(TOWERS.visual), one(np.asarray(NAMES @ TOWERS.text))[1]
    raw = jnp.asarray(np.exp(TOWERS.log_scale) * (v - v.mean(0)) @ t)
    chosen = smoothed(raw, jnp.array(T - 1), 3)
    options = dict(picks=2, per_pick=3, jitter=1)
    good, bad = candidates(chosen, jnp.array(T), jax.random.fold_in(KEY, 0), **options)
    near, far = one(v[np.asarray(good)]), one(v[np.asarray(bad)])
    alike, wanted = np.concatenate([near @ t, far @ t]), np.array([1.0, 1, 0, 0])
    first = 2 - 2 * (one(alike) * (0.8 * one(wanted) + 0.2 / 4)).sum()
    towards = (2 - 2 * (near * (0.8 * t + 0.2 / E)).sum(1)).mean()
    np.testing.assert_allclose(out.metrics["loss"], first + towards, rtol=1e-4)
