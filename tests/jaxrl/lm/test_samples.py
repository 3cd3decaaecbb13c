"""Groups of responses: which problem of a place is learned from, what turns earn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.lm import samples
from jaxrl.lm.tasks import symbols
from jaxrl.lm.turns import said
from jaxtrain.lm.decoder import Config, decoder
from jaxtrain.lm.sequences import Text
from tests.jaxrl.lm.letters import LETTERS

MODEL = decoder(Config(len(symbols.ALPHABET), 8, 1, 1, 1, 8, 8))
G, TRIES, PLACES = 3, 4, np.arange(5)


def reward(problem, verdict, tokens, valid):
    """Differs within a group where the problem begins with an even number, in the second turn."""
    second = (jnp.where(valid, tokens, 0).sum() % 1009) * 1e-3
    told = (tokens == symbols.ids("!")) & (jnp.arange(len(tokens)) < jnp.argmax(valid))
    late = told.any() & (problem % 2 == 0)
    return problem + jnp.where(late, second, 0)


@functools.cache
def drawn(tries=TRIES):
    """The group of every try, and the one that is taken."""
    take = functools.partial(
        samples.sampled,
        MODEL,
        LETTERS,
        group_size=G,
        room=3,
        reward=reward,
        instructions=[said("!")],
        tries=tries,
    )
    return jax.jit(take)(jax.jit(MODEL.init)(jax.random.key(0)), PLACES, jax.random.key(3))


def starts(place):
    """The first number of every problem that is drawn for a place."""
    key = jax.random.split(jax.random.fold_in(jax.random.key(3), place))[0]
    return np.asarray(LETTERS.sample(key, TRIES))


def test_the_first_problem_of_a_place_whose_rewards_differ_is_taken():
    found = drawn()
    begun = np.array([starts(place) for place in PLACES])
    even = begun % 2 == 0
    first = np.where(even.any(1), even.argmax(1), 0)
    assert 0 < first.max() and len(set(first)) > 1
    taken = begun[np.arange(len(PLACES)), first]
    np.testing.assert_array_equal(np.floor(found.reward), np.tile(taken[:, None, None], (1, G, 2)))
    assert found.reward.shape == found.correct.shape == (len(PLACES), G, 2)
    np.testing.assert_allclose(found.equal, 1 - even.mean(), atol=1e-6)
    asked = symbols.ids("0123456789")[taken]
    tokens, valid = np.asarray(found.text.tokens), np.asarray(found.text.valid)
    np.testing.assert_array_equal(tokens[np.arange(len(tokens)), valid.argmax(1)], asked.repeat(G))
    differs = np.asarray(samples.differing(found.reward, found.taken))
    np.testing.assert_array_equal(differs, even.any(1))


def test_a_batch_that_is_no_list_of_places_is_refused():
    with pytest.raises(ValueError, match="batch of places"):
        samples.sampled(MODEL, LETTERS, {}, np.ones((2, 2)), KEY, group_size=2, room=1)


KEY = jax.random.key(0)


def test_the_last_answer_is_that_of_the_last_turn_taken():
    turn, own = np.array([[0, 1], [0, 0]]), np.ones((2, 2), bool)
    text = Text(*(turn if name == "turn" else own for name in Text._fields))
    right = np.array([[[False, True], [True, False]]])  # the second row had one turn
    taken = np.array([[[True, True], [True, False]]])
    of_turns = samples.Samples(text, 1.0 * right, right, taken, np.zeros(()))
    found = samples.reward_metrics(of_turns)
    assert found["correct"] == 1


def test_turns_that_were_not_taken_make_no_group_different():
    reward = np.array([[[1.0, 0.0], [1.0, 3.0], [1.0, 3.0]]])
    all_taken, but_one = np.ones((1, 3, 2), bool), np.ones((1, 3, 2), bool)
    but_one[0, 0, 1] = False
    assert samples.differing(reward, all_taken).all() and not samples.differing(reward, but_one)
