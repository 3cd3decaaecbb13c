"""Preference losses against NumPy, at zero, by their signs and by their optima."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.lm import objectives, preferences

RNG = np.random.default_rng(0)
D = RNG.normal(size=9).astype(np.float32) * 3
CHOSEN, REJECTED = -RNG.uniform(0.05, 3, (2, 9)).astype(np.float32)
sigmoid = lambda x: 1 / (1 + np.exp(-x.astype(float)))
BETA, E = 0.4, 0.1
Q = sigmoid(BETA * D)
ODDS = np.log(np.exp(CHOSEN) / (1 - np.exp(CHOSEN)) / (np.exp(REJECTED) / (1 - np.exp(REJECTED))))
OF_MARGIN = {
    "dpo": (lambda d: preferences.dpo(d, BETA), -np.log(Q)),
    "conservative": (
        lambda d: preferences.dpo(d, BETA, smoothing=E),
        -(1 - E) * np.log(Q) - E * np.log(1 - Q),
    ),
    "robust": (
        lambda d: preferences.robust_dpo(d, BETA, E),
        (-(1 - E) * np.log(Q) + E * np.log(1 - Q)) / (1 - 2 * E),
    ),
    "ipo": (lambda d: preferences.ipo(d, BETA), (D - 1 / (2 * BETA)) ** 2),
    "hinge": (lambda d: preferences.hinge(d, BETA), np.maximum(0, 1 - BETA * D)),
    "exo": (
        lambda d: preferences.exo(d, BETA, E),
        Q * np.log(Q / (1 - E)) + (1 - Q) * np.log((1 - Q) / E),
    ),
}


@pytest.mark.parametrize("name", OF_MARGIN)
def test_losses_of_the_margin(name):
    loss, expected = OF_MARGIN[name]
    np.testing.assert_allclose(loss(jnp.array(D)), expected, rtol=1e-4, atol=1e-6)
    assert jax.grad(loss)(jnp.float32(-0.5)) < 0  # what is preferred too little is pushed up
    extreme = jnp.array([-1e4, 1e4])
    slope = jax.grad(lambda d: loss(d).sum())(extreme)
    assert jnp.isfinite(loss(extreme)).all() and jnp.isfinite(slope).all()


@pytest.mark.parametrize("beta", [0, -0.1, np.nan, np.inf])
@pytest.mark.parametrize("name", ["dpo", "robust_dpo", "ipo", "hinge", "exo"])
def test_a_strength_that_is_none_is_refused(name, beta):
    more = (E,) if name == "robust_dpo" else ()
    with pytest.raises(ValueError, match=f"beta is {beta}; it must be above 0"):
        getattr(preferences, name)(jnp.array(D), beta, *more)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda d: preferences.dpo(d, BETA, smoothing=1.5), "smoothing is 1.5; it must be from 0"),
        (
            lambda d: preferences.robust_dpo(d, BETA, 0.5),
            "flip_rate is 0.5; it must be from 0 to be",
        ),
        (lambda d: preferences.exo(d, BETA, 0.0), "smoothing is 0.0; it must be above 0"),
        (lambda d: preferences.orpo(d, d, -1), "weight is -1; it must be at least 0"),
    ],
)
def test_rates_that_are_none_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(jnp.array(D))


def test_at_zero_dpo_is_log_2():
    same = preferences.preference_margin(*map(jnp.array, (D, D, CHOSEN, CHOSEN)))
    assert (same == 0).all()
    np.testing.assert_allclose(preferences.dpo(same, 7.0), np.log(2), rtol=1e-6)


def test_the_margin_is_relative_to_a_constant_reference():
    args = [jnp.array(x) for x in (D, CHOSEN, REJECTED, 2 * CHOSEN)]
    found = preferences.preference_margin(*args)
    np.testing.assert_allclose(found, D - CHOSEN - (REJECTED - 2 * CHOSEN), rtol=1e-5)
    total = lambda *x: preferences.preference_margin(*x).sum()
    slopes = jax.grad(total, (0, 1, 2, 3))(*args)
    assert [float(s[0]) for s in slopes] == [1, -1, 0, 0]


def test_robust_is_unbiased_under_flips():
    d = jnp.array(D)
    flipped = (1 - E) * preferences.robust_dpo(d, BETA, E) + E * preferences.robust_dpo(-d, BETA, E)
    np.testing.assert_allclose(flipped, preferences.dpo(d, BETA), rtol=1e-4)


def test_finite_optima():
    """IPO rests at 1 / (2 beta), EXO where the policy's preference is 1 - e; DPO nowhere."""
    slope = lambda loss, d: float(jax.grad(loss)(jnp.float32(d)))
    assert abs(slope(OF_MARGIN["ipo"][0], 1 / (2 * BETA))) < 1e-5
    rest = np.log((1 - E) / E) / BETA
    for name in ("exo", "conservative"):
        assert abs(slope(OF_MARGIN[name][0], rest)) < 1e-5
        assert slope(OF_MARGIN[name][0], rest + 1) > 0 > slope(OF_MARGIN[name][0], rest - 1)
    assert slope(OF_MARGIN["dpo"][0], rest) < 0


def test_orpo_and_bradley_terry():
    args = jnp.array(CHOSEN), jnp.array(REJECTED)
    expected = -CHOSEN - 0.3 * np.log(sigmoid(ODDS))
    np.testing.assert_allclose(preferences.orpo(*args, 0.3), expected, rtol=1e-4)
    slopes = jax.grad(lambda w, l: preferences.orpo(w, l, 0.3).sum(), (0, 1))(*args)
    assert (slopes[0] < 0).all() and (slopes[1] > 0).all()
    certain = jax.grad(lambda w: preferences.orpo(w, jnp.float32(-1.0), 0.3))(jnp.float32(0.0))
    assert np.isfinite(certain)
    expected = -np.log(sigmoid(CHOSEN - REJECTED))
    np.testing.assert_allclose(preferences.bradley_terry(*args), expected, rtol=1e-5)


def test_masked_tokens_of_a_pair_have_no_gradient():
    log_prob = jnp.array(np.log(RNG.uniform(0.1, 0.9, (2, 3, 5))).astype(np.float32))
    mask = jnp.array(RNG.random((2, 3, 5)) < 0.5)

    def loss(x):
        chosen, rejected = jax.vmap(objectives.sequence_log_prob)(x, mask)
        margin = preferences.preference_margin(chosen, rejected, jnp.zeros(3), jnp.zeros(3))
        return preferences.dpo(margin, 0.1).mean()

    slope = np.asarray(jax.grad(loss)(jnp.where(mask, log_prob, jnp.nan)))
    assert (slope[~np.asarray(mask)] == 0).all()
    assert (slope[0][mask[0]] < 0).all() and (slope[1][mask[1]] > 0).all()


def test_smoothing_by_visits():
    found = preferences.visit_smoothing(jnp.array([9.0, 0.0, 1.0]), jnp.array([1.0, 0.0, 5.0]))
    np.testing.assert_allclose(found, [0.1, 0, 0.5], rtol=1e-5)
    each = preferences.dpo(jnp.array(D[:3]), BETA, smoothing=found)
    np.testing.assert_allclose(each[1], -np.log(Q[1]), rtol=1e-5)
