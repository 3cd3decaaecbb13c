"""Problems of the convex study against NumPy."""

import jax.numpy as jnp
import numpy as np

from experiments.schedules.convex import full_losses, logistic_data
from jaxtrain.host.config import load


def test_the_loss_of_a_trial_is_that_of_its_own_data():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5, 3)), rng.choice([-1.0, 1.0], (2, 5))
    params, seeds = rng.normal(size=(3, 3)), np.array([1, 0, 1])
    expected = [
        np.log1p(np.exp(-y[s] * (x[s] @ p))).mean() for p, s in zip(params, seeds, strict=True)
    ]
    found = full_losses((jnp.asarray(x), jnp.asarray(y)), jnp.asarray(params), seeds)
    np.testing.assert_allclose(found, expected, 1e-5)


def test_a_share_of_the_labels_is_turned_round():
    config, _ = load("configs/lr_schedules.py:debug,convex.flips=0.0,convex.examples=400")
    (x, right), changed = logistic_data(config), config.copy_and_resolve_references()
    changed.convex.flips = 0.25
    same, flipped = logistic_data(changed)
    np.testing.assert_array_equal(x, same)
    assert set(np.unique(right)) == {-1, 1}
    assert 0.2 < (np.asarray(right) == -np.asarray(flipped)).mean() < 0.3
