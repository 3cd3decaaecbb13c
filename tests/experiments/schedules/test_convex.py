"""Problems of the convex study against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.schedules.convex import bound_study, full_losses, logistic_data, sparse_study
from experiments.schedules.trials import rate_table
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


def test_the_gap_of_the_last_iterate_by_a_loop():
    """Over the bound D G / sqrt T, from the peak D / (G sqrt T)."""
    flags = "convex.lad_steps=(5,),convex.lad_problems=1,convex.lad_rows=4,convex.lad_features=3"
    config, _ = load(f"configs/lr_schedules.py:debug,seed=4,{flags}")
    found = bound_study(config, None)

    key = jax.random.split(jax.random.fold_in(jax.random.key(4), 8), 1)[0]
    keys = jax.random.split(key, 4)
    a = np.float64(jax.random.normal(keys[0], (4, 3)))
    target = np.float64(jax.random.normal(keys[1], (3,)))
    e = np.float64(jax.random.exponential(keys[2], (4,)))
    largest, distance = np.sqrt((a**2).sum(1)).max(), np.sqrt((target**2).sum())
    value = lambda x: np.mean([abs(a @ (x - target) - s * e).mean() for s in (1, -1)])
    for name, row in (("linear", [4 / 5, 3 / 5, 2 / 5, 1 / 5, 0]), ("constant", [1] * 5)):
        gaps = []
        for draw in jax.random.split(keys[3], config.convex.lad_draws):
            x = np.zeros(3)
            for eta, step in zip(row, jax.random.split(draw, 5), strict=True):
                key_row, key_sign = jax.random.split(step)
                i = int(jax.random.randint(key_row, (), 0, 4))
                noise = e[i] * float(jax.random.rademacher(key_sign, (), jnp.float32))
                slope = np.sign(a[i] @ (x - target) - noise) * a[i]
                x = x - eta * distance / (largest * np.sqrt(5)) * slope
            gaps.append(value(x) - value(target))
        expected = np.mean(gaps) / (distance * largest / np.sqrt(5))
        assert found[f"bound/{name}/5"] == pytest.approx(expected, rel=1e-3)


def test_sparse_examples_move_only_what_they_hold():
    """Every schedule and peak by a loop, of which the best peak is told."""
    flags = "convex.schedules=('linear','constant'),num_seeds=1,convex.sparse.features=4"
    config, _ = load(f"configs/lr_schedules.py:debug,seed=4,{flags},convex.sparse.active=2")
    options = config.convex.sparse
    found = sparse_study(config)

    def example(key):
        key_place, key_value, key_noise = jax.random.split(key, 3)
        place = jax.random.choice(key_place, 4, (2,), replace=False)
        value, noise = jax.random.normal(key_value, (2,)), jax.random.laplace(key_noise)
        return np.asarray(place), np.float64(value), options.noise * float(noise)

    seed = jax.random.split(jax.random.fold_in(jax.random.key(4), 9), 1)[0]
    table = np.asarray(rate_table(("linear", "constant"), options.num_steps, config.convex.warmup))
    for name, rates in zip(("linear", "constant"), table, strict=True):
        means = []
        for peak in options.peaks:
            gaps = []
            for draw in jax.random.split(seed, options.draws):
                key_target, key_run, key_test = jax.random.split(draw, 3)
                target, x = np.float64(jax.random.normal(key_target, (4,))), np.zeros(4)
                for eta, step in zip(rates, jax.random.split(key_run, len(rates)), strict=True):
                    place, value, noise = example(step)
                    residual = value @ (x[place] - target[place]) - noise
                    x[place] -= peak * eta * np.sign(residual) * value
                tests = map(example, jax.random.split(key_test, options.test_examples))
                gap = lambda place, value, noise, x=x, target=target: (
                    abs(value @ (x[place] - target[place]) - noise) - abs(noise)
                )
                gaps.append(np.mean([gap(*one) for one in tests]))
            means.append(np.mean(gaps))
        assert found[f"sparse/{name}"][0] == pytest.approx(min(means), rel=1e-3, abs=1e-6)
