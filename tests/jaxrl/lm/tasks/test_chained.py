"""Chained arithmetic beside regular expressions."""

import re

import pytest

from jaxrl.lm.tasks.chained import chained
from tests.jaxrl.lm.tasks import drill

DO = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def verifier(depth, modulus):
    def verify(prompt, response):
        start, *rest = re.findall(r"[-+*]|\d+", prompt)
        pairs = list(zip(rest[::2], map(int, rest[1::2]), strict=True))
        truth = int(start)
        for op, b in pairs:
            truth = DO[op](truth, b) % modulus
        lines, last, given = drill.cut(response, depth, 29)
        ok, value = [], int(start)
        for (op, b), line in zip(pairs, lines, strict=False):
            found = re.fullmatch(r"(\d{1,9})([-+*])(\d{1,9})=(\d{1,9})", line)
            fits = found and (int(found[1]), found[2], int(found[3])) == (value, op, b)
            ok.append(fits and int(found[4]) == DO[op](value, b) % modulus)
            value = int(found[4]) if found else None
        answer = re.fullmatch(r"#(\d{1,9})", last or "")
        step_ok = drill.steps_right(ok, given, depth, depth)
        return (bool(answer) and int(answer[1]) == truth, int(answer[1]) if answer else -1, step_ok)

    return verify


@pytest.mark.parametrize(("depth", "modulus"), [(3, 7), pytest.param(1, 100, marks=pytest.mark.ci)])
def test_chained_arithmetic(depth, modulus):
    drill.check(chained(depth, modulus), verifier(depth, modulus))


def test_a_problem_as_it_is_written():
    verify = verifier(2, 7)
    assert verify("3+4*5?", "3+4=0;0*5=0;#0$") == (True, 0, [True, True])
    assert verify("3+4*5?", "3+4=1;1*5=5;#5$") == (False, 5, [False, True])
