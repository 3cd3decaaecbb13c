"""Sparsey beside a loop in NumPy, and what sequences, freezing and bands do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.sparsey import (
    Codes,
    Memory,
    Rule,
    Sizes,
    evidence,
    expected,
    familiarity,
    label_of,
    overlap_correlation,
    present,
    recognise,
    similarity,
    sparsey,
)

FIELDS = np.array([[0, 1, 2, 3, 4], [3, 4, 5, 6, -1]])
SIZES = Sizes(3, 4, FIELDS, num_labels=3)
RULE = Rule(chi=30.0, threshold=0.1, gamma=2.0, slope=6.0)
KEY = jax.random.key(0)


def items(number=6, seed=0, share=0.5):
    rng = np.random.default_rng(seed)
    return {
        "inputs": (rng.random((number, 7)) < share).astype(np.float32),
        "labels": rng.integers(0, 3, number),
    }


def written(sizes, rule, batch, key=KEY):
    core = sparsey(sizes, rule=rule)
    memory, out = jax.jit(core.update)(core.init(key), batch, key)
    return memory, out


def evidence_by_loop(up, x):
    value = np.zeros(up.shape[:1] + up.shape[2:])
    for m, q, k in np.ndindex(value.shape):
        seen = [(x[f], up[m, i, q, k]) for i, f in enumerate(FIELDS[m]) if f >= 0]
        active = sum(a for a, _ in seen)
        value[m, q, k] = min(1, sum(a * w for a, w in seen) / max(active, 1))
    return value


def chances_by_loop(value, rule):
    found = np.zeros(value.shape)
    for m in range(len(value)):
        known = np.mean([max(module) for module in value[m]])
        eta = 1 + max(0, (known - rule.threshold) / (1 - rule.threshold)) ** rule.gamma * rule.chi
        for q in range(value.shape[1]):
            mu = [max(eta / (1 + np.exp(-rule.slope * (v - rule.centre))), 1) for v in value[m, q]]
            found[m, q] = np.array(mu) / sum(mu)
    return found


def test_evidence_and_chances_are_those_of_the_loop():
    memory, _ = written(SIZES, RULE, items())
    for x in items(4, seed=1)["inputs"]:
        value, _, _ = evidence(memory, SIZES, RULE, jnp.asarray(x))
        by_loop = evidence_by_loop(np.asarray(memory.up), x)
        np.testing.assert_allclose(value, by_loop, atol=1e-6)
        np.testing.assert_allclose(familiarity(value), by_loop.max(-1).mean(-1), atol=1e-6)
        chances = expected(value, RULE, memory.centre)
        np.testing.assert_allclose(chances, chances_by_loop(by_loop, RULE), rtol=1e-4)
    even = expected(value, RULE._replace(chi=0.0), memory.centre)
    np.testing.assert_allclose(even, 1 / 4, rtol=1e-6)


def test_weights_and_labels_are_written_from_what_is_active_to_the_winners():
    batch = items()
    memory, out = written(SIZES, RULE, batch)
    up, labels = np.zeros((2, 5, 3, 4)), np.zeros((2, 3, 4, 3))
    for x, label, codes in zip(*batch.values(), np.asarray(out.outputs.winners), strict=True):
        for m, q in np.ndindex(2, 3):
            for i, feature in enumerate(FIELDS[m]):
                if feature >= 0 and x[feature]:
                    up[m, i, q, codes[m, q]] = 1
            labels[m, q, codes[m, q], label] = 1
    np.testing.assert_array_equal(memory.up, up)
    np.testing.assert_array_equal(memory.labels, labels)
    assert memory.presented == 6 and out.metrics["fill"] == pytest.approx(up.mean())
    code = np.asarray(out.outputs.winners[0])
    votes = np.zeros(3)
    for m, q in np.ndindex(2, 3):
        mine = labels[m, q, code[m, q]]
        votes += mine / max(mine.sum(), 1)
    assert label_of(memory, jnp.asarray(code)) == votes.argmax()
    alone = memory._replace(labels=jnp.zeros((2, 3, 4, 3)).at[0, :, 0, 2].set(1).at[1, 0, 1].set(1))
    assert label_of(alone, jnp.array([[-1, -1, -1], [1, 1, 1]])) == 0


def test_winners_are_drawn_by_their_chances():
    memory, _ = written(SIZES, RULE, items())
    x = jnp.asarray(items(1, seed=3)["inputs"][0])
    draw = lambda key: present(memory, SIZES, RULE, x, jnp.array(0), jnp.array(False), key)[1]
    codes = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 4000))
    value, _, _ = evidence(memory, SIZES, RULE, x)
    shares = np.stack([(np.asarray(codes.winners) == k).mean(0) for k in range(4)], -1)
    np.testing.assert_allclose(shares, chances_by_loop(np.asarray(value), RULE), atol=0.03)


def test_a_stored_item_is_recognised_and_ties_are_broken_at_random():
    one = {name: x[:1] for name, x in items(share=0.9).items()}
    memory, out = written(SIZES, RULE, one)
    found = recognise(memory, SIZES, RULE, jnp.asarray(one["inputs"][0]), KEY)
    np.testing.assert_array_equal(found.winners, out.outputs.winners[0])
    np.testing.assert_allclose(found.familiarity, 1)
    empty = sparsey(SIZES).init(KEY)
    look = lambda key: recognise(empty, SIZES, RULE, jnp.ones(7), key)
    winners = jax.vmap(look)(jax.random.split(KEY, 50)).winners
    assert {*np.asarray(winners).ravel().tolist()} == {0, 1, 2, 3}
    assert empty.up.sum() == 0


def test_frozen_units_are_not_written_and_a_band_leaves_codes_out():
    batch = {"inputs": np.eye(7, dtype=np.float32)[[0, 1, 2, 3, 4]], "labels": np.zeros(5, int)}
    one = Sizes(1, 1, FIELDS[:1], num_labels=3)
    memory, _ = written(one, Rule(freeze=0.6), batch)
    assert memory.up.sum() == 3  # of 5, after which the only unit is frozen
    memory, out = written(SIZES, Rule(band=(0.3, 0.7)), batch)
    assert (out.outputs.winners == -1).all() and (out.outputs.familiarity == 0).all()
    assert memory.up.sum() == 0 and memory.labels.sum() == 0 and out.metrics["coded"] == 0
    memory, out = written(SIZES, Rule(band=(0.2, 0.7)), batch)
    np.testing.assert_allclose(out.metrics["coded"], 0.7, rtol=1e-6)  # 5 and 2 of 10


def test_the_centre_moves_once_what_comes_is_familiar():
    rule = RULE._replace(centre=0.5, last_centre=0.9, moves_at=0.3)
    same = {name: np.repeat(x[:1], 8, 0) for name, x in items(share=0.9).items()}
    memory, out = written(SIZES, rule, same)
    mean = np.cumsum(np.asarray(out.outputs.familiarity), 0) / np.arange(1, 9)[:, None]
    np.testing.assert_allclose(memory.centre, 0.5 + 0.004 * (mean > 0.3).sum(0), atol=1e-5)
    assert (memory.centre > 0.51).all()
    still, _ = written(SIZES, RULE, same)
    np.testing.assert_array_equal(still.centre, 0.5)


def in_sequences(recurrent):
    """Items a b c, then d b e, in one macrocolumn."""
    rows = np.eye(5, dtype=np.float32).repeat(4, 1)[[0, 1, 2, 3, 1, 4]]
    sizes = Sizes(12, 8, np.arange(20)[None], recurrent=recurrent)
    first = np.array([True, False, False, True, False, False])
    memory, out = written(sizes, Rule(), {"inputs": rows, "first": first})
    return sizes, memory, rows, out.outputs


def test_an_item_has_the_code_of_its_past():
    _, _, _, codes = in_sequences(False)
    assert similarity(codes.winners[1], codes.winners[4]) > 0.8
    sizes, memory, rows, codes = in_sequences(True)
    assert similarity(codes.winners[1], codes.winners[4]) < 0.5
    previous = codes.winners[0]
    look = functools.partial(recognise, memory, sizes, Rule(), key=KEY)
    after_a = look(jnp.asarray(rows[1]), previous=previous)
    np.testing.assert_array_equal(after_a.winners, codes.winners[1])
    after_d = look(jnp.asarray(rows[1]), previous=codes.winners[3])
    np.testing.assert_array_equal(after_d.winners, codes.winners[4])
    # c never came after d: together the evidence is little, alone either is enough.
    lost = look(jnp.asarray(rows[2]), previous=codes.winners[3])
    assert lost.familiarity < 0.5
    found = look(jnp.asarray(rows[2]), previous=codes.winners[3], back_off=0.9)
    np.testing.assert_array_equal(found.winners, codes.winners[2])
    # Nothing went before: an item that was never seen is not familiar for want of a past.
    none = jnp.full_like(codes.winners[3], -1)
    assert look(jnp.asarray(1 - rows[0]), previous=none, back_off=0.9).familiarity < 0.9


def test_overlaps_are_those_of_pairs():
    rng = np.random.default_rng(0)
    x, winners = rng.random((9, 7)) < 0.6, rng.integers(-1, 4, (9, 2, 3))
    winners[rng.random((9, 2)) < 0.2] = -1
    near, alike = [], []
    for i in range(9):
        for j in range(i):
            near.append((x[i] & x[j]).sum() / np.sqrt(max(x[i].sum(), 1) * max(x[j].sum(), 1)))
            one, other = winners[i], winners[j]
            known = ((one >= 0) | (other >= 0)).sum()
            alike.append(((one == other) & (one >= 0)).sum() / max(known, 1))
    found = overlap_correlation(jnp.asarray(x), jnp.asarray(winners))
    assert found == pytest.approx(np.corrcoef(near, alike)[0, 1], abs=1e-5)


@pytest.mark.parametrize(
    ("sizes", "rule", "sentence"),
    [
        (SIZES._replace(num_units=0), Rule(), "num_units is 0"),
        (SIZES._replace(fields=np.array([0.5])), Rule(), "fields are places"),
        (SIZES, Rule(chi=-1.0), "chi is -1"),
        (SIZES, Rule(threshold=1.0), "threshold is 1"),
        (SIZES, Rule(freeze=0.0), "freeze is 0"),
    ],
)
def test_impossible_sizes_and_numbers_are_named(sizes, rule, sentence):
    with pytest.raises(ValueError, match=sentence):
        sparsey(sizes, rule=rule)


def test_a_state_without_sequences_and_labels_has_neither():
    memory = sparsey(Sizes(2, 2, FIELDS)).init(KEY)
    assert isinstance(memory, Memory) and memory.across == memory.labels == memory.previous == ()
    assert Codes._fields == ("winners", "familiarity")
