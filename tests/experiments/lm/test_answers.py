"""Questions of a domain, and hints, as text."""

import jax

from experiments.lm import answers
from jaxrl.lm.tasks import symbols
from tests.experiments.lm.answering import RECIPE, pool, truth


def test_hints_are_the_first_lines_and_a_wrong_one_ends_them():
    question = jax.tree.map(lambda x: x[0], pool().question)
    tell = jax.jit(lambda depth, *told: answers.hint(RECIPE, at(depth), 2, *told))
    at = lambda depth: question._replace(depth=depth)
    value = symbols.text(*answers.conversations.prompt(RECIPE, question))[0]
    for depth, number in ((2, 1), (2, 2), (1, 2)):
        lines, wrong = (
            symbols.text(*tell(depth, number, x)).split(";")[:-1] for x in (False, True)
        )
        assert len(lines) == len(wrong) == min(depth, number) and lines[:-1] == wrong[:-1]
        assert lines[0][0] == value
        for line in lines:
            left, result = line.split("=")
            assert int(result) == truth(left + "?")
        assert wrong[-1][:-1] == lines[-1][:-1] and wrong[-1] != lines[-1]
    assert not tell(2, 0, True).valid.any()


def test_questions_of_a_domain_have_its_operators_only():
    keys = jax.random.split(jax.random.key(0), 20)
    for operators, signs in (((0, 1), set("+-")), ((2,), set("*"))):
        asked = jax.jit(jax.vmap(lambda k, o=operators: answers.ask(RECIPE, o, k)))(keys)
        texts = jax.jit(jax.vmap(lambda q: answers.conversations.prompt(RECIPE, q)))(asked)
        said = [symbols.text(*row) for row in zip(*texts, strict=True)]
        assert {x for text in said for x in text if x in "+-*"} == signs
        assert [truth(text) for text in said] == list(map(int, asked.answer))
