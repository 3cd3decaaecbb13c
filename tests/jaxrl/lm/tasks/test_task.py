"""Knobs of tasks, experts and verifiers that mean nothing are refused when they are turned."""

import math

import jax.numpy as jnp
import pytest

from jaxrl.lm import tasks
from jaxrl.lm.tasks import facts, tables, verifiers
from jaxrl.lm.tasks.chained import LARGEST_MODULUS
from jaxrl.lm.tasks.planted import expert, heterogeneity, return_law, transitions

LOGP = jnp.log(jnp.array([0.75, 0.25]))
# Sentence -> calls that it answers.
REFUSED = [
    ("depth is 0; it must be a whole number from 1", lambda: tasks.chained(0)),
    ("depth is 2.5; it must be", lambda: tasks.chained(2.5)),
    ("modulus is 1; it must be a whole number from 2 to 46341", lambda: tasks.chained(2, 1)),
    ("modulus is 46342; it must be", lambda: tasks.chained(2, 46_342)),
    ("1 to 10 operations", lambda: tasks.calculator(0)),
    ("largest is 100; it must be", lambda: tasks.countdown(3, 100, (10, 25))),
    ("last_target is 120; it must be", lambda: tasks.countdown(3, 99, (10, 120))),
    ("first_target is 30; it must be", lambda: tasks.countdown(3, 24, (30, 25))),
    ("first_target is -1; it must be", lambda: tasks.countdown(3, 24, (-1, 25))),
    ("2 numbers or more", lambda: tasks.countdown(1)),
    ("or nothing to ask", lambda: tasks.world(0, 1, 3)),
    ("or nothing to ask", lambda: tasks.world(0, 5, 0)),
    ("known_share is nan; it must be from 0 to 1", lambda: tasks.world(0, 5, 2, math.nan)),
    ("hops is 0; it must be", lambda: tasks.questions(facts.World(jnp.ones((3, 2)), ()), 0)),
    ("1 rooms cannot be named", lambda: tasks.rooms(1)),
    ("more_doors is -0.1; it must be", lambda: tasks.rooms(5, -0.1)),
    ("no questions of no kind", lambda: tasks.temporal(())),
    ("largest is 100; it must be", lambda: tasks.temporal(largest=100)),
    ("largest is 0; it must be", lambda: tasks.temporal(largest=0)),
    ("functions of 0 operations", lambda: tasks.unit_tests(0)),
    ("most is 0; it must be", lambda: tasks.unit_tests(2, 0)),
    ("depth is -1; it must be", lambda: tasks.word_problems(-1)),
    ("num_distractors is -1; it must be", lambda: tasks.word_problems(3, -1)),
    ("0 different digits", lambda: tasks.planted(0)),
    ("rate is 1.5; it must be from 0 to 1", lambda: transitions(1.5, 2)),
    ("rate is nan; it must be from 0 to 1", lambda: return_law(math.nan, 2, 5)),
    ("length is 0; it must be", lambda: heterogeneity(0.5, 0, 5)),
    ("horizon is 0; it must be", lambda: expert(None, None, 0.5, 0)),
    ("num_samples is 0; it must be at least 1", lambda: tables.best_of(LOGP, 0)),
    ("delta is 1; it must be above 0 and below 1", lambda: tables.samples_needed(LOGP, 1)),
    ("beta is -1; it must be", lambda: tables.sharpening_objective(LOGP, LOGP, -1)),
    ("flip_rate is 2; it must be", lambda: verifiers.noisy(2)),
    ("bonus is inf; it must be finite", lambda: verifiers.biased(math.inf)),
]


@pytest.mark.parametrize(("sentence", "call"), REFUSED, ids=[said for said, _ in REFUSED])
def test_knobs_that_mean_nothing_are_refused(sentence, call):
    with pytest.raises(ValueError, match=sentence) as error:
        call()
    assert "\n" not in str(error.value)


def test_products_below_the_largest_modulus_fit():
    assert (LARGEST_MODULUS - 1) ** 2 < 2**31 <= LARGEST_MODULUS**2
