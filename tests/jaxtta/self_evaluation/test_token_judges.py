"""Verdicts of tokens and heads against probabilities by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.self_evaluation import token_judges

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(5, 3, 8)).astype(np.float32)
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)


def test_verdicts_are_shares_of_designated_tokens():
    found = token_judges.p_true(jnp.array(LOGITS), [2, 5], [7])
    expected = (PROBS[..., 2] + PROBS[..., 5]) / (PROBS[..., 2] + PROBS[..., 5] + PROBS[..., 7])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    mass = token_judges.token_mass(jnp.log(jnp.array(PROBS)), [2, 5])
    np.testing.assert_allclose(mass, PROBS[..., 2] + PROBS[..., 5], rtol=1e-5)
    share = token_judges.token_share(jnp.array(LOGITS) - 500, [1], [1, 3])  # no underflow
    np.testing.assert_allclose(share, PROBS[..., 1] / (PROBS[..., 1] + PROBS[..., 3]), rtol=2e-4)


def test_the_answer_among_options():
    found = token_judges.token_choice(jnp.array(LOGITS), [6, 0, 3])
    assert (found == PROBS[..., [6, 0, 3]].argmax(-1)).all()


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"ids \[4\] are chosen"):
        token_judges.token_share(jnp.array(LOGITS), [4], [1, 2])
    with pytest.raises(ValueError, match="one twice"):
        token_judges.p_true(jnp.array(LOGITS), [1], [2, 1])


def test_a_head_learns_the_share_of_right_samples():
    """Newton's method on the loss: at its minimum the mean residual is 0 in every direction."""
    hidden = jnp.array(RNG.normal(size=(60, 3)).astype(np.float32))
    truth = jax.nn.sigmoid(hidden @ jnp.array([1.0, -2.0, 0.5]) + 0.3)
    mask = jnp.arange(60) < 50
    label = jnp.where(mask, truth, jnp.nan)

    def loss(flat):
        head = token_judges.Head(flat[:3], flat[3])
        return token_judges.soft_label_loss(token_judges.head_logit(head, hidden), label, mask)

    zero = token_judges.judge_head(3)
    assert (token_judges.p_ik(zero, hidden) == 0.5).all()
    flat = jnp.zeros(4)
    step = jax.jit(lambda x: x - jnp.linalg.solve(jax.hessian(loss)(x), jax.grad(loss)(x)))
    for _ in range(8):
        flat = step(flat)
    np.testing.assert_allclose(flat, [1.0, -2.0, 0.5, 0.3], atol=1e-3)
    found = token_judges.p_ik(token_judges.Head(flat[:3], flat[3]), hidden)
    np.testing.assert_allclose(found, truth, atol=1e-3)


def test_soft_labels_are_many_hard_ones():
    logit = jnp.array([0.7, -1.2])
    right = np.array([[1, 1, 0], [0, 1, 0]])
    p = 1 / (1 + np.exp(-np.array(logit)))[:, None]
    expected = -(right * np.log(p) + (1 - right) * np.log(1 - p)).mean()
    mask = jnp.array([True, True])
    label = jnp.array(right.mean(1))
    np.testing.assert_allclose(
        token_judges.soft_label_loss(logit, label, mask), expected, rtol=1e-6
    )
    slope = jax.grad(token_judges.soft_label_loss)(logit, label, jnp.array([True, False]))
    assert slope[1] == 0 and slope[0] != 0
    assert token_judges.soft_label_loss(logit, label, ~mask) == 0
