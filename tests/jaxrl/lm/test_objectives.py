"""Objectives against NumPy, closed forms, and expectations over policies that can be enumerated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.lm import objectives

RNG = np.random.default_rng(0)
B, T, V = 5, 7, 6
LENGTH = np.array([7, 3, 1, 5, 0])
MASK = (np.arange(T) < LENGTH[:, None]) & (np.arange(T) != 2)  # a forced token in the middle
LOGP, OLD, REF = (np.log(RNG.uniform(0.05, 0.95, (B, T))).astype(np.float32) for _ in range(3))
ADVANTAGE = RNG.normal(size=(B, 1)).astype(np.float32)
NUMBER = MASK.sum(1)

BY_HAND = {
    "sequence_mean": lambda x: np.mean([x[b][MASK[b]].mean() for b in range(B) if NUMBER[b]]),
    "token_mean": lambda x: x[MASK].mean(),
    "constant": lambda x: x[MASK].sum() / ((NUMBER > 0).sum() * T),
}


@pytest.mark.parametrize("how", BY_HAND)
def test_aggregations(how):
    found = objectives.aggregate(jnp.array(LOGP), jnp.array(MASK), how)
    np.testing.assert_allclose(found, BY_HAND[how](LOGP), rtol=1e-5)
    assert objectives.aggregate(jnp.array(LOGP), jnp.zeros((B, T), bool), how) == 0


def test_the_aggregations_differ_by_their_length_bias():
    """The weight of a token, read off the gradient: of a long and of a short response."""
    mask = jnp.array(np.arange(8) < [[8], [2]])
    slope = lambda **kw: jax.grad(lambda x: objectives.aggregate(x, mask, **kw))(jnp.ones((2, 8)))
    long, short = np.array([slope(aggregation=how)[:, 0] for how in BY_HAND]).T
    np.testing.assert_allclose(long, [1 / (2 * 8), 1 / 10, 1 / (2 * 8)])
    np.testing.assert_allclose(short, [1 / (2 * 2), 1 / 10, 1 / (2 * 8)])
    summed = slope(aggregation="constant", length=1)[:, 0]
    np.testing.assert_allclose(summed, [1 / 2, 1 / 2])


def test_what_is_not_used_is_refused():
    arrays = jnp.array(LOGP), jnp.array(MASK)
    with pytest.raises(ValueError, match="uses no length"):
        objectives.aggregate(*arrays, "token_mean", length=5)
    with pytest.raises(ValueError, match="no aggregation 'mean'"):
        objectives.aggregate(*arrays, "mean")
    with pytest.raises(ValueError, match="no estimate 'k4'"):
        objectives.kl_estimate(arrays[0], arrays[0], arrays[1], "k4")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda x, m: objectives.aggregate(x, m[:, :1], "sequence_mean"),
            r"mask has shape \(5, 1\)",
        ),
        (
            lambda x, m: objectives.aggregate(x, m, "constant", length=0),
            "length is 0; it must be ab",
        ),
        (lambda x, m: objectives.surrogate(x, x, x[:, 0], m), r"advantage has shape \(5,\), log_p"),
        (
            lambda x, m: objectives.surrogate(x, x, x, m, clip=(-0.2, 0.2)),
            "low is -0.2; it must be",
        ),
        (
            lambda x, m: objectives.surrogate(x, x, x, m, clip=(0.2, np.nan)),
            "high is nan; it must b",
        ),
        (
            lambda x, m: objectives.supervised(x, m, "token_mean", weight=x[:, :1]),
            r"weight has shape \(5, 1\); give one for each of 5 responses",
        ),
        (
            lambda x, m: objectives.reward_weight(x[:, 0], 0.0),
            "temperature is 0.0; it must be above",
        ),
        (lambda x, m: objectives.coverage_loss(x, m, 0), "num_samples is 0; it must be at least 1"),
        (lambda x, m: objectives.confidence_factor(x, np.nan), "num_samples is nan"),
    ],
)
def test_what_would_be_another_loss_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(jnp.array(LOGP), jnp.array(MASK))


def test_fine_tuning_and_regression_on_rewards():
    reward = np.array([1.0, 0, -1, 0.5, 2], np.float32)
    weight = objectives.reward_weight(jnp.array(reward), 2.0)
    np.testing.assert_allclose(weight, np.exp(reward / 2), rtol=1e-6)
    args = jnp.array(LOGP), jnp.array(MASK)
    for how, mean in BY_HAND.items():
        np.testing.assert_allclose(objectives.supervised(*args, how), -mean(LOGP), rtol=1e-5)
        found = objectives.supervised(*args, how, weight=weight)
        np.testing.assert_allclose(found, -mean(LOGP * np.exp(reward / 2)[:, None]), rtol=1e-5)
    mean = [LOGP[b][MASK[b]].mean() if NUMBER[b] else 0 for b in range(B)]
    np.testing.assert_allclose(objectives.mean_log_prob(*args), mean, rtol=1e-5)


def exact_coverage(log_prob, n):
    return -jnp.log(1 - (1 - jnp.exp(log_prob)) ** n)


@pytest.mark.parametrize("n", [1, 2, 16, 256])
def test_the_loss_of_coverage_is_exact_by_autodiff(n):
    """In float64, where the formula itself does not cancel."""
    with jax.enable_x64(True):
        p = jnp.array([1e-9, 1e-6, 9e-4, 2e-3, 0.03, 0.3, 0.9, 0.999])
        log_prob = jnp.log(p)
        mask = jnp.ones((8, 1), bool)
        loss = jax.jit(lambda x: objectives.coverage_loss(x[:, None], mask, n))
        np.testing.assert_allclose(loss(log_prob), exact_coverage(log_prob, n), rtol=1e-6)
        slope, exact = (
            jax.jit(jax.grad(lambda x, f=f: f(x).sum()))(log_prob)
            for f in (loss, functools.partial(exact_coverage, n=n))
        )
        np.testing.assert_allclose(slope, exact, rtol=2e-6, atol=1e-12)
        factor = jax.jit(objectives.confidence_factor)(log_prob, n)
        np.testing.assert_allclose(factor, -exact, rtol=2e-6, atol=1e-12)


def test_the_factor_of_coverage_in_float32():
    """Rare targets whose p underflows count fully, certain ones not; N = 1 is cross-entropy."""
    p = np.array([1 / 64, 0.5])
    log_prob = np.array([-1e4, -200.0, -1.0, -1e-9, 0.0, *np.log(p)], np.float32)
    factor = jax.jit(objectives.confidence_factor)
    released = 64 * p * (1 - p) ** 63 / (1 - (1 - p) ** 64)
    found = factor(log_prob, 64)
    np.testing.assert_allclose(found, [1, 1, 0, 0, 0, *released], rtol=1e-4, atol=1e-9)
    assert (factor(log_prob, 1) == 1).all()
    found, expected = (
        jax.jit(jax.vmap(jax.value_and_grad(f)))(LOGP, MASK)
        for f in (
            lambda x, m: objectives.coverage_loss(x[None], m[None], 1)[0],
            lambda x, m: -objectives.sequence_log_prob(x, m),
        )
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_surrogates_are_those_of_the_papers():
    ratio = np.exp(LOGP - OLD)
    args = jnp.array(LOGP), jnp.array(OLD), jnp.array(ADVANTAGE), jnp.array(MASK)
    plain = np.where(MASK, -ratio * ADVANTAGE, 0)
    np.testing.assert_allclose(objectives.surrogate(*args), plain, rtol=1e-5)
    limited = np.clip(ratio, 0.8, 1.3) * ADVANTAGE
    expected = np.where(MASK, -np.minimum(ratio * ADVANTAGE, limited), 0)
    found = objectives.surrogate(*args, clip=(0.2, 0.3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (np.abs(expected - plain) > 0.01).any()


def test_on_fresh_samples_the_surrogate_is_reinforce():
    args = jnp.array(ADVANTAGE), jnp.array(MASK)
    fresh = lambda x: objectives.surrogate(
        x, jax.lax.stop_gradient(x), *args, clip=(0.2, 0.2)
    ).sum()
    reinforce = lambda x: -jnp.where(args[1], x * args[0], 0).sum()
    slopes = [jax.grad(f)(jnp.array(LOGP)) for f in (fresh, reinforce)]
    np.testing.assert_allclose(*slopes, rtol=1e-6)


LOSSES = {
    "supervised": lambda x, m: objectives.supervised(x, m, "sequence_mean"),
    "coverage": lambda x, m: objectives.coverage_loss(x, m, 16).sum(),
    "surrogate": lambda x, m: objectives.aggregate(
        objectives.surrogate(x, OLD, ADVANTAGE, m, clip=(0.2, 0.2)), m, "token_mean"
    ),
} | {
    k: lambda x, m, k=k: objectives.aggregate(objectives.kl_estimate(x, REF, m, k), m, "constant")
    for k in ("k1", "k2", "k3")
}


@pytest.mark.parametrize("name", LOSSES)
def test_masked_tokens_have_no_gradient_whatever_stands_there(name):
    loss = jax.jit(jax.grad(LOSSES[name]))
    slope = loss(LOGP, MASK)
    assert (np.asarray(slope)[~MASK] == 0).all() and (np.asarray(slope)[MASK] != 0).sum() > 3
    for nothing in (np.nan, -np.inf, 1e30):
        again = loss(np.where(MASK, LOGP, np.float32(nothing)), MASK)
        assert (np.asarray(again) == np.asarray(slope)).all()


# A policy of one token: every expectation is a sum.
LOGITS, OTHER = RNG.normal(size=(2, V)).astype(np.float32)
POLICY = lambda logits: jax.nn.log_softmax(logits)
KL = lambda logits: objectives.exact_kl(POLICY(logits), POLICY(jnp.array(OTHER)))
ONES = jnp.ones((1, V), bool)


def estimates(logits, estimate):
    """At every token the policy may draw, `[V]`."""
    reference = POLICY(jnp.array(OTHER))[None]
    return objectives.kl_estimate(POLICY(logits)[None], reference, ONES, estimate)[0]


def test_divergence_and_entropy_over_the_vocabulary():
    p, q = (np.exp(x) / np.exp(x).sum() for x in (LOGITS, OTHER))
    np.testing.assert_allclose(KL(jnp.array(LOGITS)), (p * np.log(p / q)).sum(), rtol=1e-5)
    found = objectives.entropy(POLICY(jnp.array(LOGITS)))
    np.testing.assert_allclose(found, -(p * np.log(p)).sum(), rtol=1e-5)
    cut = POLICY(jnp.array([0.3, 0.3, -jnp.inf]))
    np.testing.assert_allclose(objectives.entropy(cut), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(
        objectives.exact_kl(cut, POLICY(jnp.zeros(3))), np.log(1.5), rtol=1e-5
    )
    assert np.isfinite(jax.grad(lambda x: objectives.entropy(POLICY(x)))(jnp.array(LOGITS))).all()


def test_estimates_have_the_divergence_as_mean():
    logits, p = jnp.array(LOGITS), jnp.exp(POLICY(jnp.array(LOGITS)))
    mean = {k: (p * estimates(logits, k)).sum() for k in ("k1", "k2", "k3")}
    np.testing.assert_allclose(mean["k1"], KL(logits), rtol=1e-5)
    np.testing.assert_allclose(mean["k3"], KL(logits), rtol=1e-5)
    assert abs(mean["k2"] - KL(logits)) > 0.01
    assert (estimates(logits, "k3") >= 0).all() and (estimates(logits, "k1") < 0).any()


def test_what_each_estimate_does_in_reward_and_loss():
    """The table of the docstring, in expectation over the policy."""
    logits = jnp.array(LOGITS)
    p = jnp.exp(POLICY(logits))
    reverse = jax.grad(KL)(logits)
    forward = jax.grad(lambda x: objectives.exact_kl(POLICY(jnp.array(OTHER)), POLICY(x)))(logits)
    in_loss = lambda k: jax.grad(lambda x: (p * estimates(x, k)).sum())(logits)
    constant = {k: jax.lax.stop_gradient(estimates(logits, k)) for k in ("k1", "k2", "k3")}
    in_reward = lambda k: jax.grad(lambda x: (p * constant[k] * POLICY(x)).sum())(logits)
    close = functools.partial(np.testing.assert_allclose, atol=2e-6)
    close(in_reward("k1"), reverse)
    close(in_loss("k1"), jnp.zeros(V))
    close(in_loss("k2"), reverse)
    close(in_loss("k3"), forward)
    close(in_reward("k3"), reverse - forward)
    assert np.abs(in_reward("k2") - reverse).max() > 0.01
