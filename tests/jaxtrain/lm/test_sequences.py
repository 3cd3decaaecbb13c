"""Texts and their masks, counted token by token in Python."""

import jax
import numpy as np
import pytest

from jaxtrain.lm import sequences
from jaxtrain.lm.decoder import decoder, score
from jaxtrain.lm.sampling import Decoding
from jaxtrain.lm.sequences import Piece, Text, build
from tests.jaxtrain.lm.numpy_decoder import TINY, random_params

ROWS = [
    [Piece([1, 2, 3]), Piece([4, 5], own=True), Piece([6]), Piece([7, 8], own=True), Piece([9])],
    [Piece([1]), Piece([2, 3], own=True)],
    [Piece([4, 4], own=True), Piece([5, 5, 5])],
]


def scattered(text, seed=0, slots=12):
    """The same texts with empty slots, which hold rubbish, anywhere."""
    rng = np.random.default_rng(seed)
    made = []
    filled = np.asarray(text.valid) > 0
    for x in map(np.asarray, text):
        new = rng.integers(1, 9, (len(x), slots)).astype(x.dtype)
        places = np.random.default_rng(seed + 1)
        for row in range(len(x)):
            here = np.sort(places.choice(slots, filled[row].sum(), replace=False))
            new[row, here] = x[row, filled[row]]
        made.append(new)
    holes = np.zeros((len(filled), slots), bool)
    places = np.random.default_rng(seed + 1)
    for row in range(len(filled)):
        holes[row, places.choice(slots, filled[row].sum(), replace=False)] = True
    return Text(*made)._replace(valid=holes, mask=made[2] & holes)


def rows_of(text):
    """Per row what lies in its filled slots: tokens, mask, generated, turn."""
    text = Text(*map(np.asarray, text))
    fields = (text.tokens, text.mask, text.generated, text.turn)
    return [[list(x[row, text.valid[row] > 0]) for x in fields] for row in range(len(text.tokens))]


def test_texts_from_pieces():
    text = build(ROWS)
    assert text.tokens.shape == (3, 9) and text.tokens.dtype == np.int32
    first, second, third = rows_of(text)
    own = [0, 0, 0, 1, 1, 0, 1, 1, 0]
    assert first == [list(range(1, 10)), own, own, [0, 0, 0, 0, 0, 1, 1, 1, 2]]
    assert second == [[1, 2, 3], [0, 1, 1], [0, 1, 1], [0, 0, 0]]
    assert third == [[4, 4, 5, 5, 5], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]]
    np.testing.assert_array_equal(text.valid[1], [0] * 6 + [1] * 3)
    assert not text.mask[~text.valid].any() and not text.logp.any()
    assert build(ROWS, 11).tokens.shape == (3, 11)


@pytest.mark.parametrize(
    ("rows", "length", "sentence"),
    [
        (ROWS, 8, "text 0 has 9 tokens; each needs 1 to 8"),
        ([ROWS[1], [Piece([])]], None, "text 1 has 0 tokens; each needs 1 to 3"),
    ],
)
def test_texts_that_do_not_fit_are_refused(rows, length, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(rows, length)


def test_padding_moves_to_the_left():
    holed = scattered(build(ROWS))
    found = sequences.left_padded(holed)
    assert rows_of(found) == rows_of(holed) == rows_of(build(ROWS))
    np.testing.assert_array_equal(found.valid[1], [0] * 9 + [1] * 3)


def test_samples_carry_the_loss_where_they_were_sampled():
    """Turns of rows with holes; what lies in empty slots counts nowhere."""
    holed = scattered(build(ROWS))
    numbers = np.random.default_rng(5).normal(size=(2, *holed.tokens.shape))
    rubbish = np.asarray(holed.generated) | ~np.asarray(holed.valid)
    nothing = dict.fromkeys(Decoding._fields)
    rows = nothing | dict(tokens=holed.tokens, valid=holed.valid, generated=rubbish)
    text = sequences.of_decoding(Decoding(**rows | dict(logp=numbers[0], sampled=numbers[1])))
    assert rows_of(text) == rows_of(build(ROWS))
    assert not np.asarray(text.mask)[~holed.valid].any()
    np.testing.assert_array_equal(text.logp, numbers[0])
    np.testing.assert_array_equal(text.sampled, numbers[1])


def test_masks_of_a_turn_and_of_chosen_rows():
    text = build(ROWS)
    np.testing.assert_array_equal(sequences.of_turn(text, 1).mask.sum(axis=1), [2, 0, 0])
    np.testing.assert_array_equal(
        sequences.of_turn(text, np.array([[0], [0], [1]])).mask.sum(axis=1), [2, 2, 0]
    )
    only = sequences.of_rows(text, np.array([False, True, False]))
    np.testing.assert_array_equal(only.mask.sum(axis=1), [0, 2, 0])
    np.testing.assert_array_equal(only.mask[1], text.mask[1])


def test_only_what_differs_carries_the_loss_of_a_pair():
    prompt = Piece([1, 2])
    left = [
        [prompt, Piece([3, 4, 5], True)],
        [prompt, Piece([3], True)],
        [prompt, Piece([6], True)],
    ]
    right = [
        [prompt, Piece([3, 7, 5, 8], True)],
        [prompt, Piece([3, 9], True)],
        [Piece([2]), Piece([6], True)],
    ]
    first, second = scattered(build(left), 1), scattered(build(right), 2, slots=10)
    found = jax.jit(sequences.after_common_prefix)(first, second)
    masks = [[mask for _, mask, *_ in rows_of(text)] for text in found]
    assert masks[0] == [[0, 0, 0, 1, 1], [0, 0, 0], [0, 0, 1]]
    assert masks[1] == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1], [0, 1]]
    assert rows_of(found[0])[0][0] == [1, 2, 3, 4, 5]


def test_packed_rows_hold_every_text_and_score_it_alike():
    holed = scattered(build(ROWS))
    text = sequences.packed(holed, 9)
    assert text.tokens.shape == (2, 9)
    np.testing.assert_array_equal(text.valid, [[1] * 9, [1] * 5 + [2] * 3 + [0]])
    expected = rows_of(holed)
    for (row, number), want in zip([(0, 1), (1, 2), (1, 1)], expected, strict=True):
        here = text.valid[row] == number
        fields = (text.tokens, text.mask, text.generated, text.turn)
        assert [list(x[row, here]) for x in fields] == want
    model = decoder(TINY)
    found, alone = (
        jax.jit(lambda t, v: score(model, random_params(model), t, v).logp)(t.tokens, t.valid)
        for t in (text, holed)
    )
    np.testing.assert_allclose(found[1, 5:8], alone[1][holed.valid[1]], atol=1e-5)
    with pytest.raises(ValueError, match="text 0 has 9 tokens; a row has 8"):
        sequences.packed(holed, 8)
