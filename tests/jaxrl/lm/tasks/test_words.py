"""Word problems beside regular expressions on their sentences."""

import re

import pytest

from jaxrl.lm.tasks.words import word_problems
from tests.jaxrl.lm.tasks import drill

WORDS = {"plus": "+", "less": "-", "times": "*"}
DO = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def understood(prompt):
    """The needed quantities in their order, as (letter, operator, operand), and the asked value."""
    *told, asked = prompt.split(",")
    base, made = {}, {}
    for sentence in told:
        if found := re.fullmatch(r"(\w) is (\d+)", sentence):
            base[found[1]] = int(found[2])
        else:
            letter, source, word, number = re.fullmatch(
                r"(\w) is (\w) (plus|less|times) (\d+)", sentence
            ).groups()
            made[letter] = source, WORDS[word], int(number)
    chain, now = [], asked[0]
    while now in made:
        source, op, number = made[now]
        chain, now = [(now, op, number), *chain], source
    value = base[now]
    chain = [(now, "", value), *chain]
    for _, op, number in chain[1:]:
        value = DO[op](value, number)
    return chain, value


def verifier(depth):
    def verify(prompt, response):
        chain, truth = understood(prompt)
        steps = depth + 1
        lines, last, given = drill.cut(response, steps, 31)
        ok, before = [], None
        for (letter, op, number), line in zip(chain, lines, strict=False):
            if op:
                found = re.fullmatch(r"(\w)=(\d{1,9})([-+*])(\d{1,9})=(\d{1,9})", line)
                fits = found and before is not None and found[1] == letter
                fits = fits and (int(found[2]), found[3], int(found[4])) == (before, op, number)
                fits = fits and before < 10**7 and int(found[5]) == DO[op](before, number)
                before = int(found[5]) if found else None
            else:
                found = re.fullmatch(r"(\w)=(\d{1,9})", line)
                fits = found and found[1] == letter and int(found[2]) == number
                # A letter of another name does not begin a chain.
                before = int(found[2]) if found and found[1] == letter else None
            ok.append(fits)
            if op and found and found[1] != letter:
                before = None
        answer = re.fullmatch(r"#(\d{1,9})", last or "")
        step_ok = drill.steps_right(ok, given, steps, steps)
        return bool(answer) and int(answer[1]) == truth, int(answer[1]) if answer else -1, step_ok

    return verify


@pytest.mark.parametrize(
    ("depth", "distractors"), [(3, 2), pytest.param(0, 1, marks=pytest.mark.ci)]
)
def test_word_problems(depth, distractors):
    task = word_problems(depth, distractors)
    drill.check(task, verifier(depth))
    prompts = drill.texts(task).prompts
    assert all(prompt.count(" is ") == depth + 1 + distractors for prompt in prompts)
    assert all(len(understood(prompt)[0]) == depth + 1 for prompt in prompts)


def test_too_many_quantities_are_refused():
    with pytest.raises(ValueError, match="27 quantities"):
        word_problems(20, 6)
