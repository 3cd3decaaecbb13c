"""What P(IK) learns from, where it is read, and what is printed of it."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lm import knowing
from experiments.lm.answers import Answers, Start
from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.symbols import Symbols
from jaxtrain.host.config import load
from jaxtrain.lm.heads import Head
from tests.experiments.lm.answering import MODEL, RECIPE, pool, prompts, read, weights


@pytest.mark.parametrize("shuffled", [0.0, 1.0])
def test_labels_are_shares_of_right_answers_after_the_last_token(shuffled):
    of = pool()
    draw = jax.jit(jax.vmap(lambda key: knowing.row(shuffled, of, key)))
    found = draw(jax.random.split(jax.random.key(3), 64))
    share, same = dict(zip(prompts(), np.asarray(of.correct).mean(1), strict=True)), []
    for tokens, valid, mask, label in zip(*found, strict=True):
        (last,) = np.flatnonzero(mask)
        assert last == np.flatnonzero(valid).max()
        same.append(np.isclose(label[last], share[symbols.text(tokens, valid)]))
    assert np.mean(same) == 1 if shuffled == 0 else np.mean(same) < 0.7


def test_what_is_known_is_read_after_the_last_symbol_of_the_question():
    weight, bias = np.linspace(-1, 1, 8, dtype=np.float32), np.float32(0.2)
    params = weights(), Head(jnp.asarray(weight), jnp.asarray(bias))
    known = jax.jit(functools.partial(knowing.known, Start(MODEL, RECIPE, weights)))
    hidden, _ = read(prompts())
    assert len(set(map(len, prompts()))) > 1
    expected = 1 / (1 + np.exp(-(hidden @ weight + bias)))
    np.testing.assert_allclose(known(params, pool().prompt), expected, atol=1e-5)
    assert np.ptp(expected) > 0.01


WIDTH = 6  # of a line, `3+4=7;`
RIGHT = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool)  # of 3 questions


def lines_of(text):
    """How many lines a hint `[Q, S]` has, and whether the result of the last one is wrong."""
    number = ((text.tokens == symbols.STEP) & text.valid).sum(1)
    begin = jnp.maximum(number - 1, 0)[:, None] * WIDTH
    a, op, b, _, result, _ = jnp.take_along_axis(text.tokens, begin + jnp.arange(WIDTH)[None], 1).T
    a, b, result = (x - symbols.ZERO for x in (a, b, result))
    plus = jnp.where(op == symbols.ids("+")[0], a + b, a - b)
    return number, (number > 0) & (plus % 10 != result)


def drawn_by_hand(start, params, key, questions, samples, operators):
    """Every sample of a question is right or none; products the other way round."""
    assert (questions, samples) == RIGHT.shape
    correct = jnp.where(operators[0] == 2, ~RIGHT, RIGHT)
    asked = jnp.where(correct[:, :1], *symbols.ids("tf"))
    return Answers(None, Symbols(asked, asked > 0), None, None, correct)


def answered_by_hand(start, params, asked, key, samples, hints):
    """Of four samples one is right per told line, and two more if the last of them is wrong."""
    number, wrong = lines_of(hints)
    assert (samples, hints.tokens.shape) == (4, (15, 2 * WIDTH))
    correct = jnp.arange(samples)[None] < (number + 2 * wrong)[:, None]
    return Answers(None, hints, None, None, correct)


def known_by_hand(start, params, text):
    """0.9 where a question is answered right, 0.3 else; a tenth per line and half of one if the
    last is wrong."""
    if text.tokens.shape[1] == 1:
        return jnp.where(text.tokens[:, 0] == symbols.ids("t")[0], 0.9, 0.3) * params
    number, wrong = lines_of(text)
    return 0.1 * number + 0.05 * wrong


def test_what_is_printed_of_hints_and_domains_is_what_was_known(tmp_path, monkeypatch):
    recipe = RECIPE._replace(depths=(2, 3))
    start, tables = Start(None, recipe, lambda: jnp.zeros(())), {}
    monkeypatch.setattr(knowing.answers, "begun_with", lambda name: start)
    monkeypatch.setattr(knowing.answers, "drawn", drawn_by_hand)
    monkeypatch.setattr(knowing.answers, "answered", answered_by_hand)
    monkeypatch.setattr(knowing, "known", known_by_hand)
    monkeypatch.setattr(knowing, "draw_reliability", lambda found, *_: tables.update(found))
    monkeypatch.setattr(knowing, "draw_hints", lambda *_: None)
    given = "debug,hints=2,evaluation.num_questions=3"
    config, _ = load(f"configs/lm_judges.py:{given}")
    with config.unlocked():
        config.evaluation.num_samples = 4
    system = knowing.training(config, SimpleNamespace(sweep=None))
    state = SimpleNamespace(params=jnp.ones(()))
    run = SimpleNamespace(state=state, key=jax.random.key(0), workdir=tmp_path)
    found = {name: x["value"] for name, x in system.evaluate(run)["trained"].items()}
    for domain, share in (("own", 2 / 3), ("across", 1 / 3)):
        assert found[f"{domain}_auroc"] == 1
        assert found[f"{domain}_right"] == pytest.approx(share)
        assert found[f"{domain}_right_if_trusted"] == 1
        brier = share * 0.01 + (1 - share) * 0.09
        assert found[f"{domain}_brier"] == pytest.approx(brier, abs=1e-6)
    for n, kind, known, right in (
        (0, "right", 0.0, 0.0),
        (1, "right", 0.1, 0.25),
        (2, "right", 0.2, 0.5),
        (1, "wrong", 0.15, 0.75),
        (2, "wrong", 0.25, 1.0),
    ):
        assert found[f"known_after_{n}_{kind}_lines"] == pytest.approx(known)
        assert found[f"right_after_{n}_{kind}_lines"] == pytest.approx(right)
    for n in (1, 2):
        assert found[f"rise_by_right_line_{n}"] == pytest.approx(0.1)
        assert found[f"against_none_{n}_wrong_lines"] == pytest.approx(0.1 * n + 0.05)
    said, right = tables["trained", "across"]
    np.testing.assert_array_equal(right, ~RIGHT[None])
    np.testing.assert_allclose(said, np.where(RIGHT, 0.3, 0.9)[None], rtol=1e-6)
