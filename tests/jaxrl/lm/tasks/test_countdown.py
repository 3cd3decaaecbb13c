"""Countdown beside regular expressions and a search over all solutions."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.lm.tasks.countdown import Verdict, countdown, reward
from tests.jaxrl.lm.tasks import drill


def calculated(a, op, b):
    if op == "-" and a < b or op == "/" and (b == 0 or a % b):
        return None
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // (b or 1)}[op]


def verify(prompt, response):
    numbers, target = prompt[:-1].split(">")
    left, target = list(map(int, numbers.split(","))), int(target)
    steps = len(left) - 1
    lines, last, given = drill.cut(response, steps, 29)
    ok = []
    for line in lines:
        found = re.fullmatch(r"(\d{1,9})([-+*/])(\d{1,9})=(\d{1,9})", line)
        ok.append(False)
        if not found:
            continue
        a, b, c = int(found[1]), int(found[3]), int(found[4])
        rest = list(left)
        if a not in rest:
            continue
        at = rest.index(a)
        rest[at] = None
        if b not in rest:
            continue
        left[left.index(b, 0) if rest.index(b) == left.index(b) else rest.index(b)] = None
        left[at] = c
        ok[-1] = a < 10**4 and b < 10**4 and calculated(a, found[2], b) == c
    step_ok = drill.steps_right(ok, given, steps, steps)
    answer = re.fullmatch(r"#(\d{1,9})", last or "")
    reached = all(step_ok) and [x for x in left if x is not None] == [target]
    right = bool(answer) and int(answer[1]) == target and reached
    return right, int(answer[1]) if answer else -1, step_ok


def all_added(prompt):
    """Steps that hold but end at the sum, and an answer that is the target all the same."""
    numbers, target = prompt[:-1].split(">")
    sums = list(itertools.accumulate(map(int, numbers.split(","))))
    steps = zip(sums, numbers.split(",")[1:], sums[1:], strict=False)
    return "".join(f"{a}+{b}={c};" for a, b, c in steps) + f"#{target}$"


def test_all_added_by_hand():
    response = all_added("3,7,12>33?")
    assert response == "3+7=10;10+12=22;#33$"
    assert verify("3,7,12>33?", response) == (False, 33, [True, True])
    assert verify("3,7,12>22?", all_added("3,7,12>22?")) == (True, 22, [True, True])


@pytest.mark.parametrize("num_numbers", [3, pytest.param(4, marks=pytest.mark.ci)])
def test_countdown(num_numbers):
    drill.check(countdown(num_numbers), verify, more=all_added)


def reachable(numbers):
    """Everything that all of the numbers make."""
    if len(numbers) == 1:
        return {numbers[0]}
    found = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = [x for k, x in enumerate(numbers) if k not in (i, j)]
        for op in "+-*/":
            c = calculated(numbers[i], op, numbers[j])
            found |= set() if c is None else reachable([*rest, c])
    return found


def test_what_64_random_solutions_miss_is_the_sum_of_ones_and_one_number():
    sample = jax.jit(countdown(2, 98, (99, 99)).sample, static_argnums=1)
    problems = sample(jax.random.key(0), 20)
    numbers = np.asarray(problems.numbers)
    assert (problems.target == 99).all() and all(99 in reachable(x.tolist()) for x in numbers)
    assert (numbers == [98, 1]).all(1).sum() > 10


def test_every_problem_can_be_solved_and_the_fallback_is_rare():
    problems = jax.jit(countdown(3).sample, static_argnums=1)(jax.random.key(3), 300)
    for numbers, target in zip(*map(np.asarray, problems[:2]), strict=True):
        assert 10 <= target <= 25 and numbers.min() >= 1 and numbers.max() <= 24
        assert target in reachable(numbers.tolist())
    assert ((problems.numbers[:, 1:] == 1).all(1)).mean() < 0.03
    assert np.unique(problems.numbers).tolist() == list(range(1, 25))
    verdicts = Verdict(jnp.array([1, 0, 0], bool), jnp.array([24, 7, -1]), (), ())
    np.testing.assert_allclose(reward(verdicts), [1, 0.1, 0])
    with pytest.raises(ValueError, match="cannot always make"):
        countdown(30)
