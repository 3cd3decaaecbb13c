"""Experts as a config describes them, and what learners may write."""

import jax
import numpy as np

from experiments.lm.demonstrations import decoder_of
from experiments.lm.planted_experts import options_of, rates_of
from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.planted import CONTENT, verification_gap
from jaxtrain.host.config import load


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
