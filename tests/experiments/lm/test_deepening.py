"""The rules of iterative deepening, and comparisons against counting by hand."""

import numpy as np
import pytest

from experiments.lm import deepening
from experiments.lm.deepening import VANILLA, Samples


def test_rules_are_the_claim_and_its_controls():
    rules = deepening.rules(160, 20, (2.0, 1.5))
    assert rules[VANILLA].budgets == ()
    assert rules["once, at the end"].budgets == (160,)
    assert rules["every 20 tokens"].budgets == (20, 40, 60, 80, 100, 120, 140, 160)
    assert rules["every 40 tokens"].budgets == (40, 80, 120, 160)
    assert rules["budgets x 2"].budgets == (20, 40, 80, 160)
    assert rules["budgets x 1.5"].budgets == (20, 30, 45, 67, 101, 151, 160)
    control = rules["filler, x 2"]
    assert control.budgets == rules["budgets x 2"].budgets
    assert control.trigger == "." and rules["budgets x 2"].trigger == "~"


def test_bound_of_triggers_is_the_logarithm():
    rule = deepening.rules(160, 20, (2.0,))["budgets x 2"]
    lengths = [1, 20, 21, 40, 41, 80, 160]
    assert deepening.most_triggers(rule, np.array(lengths)).tolist() == [1, 1, 2, 2, 3, 3, 4]


def made(right, tokens):
    """Samples `[1, Q, N]` whose answers are 7 where they are right and 3 elsewhere."""
    right = np.array(right)[None]
    answer = np.where(right, 7, 3)
    tokens = np.full(answer.shape, tokens)
    return Samples(answer, tokens, tokens, np.ones_like(answer))


TRUTH, ASKED = np.array([7, 7, 7]), np.array([True, True, False])
PLAIN = [[1, 1, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1]]
MAIN = [[1, 1], [1, 0], [0, 0]]


def test_plain_samples_vote_for_as_many_tokens():
    found = {VANILLA: made(PLAIN, 10), "main": made(MAIN, 35)}
    curves, numbers = deepening.compared(found, TRUTH, ASKED)
    assert curves[VANILLA].votes.tolist() == [1, 2, 4]
    assert curves[VANILLA].tokens.tolist() == [10, 20, 40]
    np.testing.assert_allclose(curves[VANILLA].right[2, 0], [1, 0])
    assert numbers["main"]["votes_of_plain_samples"] == 4
    assert numbers["main"]["accuracy"].value == 0.75
    expected = numbers["main"]["accuracy"].value - 0.5
    assert numbers["main"]["over_plain_samples"].value == pytest.approx(expected)
    assert numbers[VANILLA]["over_plain_samples"].value == 0
    assert numbers["main"]["tokens"] == 35 and numbers["main"]["triggers"] == 1
    assert "main" in deepening.table("", numbers)


def test_differences_are_paired():
    names = (VANILLA, "budgets x 2", "every 20 tokens", "filler, x 2")
    right = (PLAIN, MAIN, [[0, 0]] * 3, PLAIN)
    found = {name: made(x, 10) for name, x in zip(names, right, strict=True)}
    claims = deepening.differences(found, TRUTH, ASKED, 2.0, 20)
    assert claims["growing over plain"].value == pytest.approx(0.75 - 0.5)
    assert claims["growing over constant"].value == pytest.approx(0.75)
    assert claims["constant over plain"].value == pytest.approx(-0.5)
    assert claims["control: filler over plain"] == (0, 0, 0)
