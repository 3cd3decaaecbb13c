"""Experts as a config describes them, what learners may write, and what they are said to earn."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lm.by_setting import over_trials
from experiments.lm.demonstrations import decoder_of
from experiments.lm.planted_experts import (
    Contest,
    Rivals,
    demonstrated,
    measured,
    options_of,
    rates_of,
    show,
)
from jaxrl.lm.learners import LearnerState
from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.planted import CONTENT, planted, verification_gap
from jaxtrain.host import sweep
from jaxtrain.host.config import load
from tests.experiments.lm.table_policy import MODEL, table


def experts(**changed):
    """A config with other experts."""
    config, _ = load("configs/lm_reward.py:verifier_debug")
    with config.unlocked():
        config.experts.update(changed)
    return config


def test_without_spread_experts_are_alike_and_a_verifier_tells_nothing_of_them():
    config, _ = load("configs/lm_reward.py:verifier")
    options, gaps = config.experts, []
    for spread in (0.0, 0.5, 1.0):
        with config.unlocked():
            options.spread = spread
        rates = np.asarray(rates_of(options))
        np.testing.assert_allclose(rates.mean(), np.mean(options.rates), rtol=1e-6)
        np.testing.assert_allclose(np.ptp(rates), spread * np.ptp(options.rates), atol=1e-6)
        weights = np.full(len(rates), 1 / len(rates))
        gaps.append(jax.jit(verification_gap, static_argnums=(2, 3))(rates, weights, 5, 32))
    assert abs(gaps[0].gap) < 1e-4
    assert 1 < gaps[1].gap < gaps[2].gap and gaps[1].variance < gaps[2].variance


def test_only_content_may_be_written():
    config, _ = load("configs/lm_reward.py:verifier_debug")
    forbidden = np.asarray(options_of(decoder_of(config.model)).forbidden)
    assert {symbols.ALPHABET[i] for i in np.flatnonzero(~forbidden)} == set(CONTENT)


@pytest.mark.parametrize(("spread", "begun"), [(1.0, (1 + 1 / 900) / 2), (0.0, (31 / 60) ** 2)])
def test_experts_come_equally_often_and_write_what_the_prompt_asks_for(spread, begun):
    """Of rates 0 and 1, or twice their mean: how many traces begin with the whole pattern."""
    options = experts(rates=(0.0, 1.0), spread=spread, length=2).experts
    draw = jax.jit(jax.vmap(lambda key: demonstrated(options, planted(2), 6, key)))
    found, map_of, share = draw(jax.random.split(jax.random.key(5), 600)), {}, []
    for tokens, valid, mask, weight in zip(*found, strict=True):
        prompt, mark, trace = symbols.text(tokens, valid).partition("?")
        assert (len(prompt), mark, len(trace), weight) == (2, "?", 6, 1)
        assert symbols.text(tokens, mask) == trace and set(trace) <= set(CONTENT)
        for digit, symbol in zip(prompt, trace, strict=False):
            map_of.setdefault(digit, []).append(symbol)
        share.append((prompt, trace[:2]))
    most = {digit: max(set(said), key=said.count) for digit, said in map_of.items()}
    assert len(most) == 10 == len(set(most.values()))
    found = np.mean([trace == most[one] + most[two] for (one, two), trace in share])
    assert abs(found - begun) < 4 * (begun * (1 - begun) / 600) ** 0.5


def cycle(order):
    """Writes all content in one order, again and again."""
    following = {before: {after: 1.0} for before, after in zip("?" + order, order, strict=False)}
    return table(following | {order[-1]: {order[0]: 1.0}})


def test_policies_earn_what_stands_in_their_tables():
    """One symbol is asked for: the alphabet meets it after r tokens, backwards after 29 - r."""
    horizons, spreads, rates = (30, 34), (0.5, 0.0), np.array([0.1, 0.4, 0.7])
    config = experts(length=1, horizons=horizons, rates=tuple(rates))
    policies = table({c: {CONTENT[0]: 1.0} for c in "?" + CONTENT}), cycle(CONTENT)
    learners = [LearnerState(x, ()) for x in (policies[1], cycle(CONTENT[::-1]))]
    state = Contest(policies[0], {f"{h}": Rivals(*learners) for h in horizons})

    axes = sweep.parse("experts.spread=0.5,0", ["experts.spread"], config)
    every = over_trials(functools.partial(measured, MODEL, 24), config, axes)
    trials = every(jax.tree.map(lambda x: jnp.stack([x, x]), state), jax.random.key(3))
    for (trial, spread), h in itertools.product(enumerate(spreads), horizons):
        found = {name: np.asarray(x[trial]) for name, x in trials.items()}
        right = rates.mean() + spread * (rates - rates.mean())
        right = right + (1 - right) / len(CONTENT)  # to write the symbol, at every token
        base, forwards, backwards = (found[f"{x}_{h}"] for x in ("base", "copied", "verified"))
        assert set(forwards) <= set(h - np.arange(30.0)) and len(set(forwards)) > 5
        np.testing.assert_array_equal(forwards + backwards, 2 * h - 29)
        np.testing.assert_array_equal(base, np.where(forwards == h, h, 0))
        np.testing.assert_array_equal(found[f"gap_{h}"], backwards - forwards)
        waited = np.arange(h)  # tokens before the symbol
        law = (right[:, None] * (1 - right[:, None]) ** waited).mean(0)
        mean = law @ (h - waited)
        deviation = (law @ (h - waited) ** 2 - mean**2) ** 0.5
        above = law[h - waited > mean + deviation / 2].sum()
        assert found[f"experts_{h}"] == pytest.approx(mean, rel=1e-4)
        assert found[f"sigma_{h}"] == pytest.approx(deviation, rel=1e-4)
        assert found[f"above_{h}"] == pytest.approx(above, rel=1e-4)


def test_every_number_is_printed_in_the_column_of_its_name(capsys):
    names = ("sigma", "experts", "copied", "verified", "gap")
    trials, numbers = {"spread=0": [0, 2], "spread=1": [1]}, np.array([[1.0], [5.0], [3.0]])
    show({f"{n}_8": numbers + 10 * i for i, n in enumerate(names)}, trials, (8,))
    head, alike, different = capsys.readouterr().out.splitlines()[-3:]
    assert tuple(head.split()) == names
    assert alike.startswith("spread=0 H=8") and different.startswith("spread=1 H=8")
    values = lambda line: [float(x) for x in re.findall(r"(?<![\[\d.])\d+\.\d\d(?!\])", line)]
    assert values(alike) == [2, 12, 22, 32, 42] and values(different) == [5, 15, 25, 35, 45]
