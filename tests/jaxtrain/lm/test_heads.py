"""Heads and their loss against what they must learn."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.lm import heads

RNG = np.random.default_rng(0)


def test_a_head_learns_the_share_of_right_samples():
    """Newton's method on the loss: at its minimum the mean residual is 0 in every direction."""
    hidden = jnp.array(RNG.normal(size=(60, 3)).astype(np.float32))
    truth = jax.nn.sigmoid(hidden @ jnp.array([1.0, -2.0, 0.5]) + 0.3)
    mask = jnp.arange(60) < 50
    label = jnp.where(mask, truth, jnp.nan)

    def loss(flat):
        head = heads.Head(flat[:3], flat[3])
        return heads.soft_label_loss(heads.head_logit(head, hidden), label, mask)

    zero = heads.judge_head(3)
    assert (jax.nn.sigmoid(heads.head_logit(zero, hidden)) == 0.5).all()
    flat = jnp.zeros(4)
    step = jax.jit(lambda x: x - jnp.linalg.solve(jax.hessian(loss)(x), jax.grad(loss)(x)))
    for _ in range(8):
        flat = step(flat)
    np.testing.assert_allclose(flat, [1.0, -2.0, 0.5, 0.3], atol=1e-3)
    found = jax.nn.sigmoid(heads.head_logit(heads.Head(flat[:3], flat[3]), hidden))
    np.testing.assert_allclose(found, truth, atol=1e-3)


def test_soft_labels_are_many_hard_ones():
    logit = jnp.array([0.7, -1.2])
    right = np.array([[1, 1, 0], [0, 1, 0]])
    p = 1 / (1 + np.exp(-np.array(logit)))[:, None]
    expected = -(right * np.log(p) + (1 - right) * np.log(1 - p)).mean()
    mask = jnp.array([True, True])
    label = jnp.array(right.mean(1))
    np.testing.assert_allclose(heads.soft_label_loss(logit, label, mask), expected, rtol=1e-6)
    slope = jax.grad(heads.soft_label_loss)(logit, label, jnp.array([True, False]))
    assert slope[1] == 0 and slope[0] != 0
    assert heads.soft_label_loss(logit, label, ~mask) == 0
