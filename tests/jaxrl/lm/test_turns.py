"""Dialogues against a loop in Python over one row at a time, written with the NumPy network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.lm import turns
from jaxrl.lm.tasks import symbols
from jaxtrain.lm.decoder import Config, decoder, score
from jaxtrain.lm.logits import Options
from tests.jaxrl.lm.letters import LETTERS
from tests.jaxtrain.lm import numpy_decoder as reference

V = len(symbols.ALPHABET)
CONFIG = Config(V, 8, 1, 2, 1, 4, 8)
MODEL = decoder(CONFIG)
PARAMS = reference.random_params(MODEL)
STOP = np.arange(V) % 3 == 0
LENGTH, WORDS = 4, "?!"
PROMPTS = ["1+2?", "7", "3*3-1?", "x=1", "5-5?"]


def padded(texts):
    length = max(map(len, texts))
    tokens = np.array([[0] * (length - len(t)) + list(symbols.ids(t)) for t in texts])
    valid = np.array([[False] * (length - len(t)) + [True] * len(t) for t in texts])
    return symbols.Symbols(tokens, valid)


def is_over(problems, text):
    """Rows that wrote an even first token; `problems` are odd numbers that say so for row 1."""
    first = jnp.argmax(text.generated, axis=1)[:, None]
    token = jnp.take_along_axis(text.tokens, first, axis=1)[:, 0]
    return (token % 2 == 0) | (problems > 0)


INSTRUCTIONS = [turns.unless(is_over, turns.said(WORDS)), turns.said("&")]
PROBLEMS = np.array([0, 1, 0, 0, 0])


@functools.cache
def talking():
    keys = jax.random.split(jax.random.key(0), len(PROMPTS))
    talk = functools.partial(
        turns.converse, MODEL, PARAMS, padded(PROMPTS), keys, PROBLEMS, INSTRUCTIONS
    )
    return jax.jit(lambda t: talk(length=LENGTH, stop=STOP, options=Options(t)))


def talked(temperature=0.0):
    return talking()(np.float32(temperature))


def by_hand(prompt, problem):
    """Tokens, and of each its turn, or -1 where it was given."""
    tokens, turn = list(symbols.ids(prompt)), [-1] * len(prompt)
    for number, words in enumerate(["", WORDS, "&"]):
        if number == 1 and (tokens[len(prompt)] % 2 == 0 or problem > 0):
            break
        tokens += list(symbols.ids(words))
        turn += [-1] * len(words)
        for _ in range(LENGTH):
            token = int(reference.logits(CONFIG, PARAMS, tokens)[-1].argmax())
            tokens.append(token)
            turn.append(number)
            if STOP[token]:
                break
    return np.array(tokens), np.array(turn)


def test_turns_are_those_of_a_loop_over_single_rows():
    text, lengths = talked(), set()
    for row, (prompt, problem) in enumerate(zip(PROMPTS, PROBLEMS, strict=True)):
        tokens, turn = by_hand(prompt, problem)
        at = np.asarray(text.valid[row])
        np.testing.assert_array_equal(text.tokens[row][at], tokens)
        np.testing.assert_array_equal(text.mask[row][at], turn >= 0)
        np.testing.assert_array_equal(text.turn[row][at][turn >= 0], turn[turn >= 0])
        own = np.asarray(turns.of_each_turn(text, 3)[row])[:, at]
        np.testing.assert_array_equal(own, turn == np.arange(3)[:, None])
        lengths.add(tuple((turn == k).sum() for k in range(3)))
    assert len(lengths) > 1 and any(x[1] == 0 for x in lengths) and any(x[2] > 0 for x in lengths)


def test_stored_log_probabilities_are_those_of_the_whole_dialogue():
    text = talked(1.0)
    assert text.tokens.shape == talked().tokens.shape
    again = jax.jit(functools.partial(score, MODEL))(PARAMS, text.tokens, text.valid, text.mask)
    np.testing.assert_allclose(text.logp, again.logp, atol=1e-4)
    assert (np.asarray(text.logp) < 0).sum() > 10


def test_a_turn_that_is_not_taken_has_no_answer_and_earns_nothing():
    text, tokens = talked(), symbols.ids("3?#3$!aa#4$")
    spoken = text._replace(
        tokens=jnp.asarray(tokens)[None],
        valid=jnp.ones((1, 11), bool),
        generated=jnp.array([[0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1]], bool),
        turn=jnp.array([[0] * 5 + [1] * 6]),
    )
    found = jax.jit(lambda: turns.verdicts(LETTERS, jnp.array([3]), spoken, 3))()
    assert found.correct.tolist() == [[True, False, False]]
    assert found.answer_id.tolist() == [[3, 5, -1]]
    paid = jax.jit(turns.paid_at_the_end)(jnp.array([[0.5, 2.0, 7.0]]), spoken)
    assert paid.tolist() == [[0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0, 2.0]]


def test_a_restart_keeps_what_came_before_the_last_kept_token():
    text = talked()
    row = int(np.argmax(np.asarray(text.turn).max(1)))  # one with several turns
    tokens, turn = by_hand(PROMPTS[row], PROBLEMS[row])
    own, cut = np.flatnonzero(turn >= 0), jax.jit(turns.restart)
    for kept in (0, 1, int((turn == 0).sum()), len(own)):
        until = own[kept - 1] + 1 if kept else own[0]
        prompt = cut(text, jnp.full(len(PROMPTS), kept))
        at = np.asarray(prompt.valid[row])
        np.testing.assert_array_equal(prompt.tokens[row][at], tokens[:until])


def test_words_outside_the_alphabet_are_refused():
    with pytest.raises(ValueError, match="are no symbols"):
        turns.said("No")
