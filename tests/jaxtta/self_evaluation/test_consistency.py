"""Consistency of answers against counting."""

import itertools
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.search import selection
from jaxtta.self_evaluation import consistency

RNG = np.random.default_rng(0)
ANSWERS = np.concatenate([RNG.integers(-1, 3, (30, 6)), np.full((1, 6), -1), np.full((1, 6), 2)])


def test_agreement_and_entropy_are_those_of_the_counts():
    share = consistency.agreement(jnp.array(ANSWERS))
    entropy = consistency.answer_entropy(jnp.array(ANSWERS))
    for row, s, h in zip(ANSWERS, share, entropy, strict=True):
        counts = np.array(list(Counter(row[row >= 0]).values()) or [0])
        assert abs(s - counts.max() / 6) < 1e-6
        p = counts / max(counts.sum(), 1)
        assert abs(h + sum(x * np.log(x) for x in p if x)) < 1e-5
    assert share[-2] == 0 and share[-1] == 1 and abs(entropy[-1]) < 1e-6


def test_pairs_that_agree():
    found = consistency.pairwise_agreement(jnp.array(ANSWERS))
    pairs = list(itertools.combinations(range(6), 2))
    expected = [np.mean([row[i] == row[j] >= 0 for i, j in pairs]) for row in ANSWERS]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(ValueError, match="no pair"):
        consistency.pairwise_agreement(jnp.array([[1]]))


def test_a_checked_vote_drops_what_is_judged_wrong():
    answers = jnp.array([[1, 1, 1, 2, 2], [1, 1, 1, 2, 2], [-1, 4, 4, 3, -1]])
    verdict = jnp.array([[1, 0, 0, 1, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 1]], bool)
    assert consistency.checked_majority(answers, verdict).tolist() == [3, 0, 1]
    assert (
        consistency.checked_majority(answers, verdict | True) == selection.majority(answers)
    ).all()
