"""Rows of text in the making against one text at a time in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.lm import sampling
from jaxtrain.lm.decoder import decoder, score
from jaxtrain.lm.logits import Options
from tests.jaxtrain.lm import numpy_decoder as reference
from tests.jaxtrain.lm.numpy_decoder import TINY, random_params

MODEL = decoder(TINY)
PARAMS = random_params(MODEL)
V, ROOM = TINY.vocabulary, 11
PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5], [3, 5]]
NONE = np.zeros(V, bool)

begin = jax.jit(functools.partial(sampling.start, MODEL), static_argnums=4)
go = jax.jit(functools.partial(sampling.continue_until, MODEL))
insert = jax.jit(functools.partial(sampling.force, MODEL))
fork, compact = jax.jit(sampling.fork), jax.jit(sampling.compact)
rescore = jax.jit(functools.partial(score, MODEL))


def padded(texts, length=5):
    tokens = np.array([[0] * (length - len(t)) + t for t in texts])
    valid = np.array([[False] * (length - len(t)) + [True] * len(t) for t in texts])
    return tokens, valid


def options(rows=4, temperature=1.0, top_k=V, top_p=2.0, min_p=0.0, forbidden=()):
    """Always of the same structure, so that everything here is one program."""
    column = lambda x: np.broadcast_to(np.float32(x), rows)
    mask = np.broadcast_to(np.isin(np.arange(V), forbidden), (rows, V))
    return Options(*map(column, (temperature, top_k, top_p, min_p)), mask)


def begun(texts=PROMPTS, seed=0, length=5):
    keys = jax.random.split(jax.random.key(seed), 16)[: len(texts)]
    return begin(PARAMS, *padded(texts, length), keys, ROOM + 5 - length)


def sample(rows, length=6, stop=NONE, end=NONE, **changed):
    number = len(rows.tokens)
    budget = np.broadcast_to(np.int32(length), number)
    return go(PARAMS, rows, budget, stop, options(number, **changed), end)


def texts_of(rows):
    return [list(map(int, t[v])) for t, v in zip(rows.tokens, rows.valid, strict=True)]


def equal(found, expected):
    plain = lambda rows: rows._replace(keys=jax.random.key_data(rows.keys))
    jax.tree.map(np.testing.assert_array_equal, plain(found), plain(expected))


def one_of(*ids):
    return np.isin(np.arange(V), ids)


def check_scores(rows, atol=1e-4):
    """Stored log-probabilities against NumPy, text by text."""
    for row in range(len(rows.tokens)):
        slots = np.flatnonzero(rows.valid[row])
        logits = reference.logits(TINY, PARAMS, np.asarray(rows.tokens[row])[slots])
        expected = np.zeros(len(slots))
        logp = reference.log_softmax(logits)
        for t in range(1, len(slots)):
            if rows.generated[row, slots[t]]:
                expected[t] = logp[t - 1, rows.tokens[row, slots[t]]]
        np.testing.assert_allclose(rows.logp[row, slots], expected, atol=atol)
        assert not np.asarray(rows.logp)[row][~np.asarray(rows.valid[row])].any()


def test_the_most_probable_tokens_follow_ragged_prompts():
    rows = sample(begun(), 6, temperature=0.0)
    for found, text in zip(texts_of(rows), PROMPTS, strict=True):
        for _ in range(6):
            text = [*text, int(reference.logits(TINY, PARAMS, text)[-1].argmax())]
        assert found == text
    assert not np.asarray(rows.sampled).any(), "certain"
    check_scores(rows)


@pytest.mark.parametrize("padding", [5, 9])
def test_a_row_alone_is_the_row_in_a_batch_of_sixteen(padding):
    texts = [
        [int(t) for t in np.random.default_rng(i).integers(0, V, 1 + i % 5)] for i in range(16)
    ]
    together = texts_of(sample(begun(texts), 6, one_of(3)))
    assert len({len(new) - len(old) for new, old in zip(together, texts, strict=True)}) > 2
    keys = jax.random.split(jax.random.key(0), 16)
    for i in (2, 9):
        tokens, valid = padded([texts[i]], padding)
        alone = begin(PARAMS, tokens, valid, keys[i : i + 1], ROOM + 5 - padding)
        assert texts_of(sample(alone, 6, one_of(3))) == [together[i]]


def test_every_token_has_a_draw_of_its_own():
    """When all tokens are equally probable only the draws are left."""
    rows = sample(begun(), 8, temperature=1e6)
    for text, prompt in zip(texts_of(rows), PROMPTS, strict=True):
        assert len(set(text[len(prompt) :])) > 3
    assert len({tuple(text[-8:]) for text in texts_of(rows)}) == 4


def test_a_budget_of_nothing_changes_nothing():
    rows = sample(begun(), 2, one_of(*range(V)))
    assert rows.stopped.all() and texts_of(rows) != PROMPTS
    equal(sample(rows, 0), rows)
    mixed = sample(rows, [0, 3, 0, 1])
    assert [len(t) - len(p) for t, p in zip(texts_of(mixed), PROMPTS, strict=True)] == [1, 4, 1, 2]
    np.testing.assert_array_equal(mixed.stopped, [True, False, True, False])


def test_rows_stop_after_a_token_or_end_for_good():
    """A row of seed 0 meets 7 at once, another meets 1 later; the others are as without."""
    free = sample(begun(), 8)
    stop, end = one_of(free.tokens[0, 6]), one_of(free.tokens[2, 7])
    rows = sample(begun(), 8, stop, end)
    for row, (text, prompt) in enumerate(zip(texts_of(free), PROMPTS, strict=True)):
        new = text[len(prompt) :]
        met = [i for i, t in enumerate(new) if stop[t] or end[t]]
        expected = new[: met[0] + 1] if met else new
        assert texts_of(rows)[row] == prompt + expected
        assert rows.stopped[row] == bool(met) and rows.done[row] == (bool(met) and end[new[met[0]]])
    again = sample(rows, 1)
    longer = [len(a) - len(b) for a, b in zip(texts_of(again), texts_of(rows), strict=True)]
    assert longer == [0 if done else 1 for done in rows.done] and 0 < sum(longer) < 4
    np.testing.assert_array_equal(again.stopped, rows.done)
    check_scores(again)


def ragged():
    """Sampled, forced with blocks of 0 to 3 tokens, two rows copied, compacted, sampled again."""
    rows = sample(begun(), 3, one_of(1, 2, 3))
    block, valid = padded([[7, 7, 2], [1], [], [8, 0]], 3)
    rows = insert(PARAMS, rows, block, valid)
    rows = fork(rows, np.array([2, 0, 0, 3]))
    return sample(compact(rows), 3)


def test_scores_of_what_was_written_are_those_of_when_it_was_sampled():
    rows = ragged()
    assert len({len(t) for t in texts_of(rows)}) > 1
    check_scores(rows)
    found = rescore(PARAMS, rows.tokens, rows.valid, rows.generated, options())
    np.testing.assert_allclose(found.logp, rows.logp, atol=1e-5)


def test_forced_tokens_neither_stop_nor_end_a_row():
    rows = begun()
    block, valid = padded([[7], [7, 7], [], [3, 7]], 2)
    forced = insert(PARAMS, rows, block, valid)
    expected = [[*p, *b] for p, b in zip(PROMPTS, ([7], [7, 7], [], [3, 7]), strict=True)]
    assert texts_of(forced) == expected and not (forced.done | forced.stopped).any()
    assert not forced.generated.any()
    nobody = sampling.empty(MODEL, rows.keys, ROOM + 5)
    first = insert(PARAMS, nobody, *padded(PROMPTS))
    assert texts_of(first) == PROMPTS and first.cursor == rows.cursor
    np.testing.assert_allclose(first.hidden, rows.hidden, atol=1e-5)
    # What follows is what follows the same text as a prompt: places and state are the same.
    other = begin(PARAMS, *padded(expected, 7), rows.keys, ROOM - 2)
    after, same = sample(forced, 4), sample(other, 4)
    assert texts_of(after) == texts_of(same)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 0.0},
        {"top_k": 3},
        {"top_p": 0.8},
        {"min_p": 0.15},
        {"forbidden": (1, 5)},
        {"temperature": [0.7, 1.5, 1.0, 0.0], "top_k": 5, "top_p": [0.8, 0.9, 1.0, 0.5]},
    ],
    ids=str,
)
def test_importance_ratios_of_fresh_samples_are_one(changed):
    rows = sample(begun(seed=3), 8, **changed)
    found = rescore(PARAMS, rows.tokens, rows.valid, rows.generated, options(**changed))
    for new, old in ((found.logp, rows.logp), (found.sampled, rows.sampled)):
        np.testing.assert_allclose(np.exp(new - old), 1, atol=1e-5)
    made = rows.tokens[rows.generated]
    assert not np.isin(made, changed.get("forbidden", ())).any()
    if "top_p" in changed:  # what a learner that forgets the truncation would see
        assert np.exp(rows.logp - rows.sampled)[rows.generated].mean() < 0.95


def test_copies_draw_other_tokens_and_single_rows_go_on():
    rows = sample(begun(), 2)
    same = fork(rows, np.arange(4))
    equal(same, rows)
    twice = sample(fork(rows, np.array([1, 3, 1, 1])), 8)
    texts = texts_of(twice)
    assert texts[1] == texts_of(sample(rows, 8))[3]
    assert len(set(map(tuple, (texts[0], texts[2], texts[3])))) == 3
    again = fork(fork(rows, np.array([0, 0, 1, 2])), np.array([0, 0, 1, 1]))
    assert len(np.unique(jax.random.key_data(again.keys), axis=0)) == 4


def test_compact_gives_empty_slots_back():
    rows = sample(begun(), [1, 5, 0, 2])
    small = compact(rows)
    assert texts_of(small) == texts_of(rows)
    assert small.cursor == max(map(len, texts_of(rows))) < rows.cursor
    assert not small.valid[:, int(small.cursor) :].any()
    assert texts_of(sample(small, 4)) == texts_of(sample(rows, 4))


def test_a_block_without_room_is_left_out_and_so_is_all_that_follows():
    rows = sample(begun(), ROOM - 1)
    assert rows.cursor == 15
    block = np.ones((4, 2), int)
    full = insert(PARAMS, rows, block, block)
    assert texts_of(full) == texts_of(rows) and full.cursor == 17
    np.testing.assert_array_equal(full.hidden, rows.hidden)
    assert texts_of(sample(full, 3)) == texts_of(rows)
    last = sample(rows, 5)
    assert last.cursor == 16 and last.valid[:, -1].all() and not last.stopped.any()


def test_prompts_may_begin_with_vectors():
    vectors = np.random.default_rng(4).normal(size=(1, 2, 8)).astype(np.float32)
    tokens, valid = np.array([[0, 0, 4, 2]]), np.ones((1, 4), bool)
    keys = jax.random.split(jax.random.key(0), 1)
    rows = begin(PARAMS, tokens, valid, keys, 12, vectors)
    rows, text = sample(rows, 3, temperature=0.0), [*vectors[0], 4, 2]
    for found in rows.tokens[0, 4:7]:
        assert found == reference.logits(TINY, PARAMS, text)[-1].argmax()
        text.append(int(found))


def test_whole_rollouts_run_side_by_side():
    """Two seeds with parameters of their own: one program, the tokens of two."""
    many = jax.tree.map(lambda x, y: jnp.stack([x, y]), PARAMS, random_params(MODEL, 1))
    keys = jax.random.split(jax.random.key(5), (2, 4))

    def run(params, keys):
        rows = sampling.start(MODEL, params, *padded(PROMPTS), keys, ROOM)
        return sampling.continue_until(MODEL, params, rows, 4, one_of(3)).tokens

    side_by_side = jax.jit(jax.vmap(run))(many, keys)
    for seed in range(2):
        params = jax.tree.map(lambda x, i=seed: x[i], many)
        rows = go(
            params,
            begin(params, *padded(PROMPTS), keys[seed], ROOM),
            np.full(4, 4),
            one_of(3),
            options(),
            NONE,
        )
        np.testing.assert_array_equal(side_by_side[seed], rows.tokens)


def test_every_row_needs_a_key():
    with pytest.raises(ValueError, match="1 keys for 4 prompts"):
        sampling.start(MODEL, PARAMS, *padded(PROMPTS), jax.random.key(0)[None], ROOM)


def test_what_does_not_fit_the_rows_is_refused():
    rows = sampling.empty(MODEL, jax.random.split(jax.random.key(0), 2), 4)
    for block, valid in (((3, 2), (3, 2)), ((2, 2), (2, 1))):
        with pytest.raises(ValueError, match=r"its mask .*; both need \[2, w\]"):
            sampling.force(MODEL, PARAMS, rows, np.ones(block, int), np.ones(valid, bool))
    with pytest.raises(ValueError, match="room is -1; it must be a whole number"):
        keys = jax.random.split(jax.random.key(0), 4)
        sampling.start(MODEL, PARAMS, *padded(PROMPTS), keys, -1)
