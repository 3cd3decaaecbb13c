"""Searches against NumPy loops written from the equations, and the promises of the interface."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxtta.lpn.search import Scored, prefix_best, product_of_experts, run, start_points
from jaxtta.lpn.search_combined import hybrid, restarts
from jaxtta.lpn.search_strategies import (
    cem,
    encoder_sampling,
    evolution_strategy,
    gradient_ascent,
    local_search,
    random_search,
)

SIZE = 3
CURVATURE = np.array([0.5, 1.0, 3.0], np.float32)
KEY = jax.random.key(7)
ROOT = jax.random.fold_in(KEY, 0)  # of the searches that KEY is given to


def quadratic(target, tolerance=0.0):
    """Concave score with its maximum 0 at `target`; exact within `tolerance` of it."""

    def score(latents):
        value = -0.5 * (CURVATURE[None] * (latents - target[None]) ** 2).sum(-1)
        return Scored(value, value >= -tolerance if tolerance else jnp.zeros(value.shape, bool))

    return score


def constant(latents):
    return Scored(jnp.zeros(len(latents)), jnp.zeros(len(latents), bool))


METHODS = {
    "sgd": lambda s: gradient_ascent(s, 0.1),
    "adam": lambda s: gradient_ascent(s, 0.1, optimizer="adam"),
    "random_search": lambda s: random_search(s, num_samples=7, scale=0.5, scan_batch_size=3),
    "encoder_sampling": lambda s: encoder_sampling(
        s, jnp.ones((2, SIZE)), jnp.zeros((2, SIZE)), jnp.ones(2, bool), num_samples=6
    ),
    "local_search": lambda s: local_search(s, scale=0.5),
    "cem": lambda s: cem(s, population=8, num_elites=3, scale=0.5),
    "evolution_strategy": lambda s: evolution_strategy(s, 0.2, population=8, scale=0.1),
    "hybrid": lambda s: hybrid(local_search(s, scale=0.3), gradient_ascent(s, 0.1), 2),
    "restarts": lambda s: restarts(gradient_ascent(s, 0.3), 3, scale=0.5, patience=2),
}
every_method = pytest.mark.parametrize("name", METHODS)

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles faster
compiled = jit(run, static_argnums=(0, 3), static_argnames=("early_exit", "patience"))


@cache
def solver(name, num_steps):
    """Compiled run of a method on `weight` times the quadratic."""

    def solve(key, target, starts, start_mask, weight=1.0):
        truth = quadratic(target)
        score = lambda z: truth(z)._replace(score=weight * truth(z).score)
        return run(METHODS[name](score), key, starts, num_steps, start_mask=start_mask)

    return jit(solve)


STARTS = jnp.array([[0.0, 0.2, -0.1], [0.5, -0.5, 0.3]])
BOTH = jnp.ones(2, bool)
TARGET = jnp.array([1.0, 2.0, -1.0])


def numpy_ascent(
    gradient_fn, starts, num_steps, rate, optimizer, *, joint=False, schedule=None, b1=0.9, b2=0.9
):
    """All iterates of starts `[..., H]`: clip, then SGD or Adam, from the equations, in float64."""
    latents = np.array(starts, np.float64)
    mean, square = np.zeros_like(latents), np.zeros_like(latents)
    iterates = [latents.copy()]
    for step in range(num_steps):
        gradient = gradient_fn(latents)
        if joint:
            gradient = gradient / max(1.0, np.sqrt((gradient**2).sum()))
        else:
            for index in np.ndindex(*gradient.shape[:-1]):
                gradient[index] /= max(1.0, np.sqrt((gradient[index] ** 2).sum()))
        now = rate
        if schedule is not None:
            now = rate * (0.5 * (1 + np.cos(np.pi * step / num_steps))) ** schedule
        if optimizer == "adam":
            mean = b1 * mean + (1 - b1) * gradient
            square = b2 * square + (1 - b2) * gradient**2
            m, v = mean / (1 - b1 ** (step + 1)), square / (1 - b2 ** (step + 1))
            latents = latents + now * m / (np.sqrt(v + 1e-8) + 1e-8)
        else:
            latents = latents + now * gradient
        iterates.append(latents.copy())
    return np.stack(iterates)


def quadratic_gradient(target):
    return lambda latents: -CURVATURE * (latents - np.asarray(target))


@pytest.mark.parametrize("schedule", [None, 0.5])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_ascent_equals_numpy(optimizer, schedule):
    options = {} if schedule is None else {"lr_schedule": True, "num_steps": 9}
    search = gradient_ascent(quadratic(TARGET), 0.3, optimizer=optimizer, archive_size=4, **options)
    result = jit(lambda z: run(search, KEY, z, 9))(STARTS)
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
        search = gradient_ascent(quadratic(TARGET), rate, clip_norm=None)
        return run(search, KEY, STARTS, 5).latents

    for rate, got in zip(rates, jit(jax.vmap(latents))(rates), strict=True):
        factor = (1 - float(rate) * CURVATURE) ** np.arange(6)[:, None, None]  # closed form
        np.testing.assert_allclose(
            got, np.asarray(TARGET) + factor * np.asarray(STARTS - TARGET[None]), atol=1e-5
        )


def test_no_step_is_the_start_and_more_steps_never_hurt():
    search = gradient_ascent(quadratic(TARGET), 1.5, optimizer="adam")  # overshoots
    results = [compiled(search, KEY, STARTS[:1], k) for k in range(0, 12, 3)]
    np.testing.assert_array_equal(results[0].best_latents, np.stack([STARTS[0]] * 2))
    assert results[0].latents.shape == (1, 1, SIZE)
    best = [float(r.best_scores[0]) for r in results]
    assert best == sorted(best) and best[-1] > best[0]
    assert (
        results[-1].scores[-1, 0] < results[-1].best_scores[0]
    )  # the last iterate is not the best
    for result in results:
        rescored = quadratic(TARGET)(result.best_latents).score
        np.testing.assert_allclose(result.best_scores, rescored, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "random_search", "cem", "restarts"])
def test_prefix_equals_separate_run(name):
    prefix = jit(partial(prefix_best, steps=[0, 2, 6]))
    latents, scores = prefix(solver(name, 6)(KEY, TARGET, STARTS, BOTH))
    short = solver(name, 2)(KEY, TARGET, STARTS, BOTH)
    long = solver(name, 6)(KEY, TARGET, STARTS, BOTH)
    for i, alone in ((1, short), (2, long)):
        np.testing.assert_allclose(latents[i], alone.best_latents, atol=1e-6)
        np.testing.assert_allclose(scores[i], alone.best_scores, atol=1e-6)
    np.testing.assert_array_equal(scores[0, 0], np.asarray(short.scores[0]).max())


@every_method
def test_batched_in_shard_map_equals_single(name):
    targets = jnp.stack([TARGET, -TARGET, TARGET[::-1]])
    keys = jax.random.split(KEY, 3)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))

    def solve(key, target):
        return run(METHODS[name](quadratic(target)), key, STARTS + 0 * target[None], 6)

    spec = PartitionSpec("data")
    sharded = jax.shard_map(jax.vmap(solve), mesh=mesh, in_specs=spec, out_specs=spec)
    batched = jit(sharded)(keys, targets)
    for i in range(3):
        single = solver(name, 6)(keys[i], targets[i], STARTS, BOTH)
        for got, expected in zip(batched, single, strict=True):
            np.testing.assert_allclose(got[i], expected, atol=1e-5)


@every_method
def test_masked_starts_never_win_change_nothing_and_no_key_is_used_twice(name):
    padded = jnp.concatenate([STARTS, TARGET[None], jnp.full((1, SIZE), jnp.nan)])
    mask = jnp.array([True, True, False, False])
    plain = solver(name, 6)(KEY, TARGET, STARTS, BOTH)
    with jax.debug_key_reuse(True):
        masked = solver(name, 6)(jax.random.clone(KEY), TARGET, padded, mask)
    np.testing.assert_allclose(masked.best_latents, plain.best_latents, atol=1e-6)
    np.testing.assert_allclose(masked.best_scores, plain.best_scores, atol=1e-6)
    unmasked = solver(name, 6)(KEY, TARGET, padded, mask.at[2].set(True))
    assert unmasked.best_scores[0] == 0.0  # control: the padding is the optimum
    nothing = solver(name, 6)(KEY, TARGET, padded, mask & False)
    np.testing.assert_array_equal(nothing.scores, -np.inf)


@every_method
def test_every_method_improves_and_a_score_without_information_does_not(name):
    start = float(quadratic(TARGET)(STARTS).score.max())
    for seed in range(3):
        key = jax.random.key(seed)
        result = solver(name, 6)(key, TARGET, STARTS, BOTH)
        assert result.best_scores[0] > start + 0.1 * abs(start)
        blind = solver(name, 6)(key, TARGET, STARTS, BOTH, 0.0)
        np.testing.assert_array_equal(blind.best_latents[0], STARTS[0])  # ties: the earliest wins


@every_method
def test_step_keeps_the_structure_of_the_state(name):
    search = METHODS[name](quadratic(TARGET))
    state = jax.eval_shape(search.init, KEY, STARTS)
    expected = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    after, _ = jax.eval_shape(search.step, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == expected


def test_stepping_by_hand_equals_run():
    search = METHODS["hybrid"](quadratic(TARGET))
    expected = solver("hybrid", 6)(KEY, TARGET, STARTS, BOTH)
    state, step = jit(search.init)(KEY, STARTS), jit(search.step)
    for row in range(6):
        state, evaluated = step(state)
        np.testing.assert_allclose(evaluated.latents, expected.latents[row], atol=1e-5)
    latents, scores = search.best(state, 2)
    np.testing.assert_allclose(latents, expected.best_latents, atol=1e-5)
    np.testing.assert_allclose(scores, expected.best_scores, atol=1e-5)


@pytest.mark.parametrize("axis", [None, "tasks"])
def test_joint_clipping_equals_numpy_and_depends_on_the_batch(axis):
    targets = jnp.stack([TARGET, -2 * TARGET])

    def solve(target, scope, axis_name=None):
        search = gradient_ascent(
            quadratic(target), 0.2, clip_scope=scope, axis_name=axis_name, optimizer="sgd"
        )
        return run(search, KEY, STARTS, 6).latents

    batch = jit(jax.vmap(lambda t: solve(t, "batch", axis), axis_name="tasks"))
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
    per_latent = jit(jax.vmap(lambda t: solve(t, "latent")))
    np.testing.assert_allclose(per_latent(targets)[0], per_latent(targets[:1])[0], atol=1e-6)
    per_latent = per_latent(targets)
    assert np.abs(per_latent[0] - batched[0]).max() > 0.05


def mlp_score(params):
    def score(latents):
        value = (jnp.tanh(latents @ params["w"]) @ params["v"]).sum(-1)
        return Scored(value, jnp.zeros(value.shape, bool))

    return score


def mlp_params(dtype=jnp.float32):
    rng = np.random.default_rng(3)
    return {
        "w": jnp.asarray(rng.normal(size=(SIZE, 8)), dtype),
        "v": jnp.asarray(rng.normal(size=(8, 1)), dtype),
    }


@pytest.mark.parametrize("clip_norm", [0.1, 100.0])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_second_order_gradient_equals_finite_differences(optimizer, clip_norm):
    with jax.enable_x64(True):
        params, probe = mlp_params(jnp.float64), jnp.array([0.3, -0.7, 1.1])

        def final(start, w):
            search = gradient_ascent(
                mlp_score({**params, "w": w}),
                0.2,
                optimizer=optimizer,
                clip_norm=clip_norm,
                stop_gradient_latent_move=False,
                archive_size=1,
            )
            return run(search, KEY, start[None], 2).best_latents[0] @ probe

        start = jnp.array([0.1, -0.2, 0.3])
        gradients = jit(jax.grad(final, argnums=(0, 1)))(start, params["w"])
        forward = jit(final)
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
            mlp_score(params), 0.2, optimizer="adam", stop_gradient_latent_move=stop
        )
        return jnp.sin(run(search, KEY, start[None], 3).best_latents[0]) @ probe

    start = jnp.array([0.1, -0.2, 0.3])
    result = compiled(
        gradient_ascent(mlp_score(params), 0.2, optimizer="adam"), KEY, start[None], 3
    )
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


def test_scores_are_constants():
    search = gradient_ascent(quadratic(TARGET), 0.1, stop_gradient_latent_move=False)

    def total(starts, field):
        return getattr(run(search, KEY, starts, 2), field).sum()

    gradient = {f: jit(jax.grad(partial(total, field=f)))(STARTS) for f in ("scores", "latents")}
    np.testing.assert_array_equal(gradient["scores"], np.zeros_like(STARTS))
    assert np.abs(gradient["latents"]).min() > 0.1


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_second_order_gradient_is_finite_where_the_score_is_flat(optimizer):
    def loss(start, weight):
        search = gradient_ascent(
            lambda z: constant(z)._replace(score=weight * (z**2).sum(-1)),
            0.1,
            optimizer=optimizer,
            stop_gradient_latent_move=False,
        )
        return run(search, KEY, start[None], 2).best_latents.sum()

    gradients = jit(jax.grad(loss, argnums=(0, 1)))(jnp.zeros(SIZE), 0.0)
    assert all(np.isfinite(g).all() for g in gradients)


def test_random_search_points():
    starts = jnp.arange(3.0)[:, None] * 100 + jnp.zeros((3, 2))
    for num_samples, counts in {0: [0, 0, 0], 2: [1, 1, 0], 7: [3, 3, 1], 600: [200] * 3}.items():
        search = random_search(constant, num_samples=num_samples, scale=0.5)
        result = compiled(search, KEY, starts, 0)
        assert result.latents.shape == (1, 3 + num_samples, 2)
        np.testing.assert_array_equal(result.latents[0, :3], starts)
        nearest = np.round(np.asarray(result.latents[0, 3:, 0]) / 100).astype(int)
        np.testing.assert_array_equal(np.bincount(nearest, minlength=3), counts)
    noise = np.asarray(result.latents[0, 3:]) - np.repeat(starts, 200, axis=0)
    # 1200 draws: standard errors 0.014 of the mean and 0.010 of the standard deviation.
    assert abs(noise.mean()) < 0.06 and abs(noise.std() - 0.5) < 0.04
    masked = compiled(search, KEY, starts, 0, start_mask=jnp.array([True, False, True]))
    nearest = np.round(np.asarray(masked.latents[0, 3:, 0]) / 100).astype(int)
    np.testing.assert_array_equal(np.bincount(nearest), [300, 0, 300])


def test_random_search_draws_again_at_every_step():
    search = random_search(quadratic(TARGET), num_samples=4, scale=0.5)
    result = compiled(search, KEY, STARTS, 2)
    np.testing.assert_array_equal(
        np.isfinite(result.scores), [[True] * 6] + [[False] * 2 + [True] * 4] * 2
    )
    points = np.asarray(result.latents[:, 2:]).reshape(-1, SIZE)
    assert len(np.unique(points, axis=0)) == 12


@pytest.mark.parametrize("chunk", [1, 5, 50])
def test_scoring_in_chunks_changes_nothing(chunk):
    make = partial(random_search, mlp_score(mlp_params()), num_samples=11, scale=0.5)
    expected = compiled(make(), KEY, STARTS, 0)
    result = compiled(make(scan_batch_size=chunk), KEY, STARTS, 0)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), result, expected)


def test_one_start_at_a_time_changes_nothing():
    make = partial(gradient_ascent, mlp_score(mlp_params()), 0.3, optimizer="adam")
    expected = compiled(make(), KEY, STARTS, 4)
    result = compiled(make(scan_starts=True), KEY, STARTS, 4)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), result, expected)


@pytest.mark.parametrize("early_exit", [False, True])
def test_one_scoring_call_per_step_and_one_at_the_end(early_exit):
    calls = []

    def counted(latents):
        jax.debug.callback(lambda: calls.append(len(latents)))
        return quadratic(TARGET)(latents)

    solve = jit(lambda z: run(gradient_ascent(counted, 0.1), KEY, z, 6, early_exit=early_exit))
    jax.block_until_ready(solve(STARTS))
    jax.effects_barrier()
    assert calls == [2] * 7


def test_early_exit_freezes_finished_problems():
    # Row k of the scores tells how far each problem is after k steps, without early exit.
    targets = jnp.stack([STARTS[0] + 0.01, STARTS[0] + 0.5, STARTS[0] + 30.0, STARTS[0] + 1.0])

    def solve(target, early_exit, num_steps=25, patience=None):
        search = gradient_ascent(quadratic(target, tolerance=0.01), 0.2)
        return run(search, KEY, STARTS[:1], num_steps, early_exit=early_exit, patience=patience)

    full = jit(jax.vmap(partial(solve, early_exit=False)))(targets)
    single = jit(partial(solve, early_exit=True))
    early = jit(jax.vmap(partial(solve, early_exit=True)))(targets)
    first_exact = [int(np.argmax(s >= -0.01)) if (s >= -0.01).any() else 25 for s in full.scores]
    assert first_exact[0] == 0 and 0 < first_exact[1] < first_exact[3] < 25 == first_exact[2]
    np.testing.assert_array_equal(early.steps_used, first_exact)
    np.testing.assert_array_equal(early.exact, [True, True, False, True])
    np.testing.assert_array_equal(full.steps_used, [25] * 4)
    for i, used in enumerate(first_exact):
        kept = early.scores[i, : used + 1]
        np.testing.assert_allclose(kept, full.scores[i, : used + 1], atol=1e-5)
        assert (early.scores[i, used + 1 :] == -np.inf).all()
        alone = single(targets[i])
        np.testing.assert_array_equal(alone.steps_used, used)
        np.testing.assert_allclose(alone.best_latents, early.best_latents[i], atol=1e-5)
    # Frozen bit for bit: ending the whole batch once problem 1 is done gives it the same result.
    steps = first_exact[1] + 1
    stopped = jit(jax.vmap(partial(solve, early_exit=True, num_steps=steps)))(targets)
    np.testing.assert_array_equal(stopped.best_latents[1], early.best_latents[1])
    np.testing.assert_array_equal(stopped.best_scores[1], early.best_scores[1])
    assert np.abs(stopped.best_latents[2] - early.best_latents[2]).max() > 0.1  # still moving


def test_patience_stops_after_rounds_without_a_better_score():
    target = STARTS[0] + jnp.array([0.35, 0.0, 0.0])
    search = gradient_ascent(quadratic(target), 1.0, optimizer="adam", clip_norm=None)
    full = compiled(search, KEY, STARTS[:1], 30)
    best = np.maximum.accumulate(np.asarray(full.scores[:, 0]))
    improved = np.concatenate([[True], best[1:] > best[:-1]])
    stall = np.array([i - np.flatnonzero(improved[: i + 1])[-1] for i in range(31)])
    for patience in (1, 3):
        stopped = compiled(search, KEY, STARTS[:1], 30, early_exit=True, patience=patience)
        assert stopped.steps_used == np.argmax(stall >= patience) < 30
    np.testing.assert_array_equal(
        compiled(search, KEY, STARTS[:1], 5, early_exit=True).best_latents,
        compiled(search, KEY, STARTS[:1], 5).best_latents,
    )


def test_masked_starts_do_not_enter_the_joint_norm():
    search = gradient_ascent(quadratic(TARGET), 0.2, clip_scope="batch")
    padded = jnp.concatenate([STARTS, jnp.full((1, SIZE), 50.0)])
    masked = compiled(search, KEY, padded, 4, start_mask=jnp.array([True, True, False]))
    plain = compiled(search, KEY, STARTS, 4)
    np.testing.assert_allclose(masked.latents[:, :2], plain.latents, atol=1e-6)
    assert np.abs(compiled(search, KEY, padded, 4).latents[:, :2] - plain.latents).max() > 0.1


def test_no_key_is_used_twice_control():
    with jax.debug_key_reuse(True), pytest.raises(jax.errors.KeyReuseError):
        key = jax.random.key(12)
        start = jax.random.normal(key, (1, SIZE))
        start_points(start, jnp.ones(1, bool), key, random_perturbation=(2, 0.1))


def test_noise_differs_from_start_latents_drawn_with_the_same_key():
    starts = jax.random.normal(KEY, (400, SIZE))
    for make in (
        partial(random_search, num_samples=400, scale=1.0),
        partial(local_search, scale=1.0),
    ):
        latents = compiled(make(constant), KEY, starts, 1).latents
        noise = np.asarray(latents[-1, -400:] - starts)
        # 1200 independent pairs: standard error of the correlation 0.03.
        assert abs(np.corrcoef(noise.ravel(), np.asarray(starts).ravel())[0, 1]) < 0.15


@pytest.mark.parametrize("name", ["adam", "restarts"])
def test_early_exit_inside_shard_map(name):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))

    def solve(target):
        search = METHODS[name](quadratic(target, tolerance=2.0))
        return run(search, KEY, STARTS + 0 * target[None], 6, early_exit=True, patience=3)

    spec, targets = PartitionSpec("data"), jnp.stack([TARGET, -TARGET])
    sharded = jax.shard_map(jax.vmap(solve), mesh=mesh, in_specs=spec, out_specs=spec)
    for got, expected in zip(jit(sharded)(targets), jit(jax.vmap(solve))(targets), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_local_search_keeps_only_improvements():
    search = local_search(quadratic(TARGET), scale=0.4)
    result = compiled(search, KEY, STARTS, 20)
    latents, scores = np.asarray(result.latents), np.asarray(result.scores)
    rejected = 0
    for chain in range(2):
        current, best = latents[0, chain], scores[0, chain]
        for step in range(1, 21):
            key = jax.random.fold_in(jax.random.fold_in(ROOT, step), chain)
            mutated = current + 0.4 * np.asarray(jax.random.normal(key, (SIZE,)))
            np.testing.assert_allclose(latents[step, chain], mutated, atol=1e-5)
            rejected += scores[step, chain] <= best
            if scores[step, chain] > best:
                current, best = latents[step, chain], scores[step, chain]
    assert 0 < rejected < 40


def test_cem_fits_the_elites():
    search = cem(quadratic(TARGET), population=6, num_elites=3, scale=0.5, smoothing=0.7)
    result = compiled(search, KEY, STARTS, 1)
    latents = np.asarray(result.latents).reshape(2, 2, 7, SIZE)
    scores = np.asarray(result.scores).reshape(2, 2, 7)
    np.testing.assert_array_equal(latents[0, :, 0], STARTS)
    for start in range(2):
        elites = latents[0, start][np.argsort(-scores[0, start])[:3]]
        mean = 0.3 * np.asarray(STARTS[start]) + 0.7 * elites.mean(0)
        deviation = 0.3 * 0.5 + 0.7 * elites.std(0)
        np.testing.assert_allclose(latents[1, start, 0], mean, atol=1e-6)
        key = jax.random.fold_in(jax.random.fold_in(ROOT, 1), start)
        noise = np.asarray(jax.random.normal(key, (6, SIZE)))
        np.testing.assert_allclose(latents[1, start, 1:], mean + deviation * noise, atol=1e-5)


def test_evolution_strategy_follows_the_ranked_estimate():
    search = evolution_strategy(quadratic(TARGET), 0.2, population=4, scale=0.1)
    result = compiled(search, KEY, STARTS, 1)
    latents = np.asarray(result.latents).reshape(2, 2, 5, SIZE)
    scores = np.asarray(result.scores).reshape(2, 2, 5)
    for start in range(2):
        noise = (latents[0, start, 1:] - latents[0, start, 0]) / 0.1
        np.testing.assert_allclose(noise[:2], -noise[2:], atol=1e-4)
        ranks = np.argsort(np.argsort(scores[0, start, 1:])) / 3 - 0.5
        gradient = (ranks[:, None] * noise).sum(0) / (4 * 0.1)
        first_adam_step = 0.2 * gradient / (np.abs(gradient) + 1e-8)
        np.testing.assert_allclose(
            latents[1, start, 0], latents[0, start, 0] + first_adam_step, atol=1e-5
        )


def test_encoder_sampling_draws_the_mean_of_one_sample_per_pair():
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=(2, 3, SIZE)).astype(np.float32)
    mask = jnp.array([True, True, False])
    search = encoder_sampling(constant, mean, logvar, mask, num_samples=4000)
    samples = np.asarray(compiled(search, KEY, STARTS, 0).latents[0, 2:])
    deviation = np.sqrt(np.exp(logvar[:2]).sum(0)) / 2
    np.testing.assert_allclose(samples.mean(0), mean[:2].mean(0), atol=5 * deviation.max() / 63)
    np.testing.assert_allclose(samples.std(0), deviation, rtol=0.06)  # standard error 1.1 %


def test_hybrid_hands_the_best_candidate_over():
    score = quadratic(TARGET)
    search = hybrid(
        cem(score, population=6, num_elites=2, scale=0.5), gradient_ascent(score, 0.2), 3
    )
    result = compiled(search, KEY, STARTS, 8)
    flat = np.asarray(result.scores[:3]).ravel()
    best = np.asarray(result.latents[:3]).reshape(-1, SIZE)[np.argmax(flat)]
    iterates = numpy_ascent(quadratic_gradient(TARGET), best[None], 5, 0.2, "sgd")
    np.testing.assert_allclose(result.latents[3:, :1], iterates, atol=1e-5)
    np.testing.assert_array_equal(
        np.isfinite(result.scores), [[True] * 14] * 3 + [[True] + [False] * 13] * 6
    )
    assert np.asarray(result.best_scores)[0] == np.asarray(result.scores).max()


def test_restarts_begin_again_and_keep_the_best():
    inner = gradient_ascent(quadratic(TARGET), 0.2)
    again = compiled(restarts(inner, 3, scale=0.0), KEY, STARTS, 8)
    once = compiled(inner, KEY, STARTS, 2)
    np.testing.assert_allclose(again.latents, np.tile(once.latents, (3, 1, 1)), atol=1e-6)
    np.testing.assert_array_equal(again.best_scores, once.best_scores)
    moved = compiled(restarts(inner, 3, scale=1.0), KEY, STARTS, 8)
    rounds = [np.asarray(moved.latents[i]) for i in (0, 3, 6)]
    np.testing.assert_array_equal(rounds[0], STARTS)
    assert all(np.abs(a - b).min() > 1e-3 for a, b in zip(rounds, rounds[1:], strict=False))
    # At the optimum nothing improves: each round is its start and `patience` stalled steps.
    stalled = compiled(restarts(inner, 100, scale=0.5, patience=2), KEY, TARGET[None], 6)
    distance = np.abs(np.asarray(stalled.latents[:, 0]) - np.asarray(TARGET)).max(-1)
    assert (distance[:3] == 0).all() and distance[3] > 0.05


def test_nan_never_wins_and_duplicates_are_no_second_attempt():
    def score(latents):
        value = jnp.where(latents[:, 0] > 0.4, jnp.nan, latents[:, 0])
        return Scored(value, jnp.ones(value.shape, bool))

    starts = jnp.array([[0.3, 0.0, 0.0], [0.9, 0.0, 0.0]])
    result = compiled(gradient_ascent(score, 0.2), KEY, starts, 3)
    assert (result.best_scores == 0.3).all() and (result.best_latents[:, 0] == 0.3).all()
    flat = compiled(gradient_ascent(quadratic(TARGET), 0.1), KEY, jnp.stack([TARGET, STARTS[0]]), 4)
    np.testing.assert_array_equal(flat.best_latents[0], TARGET)  # seen five times
    assert flat.best_scores[1] == flat.scores[-1, 1] < 0
    tied = compiled(gradient_ascent(constant, 0.1, archive_size=3), KEY, STARTS, 2)
    np.testing.assert_array_equal(tied.best_latents, STARTS[jnp.array([0, 1, 0])])


def test_start_points():
    rng = np.random.default_rng(1)
    samples, mask = rng.normal(size=(4, SIZE)).astype(np.float32), np.array([1, 0, 1, 1], bool)
    mean = samples[[0, 2, 3]].mean(0)
    starts, valid = start_points(jnp.asarray(samples), jnp.asarray(mask))
    np.testing.assert_allclose(starts, mean[None], atol=1e-6)
    np.testing.assert_array_equal(valid, [True])
    starts, valid = start_points(
        jnp.asarray(samples),
        jnp.asarray(mask),
        KEY,
        include_all_latents=True,
        random_perturbation=(2, 0.5),
    )
    np.testing.assert_allclose(starts[0], mean, atol=1e-6)
    np.testing.assert_allclose(
        starts[1:3], mean + 0.5 * np.asarray(jax.random.normal(KEY, (2, SIZE))), atol=1e-6
    )
    np.testing.assert_array_equal(starts[3:], samples)
    np.testing.assert_array_equal(valid, [True] * 3 + list(mask))
    starts, valid = start_points(
        jnp.asarray(samples), jnp.asarray(mask), include_mean_latent=False, include_all_latents=True
    )
    np.testing.assert_array_equal(starts, samples)
    np.testing.assert_array_equal(valid, mask)
    starts, _ = start_points(jnp.asarray(samples), jnp.asarray(mask), mean_latent=TARGET)
    np.testing.assert_array_equal(starts, TARGET[None])
    empty, _ = start_points(jnp.asarray(samples), jnp.zeros(4, bool))
    np.testing.assert_array_equal(empty, np.zeros((1, SIZE)))


def test_product_of_experts_is_the_product_of_densities():
    rng = np.random.default_rng(2)
    mean, logvar = rng.normal(size=(2, 3, SIZE)).astype(np.float32)
    got_mean, got_logvar = product_of_experts(mean, logvar, jnp.array([True, False, True]))
    grid = np.linspace(-15, 15, 20001)[:, None]
    density = np.exp(
        sum(-0.5 * (grid - mean[j]) ** 2 / np.exp(logvar[j]) for j in (0, 2)).astype(np.float64)
    )
    density /= density.sum(0)
    expected = (density * grid).sum(0)
    np.testing.assert_allclose(got_mean, expected, atol=1e-5)
    np.testing.assert_allclose(
        np.exp(got_logvar), (density * (grid - expected) ** 2).sum(0), rtol=1e-4
    )
    for value in product_of_experts(mean, logvar, jnp.zeros(3, bool)):
        np.testing.assert_array_equal(value, np.zeros(SIZE))


SCORE = quadratic(TARGET)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: start_points(STARTS, jnp.ones(2), include_mean_latent=False), "no start point"),
        (lambda: start_points(STARTS, jnp.ones(2), random_perturbation=(1, 0.1)), "a key"),
        (lambda: gradient_ascent(SCORE, 0.1, optimizer="rmsprop"), "'rmsprop'; use 'sgd' or"),
        (lambda: gradient_ascent(SCORE, 0.1, clip_scope="all"), "'all'; use 'latent' or"),
        (lambda: gradient_ascent(SCORE, 0.1, axis_name="tasks"), "needs clip_scope='batch'"),
        (lambda: gradient_ascent(SCORE, 0.1, lr_schedule=True), "needs num_steps"),
        (lambda: random_search(SCORE, num_samples=-1, scale=1.0), "num_samples is -1"),
        (lambda: random_search(SCORE, num_samples=1, scale=1.0, scan_batch_size=0), "size is 0"),
        (lambda: cem(SCORE, population=4, num_elites=6, scale=1.0), "use 1 to 5"),
        (lambda: evolution_strategy(SCORE, 0.1, population=3, scale=1.0), "needs 2, 4, 6"),
        (lambda: hybrid(None, None, 0), "at least 1 step"),
        (lambda: restarts(None, 0, scale=1.0), "at least 1 step"),
        (lambda: run(gradient_ascent(SCORE, 0.1), KEY, STARTS, -1), "num_steps is -1"),
        (
            lambda: run(gradient_ascent(SCORE, 0.1), KEY, STARTS, 1, patience=2),
            "early_exit=True",
        ),
        (lambda: run(gradient_ascent(SCORE, 0.1), KEY, STARTS[None], 1), r"\(1, 2, 3\)"),
        (lambda: run(gradient_ascent(SCORE, 0.1), KEY, jnp.ones((2, 3), int), 1), "floating"),
        (
            lambda: run(gradient_ascent(SCORE, 0.1), KEY, STARTS, 1, start_mask=jnp.ones(3)),
            r"start_mask has shape \(3,\)",
        ),
        (
            lambda: run(gradient_ascent(SCORE, 0.1, archive_size=0), KEY, STARTS, 1),
            "at least 1",
        ),
        (
            lambda: run(local_search(lambda z: Scored(z, z), scale=0.1), KEY, STARTS, 1),
            r"expected \(2,\) for both",
        ),
        (
            lambda: prefix_best(run(local_search(SCORE, scale=0.1), KEY, STARTS, 2), [3]),
            "0 to 2",
        ),
        (
            lambda: (s := local_search(SCORE, scale=0.1)).best(s.init(KEY, STARTS), 3),
            "archive_size=3",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
