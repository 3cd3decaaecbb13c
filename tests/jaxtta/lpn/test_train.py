"""How a batch is cut, the optimiser and the search modes of training, against plain loops."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta.lpn import (
    Grid,
    Pairs,
    Posterior,
    Starts,
    adamw,
    ascent_adam,
    cut,
    from_padded,
    gradient_ascent,
    search_context,
    start_points,
    training,
)
from jaxtta.lpn.loss import Leftout
from jaxtta.lpn.search import Scored, run_search
from jaxtta.lpn.train import Tasks

SIDE, PAIRS, TASKS = 3, 2, 8
KEY = jax.random.key(0)


def random_pairs(seed=0):
    """`[TASKS, PAIRS]`; the second half of the tasks has small grids."""
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 10, (TASKS, PAIRS, SIDE, SIDE, 2), dtype=np.uint8)
    shapes = rng.integers(1, SIDE + 1, (TASKS, PAIRS, 2, 2))
    shapes[TASKS // 2 :] = np.minimum(shapes[TASKS // 2 :], 2)
    return jax.device_get(jax.jit(from_padded)(squares, shapes))


def toy_init(key):
    return {"colour": 0.1 * jax.random.normal(key, (10,)), "scale": jnp.ones(())}


def toy_loss(params, pairs, key):
    """Loss of one task: depends on every cell, on the task's key and on no padding."""
    cells, shape = pairs.inputs
    valid = jnp.arange(cells.shape[-1])[None] < shape.prod(-1, keepdims=True)
    value = jnp.where(valid, params["colour"][cells], 0.0).sum(-1) + jax.random.normal(key)
    loss = jnp.tanh(value * params["scale"]).mean() + 2.0
    return loss, {"loss": loss, "cells": valid.sum() / 1.0}


CORE = training(toy_init, toy_loss, adamw(1e-1, clip_norm=0.5))


@cache
def compiled():
    return jax.jit(CORE.init), jax.jit(CORE.update)


def select(pairs, index, length=None):
    """Tasks `index` of a batch, with streams cut to `length`."""
    shorter = lambda grid: Grid(grid.cells[index, :, :length], grid.shape[index])
    return Pairs(shorter(pairs.inputs), shorter(pairs.outputs), pairs.mask[index])


def group(pairs, index, num_micro_batches=1, fillers=0, length=None):
    """One group of the tasks `index`, with zero-weight copies of task 0 at the end."""
    index = np.array(index)
    (tasks,) = cut(
        select(pairs, np.append(index, np.zeros(fillers, int)), length),
        jnp.append(index, 1000 + jnp.arange(fillers)),
        num_micro_batches,
    )
    place = np.arange(len(index) + fillers).reshape(tasks.weight.shape)
    return tasks._replace(weight=jnp.where(place < len(index), 1.0, 0.0))


EVERY = list(range(TASKS))
LARGE, SMALL = EVERY[: TASKS // 2], EVERY[TASKS // 2 :]
CUTS = {
    "four micro-batches": lambda p: (group(p, EVERY, 4),),
    "one task each": lambda p: (group(p, EVERY, 8),),
    "another order": lambda p: (group(p, EVERY[::-1], 2),),
    "two buckets": lambda p: (group(p, LARGE), group(p, SMALL, length=4)),
    "two cut buckets": lambda p: (group(p, LARGE, 2), group(p, SMALL, 4, length=4)),
    "fillers": lambda p: (group(p, EVERY, 1, fillers=3),),
    "filled micro-batches": lambda p: (group(p, LARGE, 2), group(p, SMALL, 3, fillers=5)),
}


def expected_update(pairs):
    """Loss, gradient and metrics by a mean over tasks, without micro-batches."""

    def total(params):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(TASKS))
        losses, metrics = jax.vmap(toy_loss, (None, 0, 0))(params, pairs, keys)
        return losses.mean(), metrics

    params = compiled()[0](KEY).params
    (_, metrics), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    return gradient, jax.tree.map(lambda x: x.mean(), metrics)


def test_update_is_one_step_on_the_mean_over_tasks():
    pairs = random_pairs()
    init, update = compiled()
    state = init(KEY)
    gradient, metrics = expected_update(pairs)
    optimizer = adamw(1e-1, clip_norm=0.5)
    updates, _ = optimizer.update(gradient, optimizer.init(state.params), state.params)
    new, output = update(state, cut(pairs, jnp.arange(TASKS)), KEY)
    for name, leaf in optax.apply_updates(state.params, updates).items():
        np.testing.assert_allclose(new.params[name], leaf, rtol=1e-5)
        assert abs(leaf - state.params[name]).max() > 1e-5
    norm = np.sqrt(sum((np.array(leaf) ** 2).sum() for leaf in jax.tree.leaves(gradient)))
    expected = metrics | {"grad_norm": norm, "learning_rate": 1e-1 / 100}
    assert output.metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(output.metrics[name], value, rtol=1e-5)


