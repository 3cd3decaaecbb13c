"""The numbers of an exam against loops over questions, and an exam of a model in closed form."""

import functools

import jax
import numpy as np
import pytest

from experiments.lm import abilities, conversations
from experiments.lm.abilities import Exam
from tests.experiments.lm.answering import RECIPE
from tests.experiments.lm.table_policy import MODEL, table


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


def test_an_exam_of_a_model_whose_answers_are_known():
    """It guesses 3 or 4, again after "~"; what it says after "!" and ":" is no answer."""
    params = table(
        {
            "?": {"#": 1.0},
            "#": {"3": 0.7, "4": 0.3},
            "3": {"$": 1.0},
            "4": {"$": 1.0},
            "&": {"t": 0.6, "f": 0.2, ".": 0.2},
            "~": {"#": 1.0},
            "!": {"$": 1.0},
            ":": {"4": 1.0},
        }
    )
    questions, samples, key = 150, 20, jax.random.key(2)
    examine = functools.partial(abilities.examine, MODEL, RECIPE)
    found = jax.jit(examine, static_argnums=(2, 3))(params, key, questions, samples)
    asked = jax.jit(jax.vmap(functools.partial(conversations.ask, RECIPE)))(
        jax.random.split(jax.random.split(key)[0], questions)
    )
    answer = np.asarray(asked.answer)
    np.testing.assert_array_equal(found.depth, asked.depth)
    np.testing.assert_array_equal(found.greedy, answer == 3)
    assert found.first.shape == found.judged.shape == (questions, samples)
    np.testing.assert_allclose(found.judged, 0.75, rtol=1e-5)
    again, said_nothing, no_answer = np.moveaxis(np.asarray(found.second), -1, 0)
    assert not said_nothing.any() and not no_answer.any()
    for value, chance in ((3, 0.7), (4, 0.3)):
        first, second = np.asarray(found.first)[answer == value], again[answer == value]
        noise = 4 * np.sqrt(chance * (1 - chance) / first.size)
        assert abs(first.mean() - chance) < noise and abs(second.mean() - chance) < noise
        assert (first != second).any()
    other = ~np.isin(answer, (3, 4))
    assert not np.asarray(found.first)[other].any() and not again[other].any()
