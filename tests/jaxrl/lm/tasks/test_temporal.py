"""Questions about time beside regular expressions and the calendar of Python's integers."""

import re

import jax
import pytest

from jaxrl.lm.tasks.temporal import KINDS, temporal
from tests.jaxrl.lm.tasks import drill

DO = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "%": lambda a, b: a % b}


def understood(prompt):
    """The equations that are due, as (left, operator, right), left None if open; right option."""
    head, tail = prompt.split("?")
    options = [tuple(map(int, re.findall(r"\d+", x))) for x in tail.split(",")[:-1]]
    if head[0] in "hw":
        a, b = map(int, head[1:].split("+"))
        m = 24 if head[0] == "h" else 7
        return [(a, "+", b), (None, "%", m)], options.index(((a + b) % m,))
    if head[0] == "i":
        lengths = [e - s for s, e in options]
        return [(e, "-", s) for s, e in options], lengths.index(max(lengths))
    wanted = sorted(options)[int(head[1:]) - 1]
    return [], options.index(wanted)


def verify(prompt, response):
    due, truth = understood(prompt)
    lines, last, given = drill.cut(response, 4, 29)
    ok, before = [], None
    for (left, op, right), line in zip(due, lines, strict=False):
        found = re.fullmatch(r"(\d{1,9})([-+%])(\d{1,9})=(\d{1,9})", line)
        left = before if left is None else left
        ok.append(bool(found) and left is not None)
        if ok[-1]:
            result = DO[op](left, right)
            fits = (int(found[1]), found[2], int(found[3])) == (left, op, right)
            ok[-1] = fits and int(found[4]) == result
        before = int(found[4]) if found else None
    answer = re.fullmatch(r"#([abcd])", last or "")
    option = "abcd".index(answer[1]) if answer else -1
    ok += [False] * 4
    return option == truth, option, drill.steps_right(ok, given, len(due), 4)


def test_questions_about_time():
    task = temporal()
    drill.check(task, verify)
    prompts = drill.texts(task).prompts
    assert {prompt[0] for prompt in prompts} == set("hwie")
    for prompt in prompts:
        options = prompt.split("?")[1].split(",")[:-1]
        assert len({option[1:] for option in options}) == 4
    places = [understood(prompt)[1] for prompt in prompts]
    assert all(places.count(option) > 4 for option in range(4))


def test_kinds_can_be_chosen():
    sample = jax.jit(temporal(["order"]).sample, static_argnums=1)
    assert (sample(drill.KEY, 9).kind == KINDS.index("order")).all()
    with pytest.raises(ValueError, match=r"no questions about \['moon'\]"):
        temporal(["moon"])