@pytest.mark.parametrize("name", CUTS)
def test_how_the_batch_is_cut_does_not_matter(name):
    pairs = random_pairs()
    init, update = compiled()
    state = init(KEY)
    whole = update(state, cut(pairs, jnp.arange(TASKS)), KEY)
    pieces = update(state, CUTS[name](pairs), KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), pieces, whole)


def test_other_places_or_weights_give_other_numbers():
    pairs = random_pairs()
    init, update = compiled()
    (tasks,) = cut(pairs, jnp.arange(TASKS))
    loss = lambda tasks: update(init(KEY), (tasks,), KEY)[1].metrics["loss"]
    assert abs(loss(tasks) - loss(tasks._replace(index=tasks.index + 1))) > 1e-4
    half = tasks._replace(weight=tasks.weight.at[: TASKS // 2].set(0.0))
    assert abs(loss(tasks) - loss(half)) > 1e-4


def test_micro_batches_without_weight_are_skipped():
    """They never run: a loss that is infinite on fillers does no harm."""

    def loss_fn(params, pairs, key):
        loss = params["scale"] * jnp.where(pairs.mask.all(), 1.0, jnp.inf)
        return loss, {"loss": loss}

    core = training(toy_init, loss_fn, optax.sgd(0.1))
    tasks = group(random_pairs(), LARGE, 4, fillers=4)  # [2, 4]: task t in micro-batch t % 4
    order = np.argsort(np.array(tasks.weight).ravel() == 0, kind="stable").reshape(4, 2).T
    tasks = jax.tree.map(lambda x: x.reshape(8, *x.shape[2:])[order], tasks)
    np.testing.assert_array_equal(tasks.weight, [[1, 1, 0, 0]] * 2)
    mask = jnp.broadcast_to(tasks.weight[..., None] > 0, tasks.pairs.mask.shape)
    tasks = tasks._replace(pairs=tasks.pairs._replace(mask=mask))
    state, output = jax.jit(core.update)(compiled()[0](KEY), (tasks,), KEY)
    assert output.metrics["loss"] == 1
    np.testing.assert_allclose(state.params["scale"], 0.9, rtol=1e-6)


def test_cut_keeps_every_task_once():
    pairs = random_pairs()
    (tasks,) = cut(pairs, jnp.arange(TASKS), 4)
    assert isinstance(tasks, Tasks) and tasks.index.shape == tasks.weight.shape == (2, 4)
    assert sorted(np.array(tasks.index).ravel()) == EVERY and (tasks.weight == 1).all()
    for place in np.ndindex(2, 4):
        np.testing.assert_array_equal(
            tasks.pairs.inputs.cells[place], pairs.inputs.cells[tasks.index[place]]
        )
    with pytest.raises(ValueError, match="8 tasks cannot be cut into 3 micro-batches"):
        cut(pairs, jnp.arange(TASKS), 3)


# --- Optimiser ------------------------------------------------------------------------------------


def numpy_adamw(params, gradients, rate):
    """Clip by global norm 1, then AdamW with a linear warm-up over 99 steps, in float64."""
    mean, square = np.zeros_like(params), np.zeros_like(params)
    for t, gradient in enumerate(gradients):
        gradient = gradient * min(1.0, 1.0 / np.linalg.norm(gradient))
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        step = (mean / (1 - 0.9 ** (t + 1))) / (np.sqrt(square / (1 - 0.999 ** (t + 1))) + 1e-8)
        lr = rate / 100 + (rate - rate / 100) * min(t / 99, 1.0)
        params = params - lr * (step + 1e-4 * params)
        yield params


def test_adamw_equals_a_loop():
    rng = np.random.default_rng(0)
    params, rate = 100 * rng.normal(size=4), 0.05
    # Below and above the clipping norm; the decay is visible because the parameters are large.
    gradients = rng.normal(size=(130, 4)) * rng.choice([0.1, 3.0], (130, 1))
    optimizer = adamw(rate)

    @jax.jit
    def optimize(params, gradients):
        def step(carry, gradient):
            params, state = carry
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.lax.scan(step, (params, optimizer.init(params)), gradients)[1]

    path = optimize(jnp.float32(params), jnp.float32(gradients))
    expected = np.array(list(numpy_adamw(params, gradients, rate)))
    for t in (0, 1, 2, 98, 99, 100, 129):
        np.testing.assert_allclose(path[t] - path[0], expected[t] - expected[0], atol=1e-3)
        np.testing.assert_allclose(path[t], expected[t], rtol=2e-6)
    # The first step is a hundredth of a step after the warm-up.
    sizes = abs(np.diff(expected, axis=0)).max(-1)
    assert 20 < sizes[99:].max() / abs(expected[0] - params).max() < 300


def test_adamw_is_the_published_chain_bit_for_bit():
    schedule = optax.linear_schedule(4e-4 / 100, 4e-4, 9)
    published = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-4)
    )
    params = {"w": jnp.linspace(-1.0, 1.0, 7)}

    def run(optimizer):
        def body(carry, key):
            params, state = carry
            updates, state = optimizer.update({"w": jax.random.normal(key, (7,))}, state, params)
            return (optax.apply_updates(params, updates), state), updates["w"]

        keys = jax.random.split(jax.random.key(0), 20)
        return jax.jit(lambda p: jax.lax.scan(body, (p, optimizer.init(p)), keys)[1])(params)

    np.testing.assert_array_equal(run(adamw(4e-4, warmup_steps=9)), run(published))
    np.testing.assert_array_equal(run(adamw(schedule)), run(published))


