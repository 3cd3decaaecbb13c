"""Sums with a calculator beside Python's integers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.calculator import calculator, respond
from tests.jaxrl.lm.tasks import drill

DO = {"+": lambda a, b: a + b, "*": lambda a, b: a * b}
LARGEST = 999_999_999


def verifier(steps):
    def verify(prompt, response):
        start, *rest = re.findall(r"[+*]|\d+", prompt)
        truth = before = int(start)
        pairs = list(zip(rest[::2], map(int, rest[1::2]), strict=True))
        for op, b in pairs:
            truth = DO[op](truth, b)
        lines, last, given = drill.cut(response, steps, 30)
        ok = []
        for (op, b), line in zip(pairs, lines, strict=False):
            found = re.fullmatch(r"\[(\d{1,9})([+*])(\d{1,9})\](\d{1,9})", line)
            fits = found and (int(found[1]), found[2], int(found[3])) == (before, op, b)
            ok.append(fits and int(found[4]) == DO[op](before, b) <= LARGEST)
            before = int(found[4]) if found else None
        answer = re.fullmatch(r"#(\d{1,9})", last or "")
        step_ok = drill.steps_right(ok, given, steps, steps)
        return bool(answer) and int(answer[1]) == truth, int(answer[1]) if answer else -1, step_ok

    return verify


def test_sums_for_a_calculator():
    drill.check(calculator(3), verifier(3))
    assert any("*" in prompt for prompt in drill.texts(calculator(3)).prompts)
    with pytest.raises(ValueError, match="1 to 4 digits"):
        calculator(3, digits=5)


def test_the_calculator_answers_its_last_call():
    rng = np.random.default_rng(0)
    calls = [f"{a}{op}{b}" for a, b in rng.integers(0, 99999, (20, 2)) for op in "+*"]
    calls += ["1+", "1-2", "999999999+1", "99999*99999", "1234567890+1", "", "2+3]"]
    texts = [f"[1+1]2;[{call}]" for call in calls] + ["no call", "[2*3"]
    tokens, valid = drill.slotted(texts, 40, rng)
    found = jax.jit(jax.vmap(respond))(jnp.array(tokens), jnp.array(valid))
    for text, row in zip(texts, zip(*map(np.asarray, found), strict=True), strict=True):
        last = text.rsplit("[", 1)[-1] if "[" in text else ""
        good = re.fullmatch(r"(\d{1,9})([+*])(\d{1,9})\]", last)
        result = DO[good[2]](int(good[1]), int(good[3])) if good else LARGEST + 1
        assert symbols.text(*row) == (str(result) if result <= LARGEST else "!"), text
