"""Facts of a made-up world beside a dictionary of its sentences."""

import re

import jax
import numpy as np
import pytest

from jaxrl.lm.tasks import facts
from tests.jaxrl.lm.tasks import drill

WORLD = facts.world(3, 40, 4, known_share=0.6)
SAID = {(e, "abcd"[r]): int(v) for (e, r), v in np.ndenumerate(np.asarray(WORLD.value))}


def verifier(hops):
    def verify(prompt, response):
        entity, relations = re.fullmatch(r"(\d+)([a-d]+)\?", prompt).groups()
        truth = before = int(entity)
        for relation in relations:
            truth = SAID[truth, relation]
        lines, last, given = drill.cut(response, hops, 20)
        ok = []
        for relation, line in zip(relations, lines, strict=False):
            found = re.fullmatch(r"(\d{1,9})(\D)=(\d{1,9})", line)
            fits = found and (int(found[1]), found[2]) == (before, relation)
            ok.append(fits and before in range(40) and SAID[before, relation] == int(found[3]))
            before = int(found[3]) if found else None
        answer = re.fullmatch(r"#(\d{1,9})", last or "")
        step_ok = drill.steps_right(ok, given, hops, hops)
        return bool(answer) and int(answer[1]) == truth, int(answer[1]) if answer else -1, step_ok

    return verify


def test_facts():
    drill.check(facts.questions(WORLD, 2), verifier(2))


def test_a_way_is_known_if_all_its_facts_are():
    sample = jax.jit(facts.questions(WORLD, 2).sample, static_argnums=1)
    problems = sample(drill.KEY, 200)
    found = np.asarray(jax.jit(jax.vmap(facts.way, (None, 0)))(WORLD, problems)[1])
    known = np.asarray(WORLD.known)
    for i, (entity, (r, s)) in enumerate(zip(*map(np.asarray, problems), strict=True)):
        assert found[i] == (known[entity, r] and known[SAID[entity, "abcd"[r]], s])
    assert 0.2 < found.mean() < 0.5 and abs(known.mean() - 0.6) < 0.15
    with pytest.raises(ValueError, match="no names for all"):
        facts.world(0, 40, 27)