def test_adamw_numbers_may_be_swept():
    def first_step(rate, decay, norm):
        optimizer = adamw(rate, weight_decay=decay, clip_norm=norm, warmup_steps=0)
        params = jnp.ones(2)
        return optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(params), params)[0]

    rates, decays = jnp.array([1e-3, 1e-2]), jnp.array([0.0, 0.1])
    steps = jax.jit(jax.vmap(first_step))(rates, decays, jnp.array([1.0, 2.0]))
    for rate, decay, step in zip(rates, decays, steps, strict=True):
        np.testing.assert_allclose(step, -rate * (1 + decay) * jnp.ones(2), rtol=1e-5)


# --- Search as a training mode --------------------------------------------------------------------


def leftout(mask):
    rng = np.random.default_rng(1)
    latents = jnp.float32(rng.normal(size=(len(mask), 3)))
    pairs = jax.tree.map(lambda x: x[: len(mask), 0], random_pairs())
    pairs = pairs._replace(mask=jnp.array(mask))
    return Leftout(latents, Posterior(latents, None), pairs)


def quadratic(latents):
    score = -((latents - jnp.array([[1.0, 2.0, 3.0]])) ** 2).sum(-1)
    return Scored(score, jnp.zeros(score.shape, bool))


def test_search_context_is_the_winner_of_a_search_from_the_other_latents():
    make_search = partial(gradient_ascent, optimizer=ascent_adam(0.1))
    others = leftout([True, True, False])
    context = jax.jit(lambda o: search_context(make_search, 4)(o, quadratic, KEY))(others)
    start = np.array(others.latents)[:2].mean(0)
    result = jax.jit(lambda z: run_search(make_search(quadratic), KEY, z, 4))(
        jnp.array(start)[None]
    )
    np.testing.assert_allclose(context, result.latents[4, 0], rtol=1e-5)  # uphill all the way
    assert quadratic(context[None]).score > quadratic(jnp.array(start)[None]).score


def test_search_context_passes_start_options_on():
    make_search = partial(gradient_ascent, optimizer=optax.sgd(0.1))
    others = leftout([True, True, False])
    chosen = Starts(include_mean_latent=False, include_all_latents=True)
    context = search_context(make_search, 0, chosen)(others, quadratic, KEY)
    starts, mask = start_points(others.latents, others.pairs.mask, starts=chosen)
    best = np.argmax(np.where(mask, quadratic(starts).score, -np.inf))
    np.testing.assert_array_equal(context, others.latents[best])


def test_a_search_that_gets_worse_gives_the_best_latent_it_met():
    """Steps of twice the gradient of -z^2 / 2 turn z into -z, of three times into -2 z."""
    score = lambda z: Scored(-0.5 * (z**2).sum(-1), jnp.zeros(len(z), bool))
    latents = jnp.array([[0.5, -0.25], [0.1, 0.45]])
    pairs = jax.tree.map(lambda x: x[0], random_pairs())
    others = Leftout(latents, Posterior(latents, None), pairs)
    search = partial(gradient_ascent, optimizer=optax.sgd(3.0), clip_norm=None)
    found = search_context(search, 3)(others, score, KEY)
    np.testing.assert_allclose(found, latents.mean(0), rtol=1e-6)
