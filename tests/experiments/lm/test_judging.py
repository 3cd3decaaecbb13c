"""What a model is asked to judge, as text."""

import functools
import re

import jax
import numpy as np

from experiments.lm import judging
from jaxrl.lm.tasks import symbols
from tests.experiments.lm.answering import RECIPE, pool, prompts, truth

FORMS = {
    "attempt": re.compile(r"^([^?]*\?)([^<]*;)#(\d)\$&([tf])$"),
    "answer": re.compile(r"^([^?]*\?)()#(\d)\$&([tf])$"),
    "told": re.compile(r"^([^?]*\?)<(?:\d,){3}>#(\d)\$&([tf])$"),
}


@functools.cache
def rows(shuffled):
    of = pool()
    draw = jax.jit(jax.vmap(lambda key: judging.row(RECIPE, shuffled, of, key)))
    return draw(jax.random.split(jax.random.key(2), 96))


def test_rows_are_judgements_in_three_forms_and_only_the_verdict_is_learned():
    found, seen = rows(0.0), dict.fromkeys(FORMS, 0)
    known = {p: sorted(map(int, a)) for p, a in zip(prompts(), pool().answer, strict=True)}
    for tokens, valid, mask in zip(found.tokens, found.valid, found.mask, strict=True):
        said = symbols.text(tokens, valid)
        (form,) = [name for name, shape in FORMS.items() if shape.match(said)]
        groups = FORMS[form].match(said).groups()
        prompt, answer, verdict = groups[0], int(groups[-2]), groups[-1]
        assert answer in known[prompt]
        assert verdict == ("t" if answer == truth(prompt) else "f")
        if form == "told":
            told = map(int, re.search(r"<(.*),>", said).group(1).split(","))
            assert sorted([*told, answer]) == known[prompt]  # all others, and not this one
        np.testing.assert_array_equal(np.flatnonzero(mask), [len(tokens) - 1])
        seen[form] += 1
    assert min(seen.values()) > 10


def test_shuffled_verdicts_say_nothing_of_their_answers():
    found = rows(1.0)
    agree = []
    for tokens, valid in zip(found.tokens, found.valid, strict=True):
        said = symbols.text(tokens, valid)
        answer, verdict = re.search(r"#(\d)\$&([tf])$", said).groups()
        agree.append((verdict == "t") == (int(answer) == truth(said.partition("?")[0] + "?")))
    assert 0.3 < np.mean(agree) < 0.7
