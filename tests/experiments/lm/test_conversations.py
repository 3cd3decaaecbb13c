"""Conversations against a replay of them in Python, line by line."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lm import conversations as c
from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.chained import chained

RECIPE = c.Recipe(
    modulus=5,
    depths=(1, 2),
    error_rates=(0.0, 0.5, 1.0),
    kept=(0.5, 0.0, 1.0),
    fixed=(0.5, 1.0, 0.0),
    requests=(0.4, 0.3, 0.3),
    attempts=3,
    cut=0.4,
    filler=0.3,
    judged=0.5,
    voted=0.3,
    told=2,
)
ROWS, NUMBER, SLOTS = 96, 3, 72
APPLY = {"+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y}


@functools.cache
def packed():
    row = functools.partial(c.packed, RECIPE, number=NUMBER, slots=SLOTS)
    return jax.tree.map(np.array, jax.jit(jax.vmap(row))(jax.random.split(jax.random.key(0), ROWS)))


@functools.cache
def texts():
    """Characters and marks of the own ones, of every conversation that is whole."""
    found = []
    for tokens, valid, own in zip(*packed()[:3], strict=True):
        for number in range(1, valid.max()):
            here = valid == number
            marks = "".join("^" if mark else " " for mark in own[here])
            found.append((symbols.text(tokens, here), marks))
    return found


def right_and_wrong(left, op, operand):
    right = APPLY[op](left, operand) % 5
    return right, (right + 1 + (left + 2 * operand + "+-*".index(op)) % 4) % 5


def rate(op, operand):
    return RECIPE.error_rates[(3 * operand + 4 * "+-*".index(op)) % 3]


def answer(prompt):
    value, rest = int(prompt[0]), prompt[1:]
    for op, operand in re.findall(r"([+*-])(\d)", rest):
        value = APPLY[op](value, int(operand)) % 5
    return value


def test_every_line_is_what_its_request_allows():
    counts = {}
    for text, _ in texts():
        prompt, response = text.split("?")
        if re.match(r"<|#", response):
            continue
        asked, before = re.findall(r"([+*-])(\d)", prompt), {}
        for request, said in re.findall(r"(^|[~!:])([^~!:]*)", response):
            said = re.sub(r"\$.*", "$", said).replace(".", "")
            value, stands = int(prompt[0]), {}
            for number, line in enumerate(re.findall(r"[^;]*;", said)):
                (op, operand), match = asked[number], re.match(r"(\d)(.)(\d)=(\d);$", line)
                assert match.groups()[:3] == (str(value), op, operand)
                right, wrong = right_and_wrong(value, op, int(operand))
                result = int(match[4])
                assert result in (right, wrong)
                old = before.get(number)
                if old and old[0] == value:
                    kind = (request, old[1] == right)
                else:
                    kind = ("new", rate(op, int(operand)))
                counts.setdefault(kind, []).append(result == right)
                stands[number] = (value, result)
                value = result
            if "#" in said and said.endswith("$"):
                assert said.endswith(f"#{value}$") and len(stands) == len(asked)
            before |= stands
    expected = {("new", x): 1 - x for x in (0.0, 0.5, 1.0)}
    for i, request in enumerate("~!:"):
        expected |= {(request, True): RECIPE.kept[i], (request, False): RECIPE.fixed[i]}
    assert counts.keys() == expected.keys()
    for kind, share in expected.items():
        spread = 3 * (share * (1 - share) / len(counts[kind])) ** 0.5
        assert abs(np.mean(counts[kind]) - share) <= spread, kind


def test_only_attempts_and_verdicts_are_to_be_learned():
    for text, own in texts():
        prompt, behind = text.index("?") + 1, text[text.index("?") + 1 :]
        expected = " " * prompt
        if re.match(r"<|#", behind):
            expected += " " * (len(behind) - 1) + "^"
        else:
            expected += re.sub("[^ ]", "^", re.sub("[~!:.&]", " ", behind))
        assert own == expected, text


def test_verdicts_are_true():
    verdicts = []
    for text, _ in texts():
        truth = answer(text.split("?")[0])
        for given, verdict in re.findall(r"#(\d)\$(?:\.#\d\$)?&(.)", text):
            assert verdict == "ft"[int(given) == truth], text
            verdicts.append(verdict)
    assert set(verdicts) == {"t", "f"}


def test_all_that_may_happen_does():
    whole = [text.split("?")[1] for text, _ in texts()]
    for what in (r"^#\d\$&.$", r"^<\d,\d,>#\d\$&.$", r"\$~", r"[^$]~", r"\$!", r"\$:", r"\.\d"):
        assert any(re.search(what, text) for text in whole), what
    for text in whole:
        for restated in re.findall(r"#(\d)\$\.#(\d)\$", text):
            assert restated[0] == restated[1]
        assert len(re.findall("[~!:]", text)) < RECIPE.attempts


def test_rows_are_full_and_count_their_texts():
    examples = packed()
    assert examples.tokens.shape == (ROWS, SLOTS)
    assert (examples.weight == 1).all()
    for valid in examples.valid:
        used = valid[valid > 0]
        assert (valid[: len(used)] > 0).all() and (np.diff(used) >= 0).all()
        assert set(used) == set(range(1, used.max() + 1))
    assert (examples.valid > 0).mean() > 0.6


def padded(text, slots=48):
    tokens = symbols.ids(text)
    return np.pad(tokens, (0, slots - len(tokens))), np.arange(slots) < len(tokens)


@pytest.mark.parametrize(
    ("response", "kept", "found"),
    [
        ("3+4=2;#2$", "3+4=2;#2$", 2),
        ("3+4=1;#1$~3+4=2;#2$", "3+4=2;#2$", 2),
        ("3+4=1;#1$~3+4=2;", "3+4=1;#1$", 1),
        ("3+4~3+4=2;#2$:3", "3+4=2;#2$", 2),
        ("3+.4=2;#2$", "3+4=2;#2$", 2),
        ("3+4=2;#2$.#2$", "#2$", 2),
        ("3+4=2;#2$!", "3+4=2;#2$", 2),
        ("3+4=2;#2", "", -1),
        ("3+4=2;2$", "3+4=2;2$", -1),
        ("", "", -1),
    ],
)
def test_the_last_finished_attempt_counts(response, kept, found):
    tokens, valid = padded(response)
    last, answered = _last(tokens, valid)
    assert symbols.text(tokens, last) == kept
    assert answered == found


@jax.jit
def _last(tokens, valid):
    return c.last_attempt(tokens, valid), c.answered(RECIPE, tokens, valid)


def test_questions_are_those_of_the_task():
    @jax.jit
    def drawn(key):
        question = jax.vmap(functools.partial(c.ask, RECIPE))(jax.random.split(key, 32))
        return question, jax.vmap(functools.partial(c.prompt, RECIPE))(question)

    questions, prompts = drawn(jax.random.key(1))
    assert set(questions.depth.tolist()) == {1, 2}
    chain = questions.chain
    for i in range(32):
        depth = int(questions.depth[i])
        one = type(chain)(chain.start[i], chain.op[i, :depth], chain.operand[i, :depth])
        text = symbols.text(prompts.tokens[i], prompts.valid[i])
        expected = f"{one.start}"
        for op, operand in zip(one.op, one.operand, strict=True):
            expected += f"{'+-*'[op]}{operand}"
        assert text == expected + "?" and answer(text) == questions.answer[i]
    task = chained(depth, RECIPE.modulus)
    assert text == symbols.text(*task.encode(one))
    right = c.answer_text(RECIPE, questions.answer[-1])
    whole = c.text_of(RECIPE, jax.tree.map(lambda x: x[-1], questions), _lines_of(text))
    assert symbols.text(*whole) == symbols.text(*task.solve(one))
    assert symbols.text(*whole).endswith(symbols.text(*right))


def _lines_of(prompt):
    value, lines = int(prompt[0]), []
    for op, operand in re.findall(r"([+*-])(\d)", prompt):
        lines.append((value, APPLY[op](value, int(operand)) % 5))
        value = lines[-1][1]
    lines += [(value, value)] * (2 - len(lines))
    left, result = jnp.array(lines).T
    return c.Lines(left, result, left >= 0)


def test_shares_are_those_of_the_recipe():
    recipe = RECIPE._replace(requests=(0.7, 0.2, 0.1), judged=0.9, voted=0.2, filler=0.0)
    keys = jax.random.split(jax.random.key(3), 600)
    part = jax.jit(jax.vmap(functools.partial(c.conversation, recipe)))(keys)
    said = [symbols.text(*row).split("?")[1] for row in zip(*part.text, strict=True)]
    talks = [x for x in said if not re.match("<|#", x)]
    asked = [x for talk in talks for x in talk if x in "~!:"]
    ends = [x for talk in talks for x in re.findall(r"\$(&?)", talk)]
    whole = [x == "$" for talk in talks for x in re.findall(r"(.)(?:&.)?[~!:]", "|" + talk)]

    def near(hits, share):
        return abs(np.mean(hits) - share) < 4 * (share * (1 - share) / len(hits)) ** 0.5

    assert near([re.match("<|#", x) is not None for x in said], 0.2)
    assert near([x == "&" for x in ends], 0.9) and near(whole, 1 - recipe.cut)
    assert all(
        near([x == r for x in asked], p) for r, p in zip("~!:", recipe.requests, strict=True)
    )
