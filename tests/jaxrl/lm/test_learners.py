"""Learners of language models against gradients written out, and what they must learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl.lm import learners, objectives, preferences
from jaxrl.lm.tasks import symbols
from jaxtrain.lm.decoder import Config, decoder, score
from jaxtrain.lm.heads import Head

V = len(symbols.ALPHABET)
MODEL = decoder(Config(V, 8, 1, 1, 1, 8, 8))
PARAMS = jax.jit(MODEL.init)(jax.random.key(0))
RNG = np.random.default_rng(0)
B, S, RATE = 4, 6, 0.3
TOKENS = RNG.integers(0, V, (B, S))
VALID = np.ones((B, S), bool)
MASK = (np.arange(S) >= 2) & (RNG.random((B, S)) < 0.8)
WEIGHT = RNG.uniform(0.5, 2, B).astype(np.float32)
TEXTS = learners.Examples(TOKENS, VALID, MASK, WEIGHT)
KEY = jax.random.key(1)


@jax.jit
def log_probs(params, tokens=TOKENS):
    """Of each token after those before it, written out."""
    hidden, _ = MODEL.forward(params, jnp.array(tokens), jnp.array(VALID))
    logits = jax.nn.log_softmax(MODEL.logits(params, hidden))
    after = jnp.take_along_axis(logits[:, :-1], jnp.array(tokens)[:, 1:, None], 2)[..., 0]
    return jnp.pad(after, ((0, 0), (1, 0)))


def stepped(loss):
    value, slope = jax.jit(jax.value_and_grad(loss))(PARAMS)
    return value, jax.tree.map(lambda p, g: p - RATE * g, PARAMS, slope)


def norm_of_slope(params):
    square = jax.tree.map(lambda p, new: np.square((p - new) / RATE).sum(), PARAMS, params)
    return np.sqrt(sum(jax.tree.leaves(square)))


def close(found, expected):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected
    )


def of_coverage(params):
    p = jnp.exp(jnp.where(MASK, log_probs(params), 0).sum(1))
    return (WEIGHT * -jnp.log(-jnp.expm1(1e7 * jnp.log1p(-p)))).mean()


def of_tokens(params):
    return -jnp.where(MASK, WEIGHT[:, None] * log_probs(params), 0).sum() / MASK.sum()


def of_responses(params):
    each = WEIGHT[:, None] * jnp.where(MASK, log_probs(params), 0)
    return -(each.sum(1) / MASK.sum(1)).mean()


@pytest.mark.parametrize(
    ("settings", "loss"),
    [
        ({}, of_tokens),
        ({"aggregation": "sequence_mean"}, of_responses),
        ({"num_samples": 1e7}, of_coverage),
    ],
)
def test_fine_tuning_takes_the_gradient_of_its_loss(settings, loss):
    core = learners.finetune(MODEL, optax.sgd(RATE), **settings)
    state, out = jax.jit(core.update)(core.init(PARAMS), TEXTS, KEY)
    value, params = stepped(loss)
    np.testing.assert_allclose(out.metrics["loss"], value, rtol=1e-3)
    np.testing.assert_allclose(out.metrics["gradient_norm"], norm_of_slope(params), rtol=2e-3)
    log_prob = np.asarray(log_probs(PARAMS))[MASK].mean()
    np.testing.assert_allclose(out.metrics["log_prob"], log_prob, rtol=1e-4)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-5), state.params, params
    )


def test_coverage_takes_no_aggregation():
    with pytest.raises(ValueError, match="leave out aggregation, or num_samples"):
        learners.finetune(MODEL, optax.sgd(RATE), aggregation="token_mean", num_samples=4)


def test_preferences_begin_at_log_2_and_separate():
    texts = learners.Texts(TOKENS, VALID, MASK)
    rejected = texts._replace(tokens=RNG.integers(0, V, (B, S)))
    reference = [
        objectives.sequence_log_prob(log_probs(PARAMS, x.tokens), jnp.array(MASK))
        for x in (texts, rejected)
    ]
    loss = functools.partial(preferences.dpo, beta=0.5)
    core = learners.preference(MODEL, optax.sgd(RATE), loss)
    state, update = core.init(PARAMS), jax.jit(core.update)
    batch = learners.Pairs(texts, rejected, *reference)
    state, first = update(state, batch, KEY)
    np.testing.assert_allclose(first.metrics["loss"], np.log(2), rtol=1e-4)

    def written_out(params):
        better = objectives.sequence_log_prob(log_probs(params), MASK) - reference[0]
        worse = objectives.sequence_log_prob(log_probs(params, rejected.tokens), MASK)
        return -jax.nn.log_sigmoid(0.5 * (better - worse + reference[1])).mean()

    close(state.params, stepped(written_out)[1])
    for _ in range(20):
        state, out = update(state, batch, KEY)
    assert out.metrics["ordered"] == 1 and out.metrics["loss"] < 0.3 < first.metrics["loss"]


def test_mean_margins_and_the_better_response_by_hand():
    """Margins are not 0 before the step, and the two responses have other lengths."""
    rng = np.random.default_rng(1)
    texts = learners.Texts(TOKENS, VALID, MASK)
    worse = learners.Texts(rng.integers(0, V, (B, S)), VALID, np.tile(np.arange(S) >= 3, (B, 1)))
    reference = rng.normal(-3, 1, (2, B)).astype(np.float32)
    core = learners.preference(
        MODEL,
        optax.sgd(RATE),
        functools.partial(preferences.dpo, beta=0.5),
        means=True,
        supervised_weight=0.4,
    )
    batch = learners.Pairs(texts, worse, *reference)
    state, out = jax.jit(core.update)(core.init(PARAMS), batch, KEY)

    def mean(params, texts):
        each = jnp.where(texts.mask, log_probs(params, texts.tokens), 0)
        return each.sum(1) / texts.mask.sum(1)

    def margin(params):
        return mean(params, texts) - reference[0] - (mean(params, worse) - reference[1])

    def written_out(params):
        chosen = jax.nn.log_sigmoid(0.5 * margin(params)) + 0.4 * mean(params, texts)
        return -chosen.mean()

    value, params = stepped(written_out)
    close(state.params, params)
    before = np.asarray(margin(PARAMS))
    assert MASK.any(1).all() and 0 < (before > 0).mean() < 1
    expected = {"loss": value, "margin": before.mean(), "ordered": (before > 0).mean()}
    expected["gradient_norm"] = norm_of_slope(params)
    found = {name: out.metrics[name] for name in expected}
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-3), found, expected)


def test_a_step_of_a_judge_with_soft_labels_by_hand():
    label = np.random.default_rng(1).random((B, S)).astype(np.float32)
    batch = learners.Labelled(TOKENS, VALID, MASK, label)
    core = learners.judge(MODEL, optax.sgd(RATE))
    before = PARAMS, Head(jnp.linspace(-1, 1, 8), jnp.float32(0.2))
    state, out = jax.jit(core.update)(core.init(PARAMS)._replace(params=before), batch, KEY)

    def log_odds(params):
        hidden, _ = MODEL.forward(params[0], jnp.array(TOKENS), jnp.array(VALID))
        return hidden @ params[1].weight + params[1].bias

    def written_out(params):
        p = jax.nn.sigmoid(log_odds(params))
        each = label * jnp.log(p) + (1 - label) * jnp.log(1 - p)
        return -jnp.where(MASK, each, 0).sum() / MASK.sum()

    value, slope = jax.jit(jax.value_and_grad(written_out))(before)
    close(state.params, jax.tree.map(lambda p, g: p - RATE * g, before, slope))
    odds = np.asarray(log_odds(before))
    close(out.outputs, odds)
    right = ((odds > 0) == (label > 0.5))[MASK].mean()
    assert 0 < right < 1
    close((out.metrics["loss"], out.metrics["accuracy"]), (value, right))


def test_a_judge_learns_which_symbol_is_right():
    core = learners.judge(MODEL, optax.adam(0.05))
    state, update = core.init(PARAMS), jax.jit(core.update)
    label = (TOKENS % 2 == 0).astype(np.float32)
    batch = learners.Labelled(TOKENS, VALID, MASK, np.where(MASK, label, np.nan).astype(np.float32))
    state, first = update(state, batch, KEY)
    np.testing.assert_allclose(first.metrics["loss"], np.log(2), rtol=1e-5)
    assert (first.outputs == 0).all()
    for _ in range(60):
        state, out = update(state, batch, KEY)
    assert out.metrics["accuracy"] == 1 and out.metrics["loss"] < 0.1
    assert ((np.asarray(out.outputs) > 0) == label)[MASK].all()


def test_scores_are_those_written_out():
    found = jax.jit(functools.partial(score, MODEL))(PARAMS, TOKENS, VALID).logp
    np.testing.assert_allclose(found, log_probs(PARAMS), atol=1e-5)
