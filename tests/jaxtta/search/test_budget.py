"""Iterative deepening against a replay of its rule over the text, token by token."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.lm import sampling, sequences
from jaxtrain.lm.decoder import Config, decoder
from jaxtta.search import budget

MODEL = decoder(Config(8, 8, 1, 1, 1, 8, 8))
ROWS, CAP, TRIGGER, PROMPT = 24, 24, [6, 1], 2
BUDGETS = (3, 6, 12, 24)
END = np.arange(8) >= 5


@functools.cache
def deepened():
    @jax.jit
    def run(key):
        params = MODEL.init(key)
        prompts = jnp.full((ROWS, PROMPT), 2)
        keys = jax.random.split(key, ROWS)
        room = 2 * CAP + len(BUDGETS) * len(TRIGGER)
        rows = sampling.start(MODEL, params, prompts, prompts > 0, keys, room)
        trigger = jnp.array(TRIGGER)
        found = budget.iterative_deepening(MODEL, params, rows, trigger, BUDGETS, END)
        return found._replace(decoding=sequences.of_decoding(found.decoding))

    return jax.tree.map(np.array, run(jax.random.key(0)))


def replayed(tokens, generated):
    """How many triggers and samples the rule asks for, given the tokens that were sampled."""
    text = list(zip(tokens, generated, strict=True))
    used = triggers = 0

    def sample(limit):
        nonlocal used
        while used < limit:
            token, own = text.pop(0)
            assert own
            used += 1
            if token >= 5:
                return True
        return False

    for limit in BUDGETS:
        ended = sample(limit)
        wanted = used <= CAP - CAP // 8 and used < CAP
        if wanted:
            assert [text.pop(0) for _ in TRIGGER] == [(t, False) for t in TRIGGER]
            triggers += 1
        elif ended:
            break
        if wanted and ended and used < limit and sample(limit):
            break
    assert not text
    return triggers, used


def test_triggers_come_when_the_rule_says():
    found = deepened()
    text = found.decoding
    for row in range(ROWS):
        kept = text.valid[row] & (np.arange(text.valid.shape[1]) >= PROMPT)
        expected = replayed(text.tokens[row][kept], text.generated[row][kept])
        assert (found.triggers[row], found.sampled[row]) == expected
    assert len(set(found.sampled)) > 5
    assert set(found.triggers) >= {1, 2}


@pytest.mark.parametrize("first, triggers", [(14, 1), (15, 0)])
def test_no_trigger_comes_in_the_last_eighth(first, triggers):
    @jax.jit
    def run(key):
        params, prompts = MODEL.init(key), jnp.full((1, PROMPT), 2)
        rows = sampling.start(MODEL, params, prompts, prompts > 0, key[None], 40)
        never = jnp.zeros(8, bool)
        return budget.iterative_deepening(MODEL, params, rows, jnp.array([6]), (first, 16), never)

    found = run(jax.random.key(0))
    assert (found.triggers.tolist(), found.sampled.tolist()) == ([triggers], [16])


def test_the_number_of_triggers_grows_as_the_logarithm_of_the_length():
    found = deepened()
    for triggers, length in zip(found.triggers, found.sampled, strict=True):
        assert triggers <= 1 + max(0, math.ceil(math.log(length / 3, 2)))


def test_budgets_grow_by_the_factor():
    assert budget.geometric_budgets(64, 2) == [8, 16, 32, 64]
    assert budget.geometric_budgets(64, 4, first=1) == [1, 4, 16, 64]
    assert budget.geometric_budgets(10, 1.5, first=2) == [2, 3, 4, 6, 10]
    assert budget.geometric_budgets(5, 1.1, first=2) == [2, 3, 4, 5]
    for factor, first in [(1.0, 2), (2.0, 99)]:
        with pytest.raises(ValueError, match="do not grow"):
            budget.geometric_budgets(64, factor, first)
    for cap, factor, first in [(64, math.nan, 2), (64, math.inf, 2), (64, 2, 2.5)]:
        with pytest.raises(ValueError, match="do not grow"):
            budget.geometric_budgets(cap, factor, first)
    for cap in (0, -8, 2.5):
        with pytest.raises(ValueError, match=f"cap is {cap}; it must be a whole number"):
            budget.geometric_budgets(cap, 2)
    slow = budget.geometric_budgets(50, 1 + 1e-12, 3)
    assert slow == list(range(3, 51)), "a factor of almost 1 ends"


@pytest.mark.parametrize("budgets", [[4, 4], [], [0, 4], [2.5, 4], [8, 4]])
def test_budgets_that_do_not_grow_are_refused(budgets):
    with pytest.raises(ValueError, match="must be whole and grow"):
        budget.iterative_deepening(MODEL, {}, None, jnp.array([1]), budgets, END)


def test_rows_that_are_too_short_are_refused():
    """A trigger without room would be counted and not be there."""
    rows = sampling.empty(MODEL, jax.random.split(jax.random.key(0), 2), 2 * 4 + 2 * 3 - 1)
    with pytest.raises(ValueError, match="have 13 slots; .* need room=14 behind the prompts"):
        budget.iterative_deepening(MODEL, {}, rows, jnp.arange(3), [2, 4], END)
    with pytest.raises(ValueError, match="trigger holds no token"):
        budget.iterative_deepening(MODEL, {}, rows, jnp.arange(0), [2, 4], END)
