"""The planted subsequence: its verdicts against string search, its chain against enumeration."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.planted import (
    CONTENT,
    earned,
    expert,
    heterogeneity,
    planted,
    return_law,
    verification_gap,
)
from tests.jaxrl.lm.tasks import drill

K = 3
TASK = planted(K)


def pattern_of():
    """Content symbols of the digits, read from solutions."""
    made = drill.texts(TASK)
    pairs = zip(made.prompts, made.solutions, strict=True)
    return dict(pair for prompt, text in pairs for pair in zip(prompt[:-1], text[:-1], strict=True))


def test_a_response_is_right_once_it_holds_the_pattern():
    hidden = pattern_of()
    assert len(hidden) == 10 and set(hidden.values()) < set(CONTENT)
    assert len(set(hidden.values())) == 10

    def verify(prompt, response):
        content = response.split("$")[0]
        pattern = "".join(hidden[d] for d in prompt[:-1])
        most = max(n for n in range(K + 1) if pattern[:n] in content)
        return most == K, 0 if most == K else -1, [n < most for n in range(K)]

    drill.check(TASK, verify)
    with pytest.raises(ValueError, match="11 different digits"):
        planted(11)


def test_the_return_is_what_is_left_after_the_pattern():
    problem = jax.tree.map(lambda x: x[0], TASK.sample(jax.random.key(0), 1))
    pattern = symbols.text(problem.hidden, np.ones(K, bool))
    other = next(c for c in CONTENT if c not in pattern)
    count = jax.jit(earned)
    for text, expected in [
        (pattern, 1),
        (other + pattern + other * 2, 3),
        (pattern[0] + pattern, 1),
        (pattern[:2] + other + pattern, 1),
        (pattern[:2] + other * 3, 0),
        (pattern + other * 4, 5),
    ]:
        tokens = jnp.full(12, symbols.PAD).at[: len(text)].set(symbols.ids(text))
        assert count(problem, tokens, jnp.arange(12) < len(text)) == expected, text


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_the_chain_is_enumerated(rate):
    """All sequences over the three symbols of the pattern and "any other", with their chances."""
    horizon, other = 6, len(CONTENT) - K
    law = np.zeros(horizon + 1)
    for tokens in itertools.product(range(K + 1), repeat=horizon):  # K is any other symbol
        chance, state, earned = 1.0, 0, 0
        for token in tokens:
            uniform = (1 - rate) / len(CONTENT)
            needed = min(state, K - 1)
            chance *= (other if token == K else 1) * uniform + rate * (token == needed)
            if state < K:
                state = state + 1 if token == state else int(token == 0)
            earned += state == K
        law[earned] += chance
    found = return_law(rate, K, horizon)
    np.testing.assert_allclose(found, law, atol=1e-6)
    returns = np.arange(horizon + 1)
    variance = law @ (returns - law @ returns) ** 2
    np.testing.assert_allclose(heterogeneity(rate, K, horizon), variance, atol=1e-5)


def test_traces_of_an_expert_follow_the_law():
    horizon, rate, n = 16, 0.6, 2000

    @jax.jit
    def returns(key):
        problem = jax.tree.map(lambda x: x[0], TASK.sample(key, 1))
        write = lambda k: expert(k, problem, rate, horizon)
        traces = jax.vmap(write)(jax.random.split(key, n))
        return jax.vmap(lambda t: earned(problem, t, jnp.ones(horizon, bool)))(traces)

    share = np.bincount(returns(jax.random.key(1)), minlength=horizon + 1) / n
    law = np.asarray(return_law(rate, K, horizon))
    assert (np.abs(share - law) < 4.5 * np.sqrt(law * (1 - law) / n) + 1e-9).all()


def test_the_gap_grows_with_horizon_and_heterogeneity_and_is_zero_for_one_rate():
    @functools.partial(jax.jit, static_argnums=1)
    def gap(spread, horizon):
        rates = 0.6 + spread * jnp.linspace(-0.35, 0.35, 5)
        return verification_gap(rates, jnp.full(5, 0.2), 5, horizon)

    by_horizon = [gap(1.0, h).gap for h in (16, 32, 64, 128)]
    assert all(a < b for a, b in itertools.pairwise(by_horizon)) and by_horizon[-1] > 10
    by_spread = [gap(s, 64) for s in (0.0, 0.3, 1.0)]
    assert abs(by_spread[0].gap) < 1e-3 < by_spread[1].gap < by_spread[2].gap
    assert by_spread[0].variance < by_spread[1].variance < by_spread[2].variance
    assert all(0.1 < g.above < 0.6 for g in by_spread)
