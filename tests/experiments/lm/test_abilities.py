"""The numbers of an exam against loops over questions."""

import numpy as np
import pytest

from experiments.lm import abilities
from experiments.lm.abilities import Exam


def exam(seed):
    rng = np.random.default_rng(seed)
    first = rng.random((20, 3)) < 0.4
    second = rng.random((20, 3, 3)) < np.where(first, 0.9, 0.3)[..., None]
    judged = np.where(first, 0.6, 0.4) + rng.normal(size=(20, 3)) * 0.1
    return Exam(np.arange(20) % 2 + 2, first[:, 0], first, second, judged)


def test_numbers_are_those_of_a_loop():
    exams = [exam(0), exam(1)]
    found = abilities.measured(exams)
    counts = {}
    for one in exams:
        for q in range(20):
            for s in range(3):
                right = one.first[q, s]
                counts.setdefault("accuracy", []).append(right)
                counts.setdefault(f"accuracy_{one.depth[q]}_steps", []).append(right)
                for i, name in enumerate(("neutral", "doubt", "trust")):
                    what = f"{'kept' if right else 'fixed'}_{name}"
                    counts.setdefault(what, []).append(one.second[q, s, i])
    for name, values in counts.items():
        assert found[name].value == pytest.approx(np.mean(values)), name
        assert found[name].low < found[name].value < found[name].high
    assert found["accuracy_greedy"].value == np.mean([one.greedy for one in exams])
    pairs = [(x, y) for one in exams for x, y in zip(one.judged, one.first, strict=True)]
    judged, right = (np.concatenate(x) for x in zip(*pairs, strict=True))
    wins = [a > b for a in judged[right] for b in judged[~right]]
    assert found["judgement_auroc"].value == pytest.approx(np.mean(wins))


def test_a_model_that_is_always_right_cannot_be_judged():
    one = exam(0)
    found = abilities.measured([one._replace(first=np.ones_like(one.first))])
    assert np.isnan(found["judgement_auroc"].value) and np.isnan(found["fixed_doubt"].value)
    assert "judgement_auroc" in abilities.shown(found)
