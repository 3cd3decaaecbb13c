"""What a model is asked to judge, as text, and its verdicts."""

import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lm import judging
from experiments.lm.answers import Answers, Start
from jaxrl.lm.learners import LearnerState
from jaxrl.lm.tasks import symbols
from jaxtrain.host import sweep
from jaxtrain.host.config import load
from tests.experiments.lm.answering import MODEL, RECIPE, pool, prompts, read, truth, weights

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


def test_a_verdict_is_the_chance_of_true_against_false():
    """Of every sample in every form, against texts that are read without empty slots."""
    of = pool()
    questions, samples = of.answer.shape
    turn = (np.arange(samples)[:, None] + 1 + np.arange(RECIPE.told)) % samples
    others = np.asarray(of.answer)[:, turn]
    judged = jax.jit(functools.partial(judging.verdicts, Start(MODEL, RECIPE, weights)))
    texts = []
    for form in FORMS:
        for question, prompt in enumerate(prompts()):
            for sample in range(samples):
                said = f"#{of.answer[question, sample]}$"
                if form == "attempt":
                    attempt = jax.tree.map(lambda x, i=(question, sample): x[i], of.attempt)
                    said = symbols.text(*attempt)  # which ends with the answer
                told = "".join(f"{answer}," for answer in others[question, sample])
                texts.append(prompt + f"<{told}>" * (form == "told") + said + "&")
    assert all(FORMS[form].match(texts[i * len(texts) // 3] + "t") for i, form in enumerate(FORMS))
    logits = read(texts)[1]
    true, false = (logits[:, symbols.ids(x)[0]] for x in "tf")
    expected = (1 / (1 + np.exp(false - true))).reshape(3, questions, samples)
    found = [judged(weights(), of, others, jnp.int32(form)) for form in range(3)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (expected.std((1, 2)) > 1e-4).all()


RIGHT = np.array([[1, 1, 1, 0], [1, 1, 0, 1], [0, 1, 1, 1]], bool)  # of 3 questions
BY_NUMBER = 10 * np.arange(3)[:, None] + np.arange(4)  # an answer says whose it is


def hand_made(start, params, key, questions, samples, operators):
    """Products are answered wrong where sums are right; only the base answers."""
    assert (questions, samples) == RIGHT.shape
    mostly = jnp.where(operators[0] == 2, ~RIGHT, RIGHT) & (params == 0)
    return Answers(None, None, None, jnp.asarray(BY_NUMBER), mostly)


def confident(start, params, of, others, form):
    """The base knows nothing; trained are full attempts known, bare answers mistaken, and with
    others told all depends on whose they are. The second trial says the opposite of the first."""
    right = jnp.where(of.correct, 0.9, 0.2)
    turn = (np.arange(4)[:, None] + 1 + np.arange(3)) % 4
    own = (others == of.answer[:, turn]).all(-1)
    strange = (others // 10 != of.answer[..., None] // 10).all(-1)
    told = jnp.where(own, right, jnp.where(strange, 0.5, 1.1 - right))
    said = jnp.select([form == 0, form == 1], [right, 1.1 - right], told)
    return jnp.select([params == 1, params == 2], [said, 1.1 - said], 0.5)


def test_every_printed_area_is_of_its_form_its_domain_and_its_model(tmp_path, monkeypatch):
    start, drawn = Start(None, RECIPE, lambda: jnp.zeros(())), {}
    monkeypatch.setattr(judging.answers, "begun_with", lambda name: start)
    monkeypatch.setattr(judging.answers, "drawn", hand_made)
    monkeypatch.setattr(judging, "verdicts", confident)
    monkeypatch.setattr(judging, "draw_reliability", lambda tables, *_: drawn.update(tables))
    config, _ = load("configs/lm_judges.py:p_true_debug,evaluation.num_questions=3,pool.samples=4")
    with config.unlocked():
        config.evaluation.num_samples = 4
    axes = sweep.parse("shuffled=0,1", ["shuffled"])
    system = judging.training(config, SimpleNamespace(sweep=axes))
    state = LearnerState(jnp.array([1.0, 2.0]), ())
    run = SimpleNamespace(state=state, key=jax.random.key(0), workdir=tmp_path)
    found = system.evaluate(run)
    assert list(found) == ["base", "shuffled=0", "shuffled=1"]
    forms = {"attempt": 1.0, "answer": 0.0, "told": 1.0, "told_of_others": 0.5}
    for domain, share in (("own", 0.75), ("across", 0.25)):
        for form, area in forms.items():
            name = f"{domain}_{form}_auroc"
            areas = [found[setting][name]["value"] for setting in found]
            assert areas == pytest.approx([0.5, area, 1 - area])
            assert found["base"][f"{domain}_{form}_right"]["value"] == share
            assert found["base"][f"{domain}_{form}_brier"]["value"] == 0.25
            mistaken = found["shuffled=0"][f"{domain}_{form}_brier"]["value"]
            known = share * 0.01 + (1 - share) * 0.04
            opposite = share * 0.64 + (1 - share) * 0.81
            expected = {1.0: known, 0.0: opposite, 0.5: 0.25}[area]
            assert mistaken == pytest.approx(expected, abs=1e-6)
        for form, gain in (("told", 1.0), ("told_of_others", 0.5)):
            gains = [found[s][f"{domain}_auroc_gain_{form}"]["value"] for s in found]
            assert gains == pytest.approx([0, gain, -gain])
    confidence, right = drawn["shuffled=0", "own"]
    np.testing.assert_allclose(confidence, np.where(RIGHT, 0.9, 0.2)[None], rtol=1e-6)
    np.testing.assert_array_equal(right, RIGHT[None])
