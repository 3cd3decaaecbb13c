"""Texts for second attempts."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lm import correcting
from experiments.lm.abilities import Exam
from experiments.lm.answers import Start
from jaxrl.lm.tasks import symbols
from jaxtrain.host.config import load
from tests.experiments.lm.answering import RECIPE, pool, prompts, truth


@pytest.mark.parametrize(("kept", "plain"), [(0.0, 0.0), (1.0, 0.0), (0.5, 0.0), (0.5, 1.0)])
def test_the_right_attempt_follows_and_only_it_is_learned(kept, plain):
    of = pool()
    draw = jax.vmap(lambda key: correcting.row(RECIPE, kept, plain, of, key))
    found, right = jax.jit(draw)(jax.random.split(jax.random.key(2), 48)), []
    for tokens, valid, mask, weight in zip(*found, strict=True):
        said = symbols.text(tokens, valid)
        learned = symbols.text(tokens, np.asarray(mask))
        assert said.endswith(learned) and weight == 1
        prompt, _, rest = said.removesuffix(learned).partition("?")
        assert prompt + "?" in prompts()
        assert learned.endswith(f"#{truth(prompt + '?')}$")
        for line in learned.split(";")[:-1]:
            left, result = line.split("=")
            assert int(result) == truth(left + "?")
        if plain:
            assert not rest
        else:
            assert rest.endswith("$~")
            right.append(int(rest[-3]) == truth(prompt + "?"))
    if not plain:
        assert np.mean(right) == kept if kept in (0, 1) else 0.2 < np.mean(right) < 0.8


FIRST = np.array([[1, 1, 1, 0], [1, 1, 0, 1], [0, 1, 1, 0]], bool)  # 8 of 12


def hand_made(model, recipe, params, key, questions, samples):
    """The base turns every answer over; trained all become right, stay, or become wrong."""
    assert (questions, samples) == FIRST.shape
    trained = np.stack([FIRST | True, FIRST, FIRST & False], -1)
    base = np.repeat(~FIRST[..., None], 3, -1)
    return Exam(np.ones(3), FIRST[:, 0], FIRST, jnp.where(params == 1, trained, base), None)


def test_printed_shares_are_those_of_their_request_and_their_model(tmp_path, monkeypatch):
    start, drawn = Start(None, RECIPE, lambda: jnp.zeros(())), {}
    monkeypatch.setattr(correcting.answers, "begun_with", lambda name: start)
    monkeypatch.setattr(correcting.abilities, "examine", hand_made)
    monkeypatch.setattr(correcting, "draw_plane", lambda found, *_: drawn.update(found))
    given = "critique_debug,evaluation.num_questions=3,evaluation.num_samples=4"
    config, _ = load(f"configs/lm_judges.py:{given}")
    system = correcting.training(config, SimpleNamespace(sweep=None))
    state = SimpleNamespace(params=jnp.ones(()))
    run = SimpleNamespace(state=state, key=jax.random.key(0), workdir=tmp_path)
    found = system.evaluate(run)
    assert list(found) == ["base", "trained"] == list(drawn)
    value = lambda setting, name: found[setting][name]["value"]
    shares = {  # CL, CS, right at second, right to wrong, wrong to right
        ("trained", "neutral"): (1, 1, 1, 0, 4 / 12),
        ("trained", "doubt"): (1, 0, 8 / 12, 0, 0),
        ("trained", "trust"): (0, 0, 0, 8 / 12, 0),
        ("base", "neutral"): (0, 1, 4 / 12, 8 / 12, 4 / 12),
        ("base", "trust"): (0, 1, 4 / 12, 8 / 12, 4 / 12),
    }
    for (setting, request), expected in shares.items():
        names = ("confidence", "critique", "second", "right_to_wrong", "wrong_to_right")
        shown = [value(setting, f"{request}_{name}") for name in names]
        assert shown == pytest.approx(expected)
        assert value(setting, f"{request}_first") == pytest.approx(8 / 12)
    assert value("trained", "copied_relative") == pytest.approx(0.5)
    assert value("trained", "doubt_relative") == pytest.approx(0.5)
    assert value("trained", "neutral_relative") == pytest.approx((1 - 4 / 9) / (4 / 9))
