"""Sharpening a language model: what its base imitates, its samples, and what is measured of them.

Policies are tables that write `#0$` or `#1$` with a known chance, to sums modulo 2.
"""

import math
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lm import self_reward
from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.chained import chained
from jaxtrain.host.config import load
from tests.experiments.lm.table_policy import MODEL, table

G, TESTED, ZERO = 4, 40, 0.75


def answers(zero):
    return table(
        {
            "?": {"#": 1.0},
            "#": {"0": zero, "1": 1 - zero},
            "0": {"$": 1.0},
            "1": {"$": 1.0},
        }
    )


@pytest.fixture
def policy(monkeypatch):
    monkeypatch.setattr(self_reward, "decoder_of", lambda network: MODEL)
    config, _ = load("configs/lm_reward.py:sharpening_debug")
    sizes = dict(depth=1, modulus=2, room=3, pool=G, test_samples=G, test_problems=TESTED)
    with config.unlocked():
        config.sharpening.update(sizes)
    return self_reward.of_decoder(config.sharpening, config.model)


@jax.jit
def demonstrations(keys, mistakes, systematic):
    options = SimpleNamespace(mistakes=mistakes, systematic=systematic)
    return jax.vmap(lambda key: self_reward.demonstrated(options, chained(1, 5), key))(keys)


@pytest.mark.parametrize(("mistakes", "systematic"), [(0.6, 0.0), (0.6, 1.0), (0.0, 0.5)])
def test_as_many_traces_are_wrong_as_are_asked_for_and_in_one_way_or_many(mistakes, systematic):
    found, off = demonstrations(jax.random.split(jax.random.key(0), 400), mistakes, systematic), []
    for tokens, valid, mask, weight in zip(*found, strict=True):
        prompt, trace = symbols.text(tokens, valid & ~mask), symbols.text(tokens, mask)
        a, op, b = re.fullmatch(r"(\d)([-+*])(\d)\?", prompt).groups()
        result = int(re.fullmatch(rf"{a}\{op}{b}=(\d);#\1\$", trace).group(1))
        truth = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[op]
        off.append((result - truth) % 5)
        assert weight == 1
    off = np.array(off)
    assert abs((off > 0).mean() - mistakes) < 4 * (0.25 / 400) ** 0.5
    kinds = set(off[off > 0])
    assert len(kinds) == (0 if not mistakes else 1 if systematic else 4)


def test_samples_come_with_what_their_table_says_of_them(policy):
    draw = jax.jit(lambda params, key: policy.draw(params, jnp.arange(5), key))
    texts, own = draw(answers(ZERO), jax.random.key(1))
    assert own.shape == (5, G) and texts.tokens.shape[:2] == (5, G)
    flat = jax.tree.map(lambda x: x.reshape(5 * G, *x.shape[2:]), texts)
    said = [symbols.text(t, m) for t, m in zip(flat.tokens, flat.mask, strict=True)]
    assert set(said) == {"#0$", "#1$"}
    zero = np.array([x == "#0$" for x in said])
    np.testing.assert_allclose(own.reshape(-1), np.where(zero, np.log(0.75), np.log(0.25)), 1e-4)
    again = jax.jit(policy.log_prob)(answers(0.1), flat)
    np.testing.assert_allclose(again, np.where(zero, np.log(0.1), np.log(0.9)), rtol=1e-4)


def test_choices_among_samples_are_counted(policy):
    """Where the probable answer is right, k samples hold it unless all of them are wrong."""
    state = SimpleNamespace(reference=answers(ZERO), params=answers(0.1))
    measure = jax.jit(lambda key: policy.measure(state, None, key))
    found = {name: np.asarray(x) for name, x in measure(jax.random.key(2)).items()}
    assert all(x.shape == (TESTED,) for x in found.values())
    probable = found["greedy_before"] == 1
    assert 0.2 < probable.mean() < 0.8
    np.testing.assert_array_equal(found["greedy"], ~probable)  # sharpened to the other answer
    right = np.rint(G * found["sample_before"]).astype(int)
    np.testing.assert_allclose(right / G, found["sample_before"])
    comb = np.vectorize(math.comb)
    for k in (1, 2, 4):
        some, every = 1 - comb(G - right, k) / comb(G, k), comb(right, k) / comb(G, k)
        expected = np.where(probable, some, every)
        np.testing.assert_allclose(found[f"own_choice_of_{k}"], expected, atol=1e-5)
    clear = right != G / 2
    np.testing.assert_array_equal(found["majority_of_4"][clear], (right > G / 2)[clear])
    assert abs(found["majority_of_1"] - right / G).max() < 0.45  # 20 draws of one
    for name, zero in (("sample_before", ZERO), ("sample", 0.1)):
        for chosen, chance in ((probable, zero), (~probable, 1 - zero)):
            limit = 4 * (chance * (1 - chance) / (G * chosen.sum())) ** 0.5
            assert abs(found[name][chosen].mean() - chance) < limit
