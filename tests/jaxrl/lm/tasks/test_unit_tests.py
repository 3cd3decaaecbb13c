"""Tests of small functions beside Python functions."""

import re

import jax
import numpy as np
import pytest

from jaxrl.lm.tasks.unit_tests import coverage, mutation_score, read, reward, unit_tests
from tests.jaxrl.lm.tasks import drill

DO = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "<": min,
    ">": max,
}
OPERATORS = "+-*<>"


def computed(operations, a, b):
    """The value, and (place, side) of every comparison on the way."""
    value, sides = a, set()
    for place, (op, name) in enumerate(operations):
        right = {"a": a, "b": b}.get(name)
        right = int(name) if right is None else right
        if op in "<>":
            sides.add((place, (right < value) if op == "<" else (right > value)))
        value = DO[op](value, right)
    return value, sides


def parsed(prompt):
    return re.findall(r"([-+*<>])(\w)", prompt[1:-1])


def readable(line):
    found = re.fullmatch(r"(\d{1,9}),(\d{1,9})=(-?\d{1,9})", line)
    test = tuple(map(int, found.groups())) if found else None
    return test if test and max(test[:2]) < 100 else None


def verify(prompt, response):
    operations = parsed(prompt)
    lines, last, given = drill.cut(response, 4, 30)
    tests = [readable(line) for line in lines]
    ok = [bool(t) and computed(operations, *t[:2])[0] == t[2] for t in tests]
    answer = re.fullmatch(r"#(\d{1,9})", last or "")
    step_ok = drill.steps_right(ok, given, given, 4)
    right = bool(answer) and int(answer[1]) == given > 0 and all(step_ok)
    return right, int(answer[1]) if answer else -1, step_ok


def test_tests_of_functions():
    drill.check(unit_tests(3), verify)
    with pytest.raises(ValueError, match="functions of 4 operations"):
        unit_tests(4)


def test_coverage_mutants_and_reward():
    task, rng = unit_tests(2), np.random.default_rng(1)
    made = drill.texts(task)
    responses = [*map(lambda x: drill.damaged(x, rng, made.slots), made.corrupted[:30])]
    responses += [x.split(";")[0] + ";#1$" for x in made.solutions[30:]]

    @jax.jit
    @jax.vmap
    def judge(problem, tokens, valid):
        tests = read(tokens, valid, 4)[0]
        verdict = task.verify(problem, tokens, valid)
        return (
            coverage(problem, tests),
            mutation_score(problem, tests),
            reward(problem, verdict, tests),
        )

    found = judge(made.problems, *drill.slotted(responses, made.slots, rng))
    for prompt, response, *row in zip(
        made.prompts, responses, *map(np.asarray, found), strict=True
    ):
        operations = parsed(prompt)
        lines, last, given = drill.cut(response, 4, 30)
        tests = [t for t in map(readable, lines) if t]
        sides = {s for t in tests for s in computed(operations, *t[:2])[1]}
        branches = sum(op in "<>" for op, _ in operations)
        covered = len(sides) / (2 * branches) if branches else 1
        changed = []
        for place, (op, name) in enumerate(operations):
            options = [(other, name) for other in OPERATORS if other != op]
            options += [(op, str((int(name) + 1) % 10))] if name.isdigit() else []
            changed += [[*operations[:place], o, *operations[place + 1 :]] for o in options]
        killed = [any(computed(m, *t[:2])[0] != t[2] for t in tests) for m in changed]
        correct, answer, _ = verify(prompt, response)
        sound = 0 < len(lines) == len(tests) and answer >= 0
        paid = (2 + 2 * covered if correct else -0.3) if sound else -2
        np.testing.assert_allclose(row, [covered, np.mean(killed), paid], rtol=1e-5)
    assert len(np.unique(found[2])) > 3 and 0.2 < found[1].mean() < 0.95
