"""Gradient ascent against NumPy loops written from the equations, and its own gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta.lpn.search import run_search
from jaxtta.lpn.strategies import ascent_adam, clip_each, clip_jointly, gradient_ascent
from tests.jaxtta.lpn.landscapes import (
    CURVATURE,
    KEY,
    SIZE,
    STARTS,
    TARGET,
    compiled,
    constant,
    mlp_params,
    mlp_score,
    numpy_ascent,
    quadratic,
    quadratic_gradient,
)

OPTIMIZERS = {"sgd": optax.sgd, "adam": ascent_adam}


@pytest.mark.parametrize("schedule", [None, 0.5])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_ascent_equals_numpy(optimizer, schedule):
    rate = 0.3 if schedule is None else optax.cosine_decay_schedule(0.3, 9, exponent=schedule)
    search = gradient_ascent(quadratic(TARGET), OPTIMIZERS[optimizer](rate), archive_size=4)
    result = jax.jit(lambda z: run_search(search, KEY, z, 9))(STARTS)
    iterates = numpy_ascent(
        quadratic_gradient(TARGET), STARTS, 9, 0.3, optimizer, schedule=schedule
    )
    scores = -0.5 * (CURVATURE * (iterates - np.asarray(TARGET)) ** 2).sum(-1)
    order = np.argsort(-scores.ravel(), kind="stable")[:4]
    np.testing.assert_allclose(result.latents, iterates, atol=1e-5)
    np.testing.assert_allclose(result.scores, scores, atol=1e-5)
    np.testing.assert_allclose(result.best_scores, scores.ravel()[order], atol=1e-5)
    np.testing.assert_allclose(result.best_latents, iterates.reshape(-1, SIZE)[order], atol=1e-5)
    assert result.steps_used == 9 and not result.exact


def test_traced_learning_rates_and_no_clipping():
    rates = jnp.array([0.05, 0.4])

    def latents(rate):
        search = gradient_ascent(quadratic(TARGET), optax.sgd(rate), clip_norm=None)
        return run_search(search, KEY, STARTS, 5).latents

    for rate, got in zip(rates, jax.jit(jax.vmap(latents))(rates), strict=True):
        factor = (1 - float(rate) * CURVATURE) ** np.arange(6)[:, None, None]  # closed form
        np.testing.assert_allclose(
            got, np.asarray(TARGET) + factor * np.asarray(STARTS - TARGET[None]), atol=1e-5
        )


@pytest.mark.parametrize("axis", [None, "tasks"])
def test_joint_clipping_equals_numpy_and_depends_on_the_batch(axis):
    targets = jnp.stack([TARGET, -2 * TARGET])

    def solve(target, clip):
        search = gradient_ascent(quadratic(target), optax.sgd(0.2), clip=clip)
        return run_search(search, KEY, STARTS, 6).latents

    clip = partial(clip_jointly, axis_name=axis)
    batch = jax.jit(jax.vmap(lambda t: solve(t, clip), axis_name="tasks"))
    batched = batch(targets)
    tiled = np.broadcast_to(STARTS, (2, *STARTS.shape))
    if axis is None:  # jointly over the start points of one task
        expected = [
            numpy_ascent(quadratic_gradient(t), STARTS, 6, 0.2, "sgd", joint=True) for t in targets
        ]
    else:
        gradient = quadratic_gradient(np.asarray(targets)[:, None])
        expected = numpy_ascent(gradient, tiled, 6, 0.2, "sgd", joint=True).swapaxes(0, 1)
        assert np.abs(batch(targets[:1])[0] - batched[0]).max() > 0.05
    np.testing.assert_allclose(batched, expected, atol=1e-5)
    per_latent = jax.jit(jax.vmap(lambda t: solve(t, clip_each)))
    np.testing.assert_allclose(per_latent(targets)[0], per_latent(targets[:1])[0], atol=1e-6)
    per_latent = per_latent(targets)
    assert np.abs(per_latent[0] - batched[0]).max() > 0.05


def test_masked_starts_do_not_enter_the_joint_norm():
    search = gradient_ascent(quadratic(TARGET), optax.sgd(0.2), clip=clip_jointly)
    padded = jnp.concatenate([STARTS, jnp.full((1, SIZE), 50.0)])
    masked = compiled(search, KEY, padded, 4, start_mask=jnp.array([True, True, False]))
    plain = compiled(search, KEY, STARTS, 4)
    np.testing.assert_allclose(masked.latents[:, :2], plain.latents, atol=1e-6)
    assert np.abs(compiled(search, KEY, padded, 4).latents[:, :2] - plain.latents).max() > 0.1


def test_one_start_at_a_time_changes_nothing():
    make = partial(gradient_ascent, mlp_score(mlp_params()), ascent_adam(0.3))
    expected = compiled(make(), KEY, STARTS, 4)
    result = compiled(make(scan_starts=True), KEY, STARTS, 4)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), result, expected)


@pytest.mark.parametrize("clip_norm", [0.1, 100.0])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_second_order_gradient_equals_finite_differences(optimizer, clip_norm):
    with jax.enable_x64(True):
        params, probe = mlp_params(jnp.float64), jnp.array([0.3, -0.7, 1.1])

        def final(start, w):
            search = gradient_ascent(
                mlp_score({**params, "w": w}),
                OPTIMIZERS[optimizer](0.2),
                clip_norm=clip_norm,
                stop_gradient_latent_move=False,
                archive_size=1,
            )
            return run_search(search, KEY, start[None], 2).best_latents[0] @ probe

        start = jnp.array([0.1, -0.2, 0.3])
        gradients = jax.jit(jax.grad(final, argnums=(0, 1)))(start, params["w"])
        forward = jax.jit(final)
        for argument, gradient in enumerate(gradients):
            for index in np.ndindex(*gradient.shape):
                bump = [np.zeros(start.shape), np.zeros(params["w"].shape)]
                bump[argument][index] = 1e-6
                up = forward(start + bump[0], params["w"] + bump[1])
                down = forward(start - bump[0], params["w"] - bump[1])
                np.testing.assert_allclose(gradient[index], (up - down) / 2e-6, atol=1e-6)
        assert np.abs(gradients[1]).max() > 1e-3  # the ascent depends on the decoder


def test_stopped_gradient_is_adding_a_constant():
    params, probe = mlp_params(), jnp.array([0.3, -0.7, 1.1])

    def loss(start, params, stop):
        search = gradient_ascent(
            mlp_score(params), ascent_adam(0.2), stop_gradient_latent_move=stop
        )
        return jnp.sin(run_search(search, KEY, start[None], 3).best_latents[0]) @ probe

    start = jnp.array([0.1, -0.2, 0.3])
    result = compiled(gradient_ascent(mlp_score(params), ascent_adam(0.2)), KEY, start[None], 3)
    move = result.best_latents[0] - start
    assert jnp.abs(move).max() > 0.3
    expected = jax.grad(lambda start: jnp.sin(start + move) @ probe)(start)
    gradient = {
        stop: jax.jit(jax.grad(partial(loss, stop=stop), argnums=(0, 1)))
        .lower(start, params)
        .compile()
        for stop in (True, False)
    }
    stopped, full = (gradient[stop](start, params) for stop in (True, False))
    np.testing.assert_allclose(stopped[0], expected, atol=1e-6)
    assert all((g == 0).all() for g in jax.tree.leaves(stopped[1]))
    assert jnp.abs(full[0] - expected).max() > 1e-3
    flops = {stop: gradient[stop].cost_analysis()["flops"] for stop in gradient}
    assert flops[True] < 0.6 * flops[False]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_second_order_gradient_is_finite_where_the_score_is_flat(optimizer):
    def loss(start, weight):
        search = gradient_ascent(
            lambda z: constant(z)._replace(score=weight * (z**2).sum(-1)),
            OPTIMIZERS[optimizer](0.1),
            stop_gradient_latent_move=False,
        )
        return run_search(search, KEY, start[None], 2).best_latents.sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.zeros(SIZE), 0.0)
    assert all(np.isfinite(g).all() for g in gradients)
