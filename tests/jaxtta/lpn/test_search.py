"""The promises that every search keeps: masks, ties, prefixes, early exit, batches."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxtta.lpn import Starts, start_points
from jaxtta.lpn.search import Scored, prefix_best, run_search
from jaxtta.lpn.strategies import (
    ascent_adam,
    cem,
    encoder_sampling,
    evolution_strategy,
    gradient_ascent,
    hybrid,
    local_search,
    random_search,
    restarts,
)
from tests.jaxtta.lpn.landscapes import (
    KEY,
    SIZE,
    STARTS,
    TARGET,
    compiled,
    constant,
    quadratic,
)

METHODS = {
    "sgd": lambda s: gradient_ascent(s, optax.sgd(0.1)),
    "adam": lambda s: gradient_ascent(s, ascent_adam(0.1)),
    "random_search": lambda s: random_search(s, num_samples=7, scale=0.5, scan_batch_size=3),
    "encoder_sampling": lambda s: encoder_sampling(
        s, jnp.ones((2, SIZE)), jnp.zeros((2, SIZE)), jnp.ones(2, bool), num_samples=6
    ),
    "local_search": lambda s: local_search(s, scale=0.5),
    "cem": lambda s: cem(s, population=8, num_elites=3, scale=0.5),
    "evolution_strategy": lambda s: evolution_strategy(s, 0.2, population=8, scale=0.1),
    "hybrid": lambda s: hybrid(local_search(s, scale=0.3), gradient_ascent(s, optax.sgd(0.1)), 2),
    "restarts": lambda s: restarts(gradient_ascent(s, optax.sgd(0.3)), 3, scale=0.5, patience=2),
}
every_method = pytest.mark.parametrize("name", METHODS)
BOTH = jnp.ones(2, bool)


@cache
def solver(name, num_steps):
    """Compiled run of a method on `weight` times the quadratic."""

    def solve(key, target, starts, start_mask, weight=1.0):
        truth = quadratic(target)
        score = lambda z: truth(z)._replace(score=weight * truth(z).score)
        return run_search(METHODS[name](score), key, starts, num_steps, start_mask=start_mask)

    return jax.jit(solve)


def test_no_step_is_the_start_and_more_steps_never_hurt():
    search = gradient_ascent(quadratic(TARGET), ascent_adam(1.5))  # overshoots
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
    prefix = jax.jit(partial(prefix_best, steps=[0, 2, 6]))
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
        return run_search(METHODS[name](quadratic(target)), key, STARTS + 0 * target[None], 6)

    spec = PartitionSpec("data")
    sharded = jax.shard_map(jax.vmap(solve), mesh=mesh, in_specs=spec, out_specs=spec)
    batched = jax.jit(sharded)(keys, targets)
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
    state, step = jax.jit(search.init)(KEY, STARTS), jax.jit(search.step)
    for row in range(6):
        state, evaluated = step(state)
        np.testing.assert_allclose(evaluated.latents, expected.latents[row], atol=1e-5)
    latents, scores = search.best(state, 2)
    np.testing.assert_allclose(latents, expected.best_latents, atol=1e-5)
    np.testing.assert_allclose(scores, expected.best_scores, atol=1e-5)


def test_scores_are_constants():
    search = gradient_ascent(quadratic(TARGET), optax.sgd(0.1), stop_gradient_latent_move=False)

    def total(starts, field):
        return getattr(run_search(search, KEY, starts, 2), field).sum()

    gradient = {
        f: jax.jit(jax.grad(partial(total, field=f)))(STARTS) for f in ("scores", "latents")
    }
    np.testing.assert_array_equal(gradient["scores"], np.zeros_like(STARTS))
    assert np.abs(gradient["latents"]).min() > 0.1


@pytest.mark.parametrize("early_exit", [False, True])
def test_one_scoring_call_per_step_and_one_at_the_end(early_exit):
    calls = []

    def counted(latents):
        jax.debug.callback(lambda: calls.append(len(latents)))
        return quadratic(TARGET)(latents)

    solve = jax.jit(
        lambda z: run_search(
            gradient_ascent(counted, optax.sgd(0.1)), KEY, z, 6, early_exit=early_exit
        )
    )
    jax.block_until_ready(solve(STARTS))
    jax.effects_barrier()
    assert calls == [2] * 7


def test_early_exit_freezes_finished_problems():
    # Row k of the scores tells how far each problem is after k steps, without early exit.
    targets = jnp.stack([STARTS[0] + 0.01, STARTS[0] + 0.5, STARTS[0] + 30.0, STARTS[0] + 1.0])

    def solve(target, early_exit, num_steps=25, patience=None):
        search = gradient_ascent(quadratic(target, tolerance=0.01), optax.sgd(0.2))
        return run_search(
            search, KEY, STARTS[:1], num_steps, early_exit=early_exit, patience=patience
        )

    full = jax.jit(jax.vmap(partial(solve, early_exit=False)))(targets)
    single = jax.jit(partial(solve, early_exit=True))
    early = jax.jit(jax.vmap(partial(solve, early_exit=True)))(targets)
    first_exact = [int(np.argmax(s >= -0.01)) if (s >= -0.01).any() else 25 for s in full.scores]
    assert first_exact[0] == 0 and 0 < first_exact[1] < first_exact[3] < 25 == first_exact[2]
    np.testing.assert_array_equal(early.steps_used, first_exact)
    np.testing.assert_array_equal(early.exact, [True, True, False, True])
    np.testing.assert_array_equal(full.steps_used, [25] * 4)
    for i, used in enumerate(first_exact):
        kept = early.scores[i, : used + 1]
        np.testing.assert_allclose(kept, full.scores[i, : used + 1], rtol=1e-6, atol=1e-5)
        assert (early.scores[i, used + 1 :] == -np.inf).all()
        alone = single(targets[i])
        np.testing.assert_array_equal(alone.steps_used, used)
        np.testing.assert_allclose(alone.best_latents, early.best_latents[i], atol=1e-5)
    # Frozen bit for bit: ending the whole batch once problem 1 is done gives it the same result.
    steps = first_exact[1] + 1
    stopped = jax.jit(jax.vmap(partial(solve, early_exit=True, num_steps=steps)))(targets)
    np.testing.assert_array_equal(stopped.best_latents[1], early.best_latents[1])
    np.testing.assert_array_equal(stopped.best_scores[1], early.best_scores[1])
    assert np.abs(stopped.best_latents[2] - early.best_latents[2]).max() > 0.1  # still moving


def test_patience_stops_after_rounds_without_a_better_score():
    target = STARTS[0] + jnp.array([0.35, 0.0, 0.0])
    search = gradient_ascent(quadratic(target), ascent_adam(1.0), clip_norm=None)
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


@pytest.mark.parametrize("name", ["adam", "restarts"])
def test_early_exit_inside_shard_map(name):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))

    def solve(target):
        search = METHODS[name](quadratic(target, tolerance=2.0))
        return run_search(search, KEY, STARTS + 0 * target[None], 6, early_exit=True, patience=3)

    spec, targets = PartitionSpec("data"), jnp.stack([TARGET, -TARGET])
    sharded = jax.shard_map(jax.vmap(solve), mesh=mesh, in_specs=spec, out_specs=spec)
    for got, expected in zip(
        jax.jit(sharded)(targets), jax.jit(jax.vmap(solve))(targets), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_no_key_is_used_twice_control():
    with jax.debug_key_reuse(True), pytest.raises(jax.errors.KeyReuseError):
        key = jax.random.key(12)
        start = jax.random.normal(key, (1, SIZE))
        start_points(start, jnp.ones(1, bool), key, starts=Starts(random_perturbation=(2, 0.1)))


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


def test_nan_never_wins_and_duplicates_are_no_second_attempt():
    def score(latents):
        value = jnp.where(latents[:, 0] > 0.4, jnp.nan, latents[:, 0])
        return Scored(value, jnp.ones(value.shape, bool))

    starts = jnp.array([[0.3, 0.0, 0.0], [0.9, 0.0, 0.0]])
    result = compiled(gradient_ascent(score, optax.sgd(0.2)), KEY, starts, 3)
    assert (result.best_scores == 0.3).all() and (result.best_latents[:, 0] == 0.3).all()
    flat = compiled(
        gradient_ascent(quadratic(TARGET), optax.sgd(0.1)), KEY, jnp.stack([TARGET, STARTS[0]]), 4
    )
    np.testing.assert_array_equal(flat.best_latents[0], TARGET)  # seen five times
    assert flat.best_scores[1] == flat.scores[-1, 1] < 0
    tied = compiled(gradient_ascent(constant, optax.sgd(0.1), archive_size=3), KEY, STARTS, 2)
    np.testing.assert_array_equal(tied.best_latents, STARTS[jnp.array([0, 1, 0])])


SCORE = quadratic(TARGET)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: run_search(gradient_ascent(SCORE, optax.sgd(0.1)), KEY, STARTS, -1),
            "num_steps is -1",
        ),
        (
            lambda: run_search(gradient_ascent(SCORE, optax.sgd(0.1)), KEY, STARTS, 1, patience=2),
            "early_exit=True",
        ),
        (
            lambda: run_search(gradient_ascent(SCORE, optax.sgd(0.1)), KEY, STARTS[None], 1),
            r"\(1, 2, 3\)",
        ),
        (
            lambda: run_search(
                gradient_ascent(SCORE, optax.sgd(0.1)), KEY, jnp.ones((2, 3), int), 1
            ),
            "floating",
        ),
        (
            lambda: run_search(
                gradient_ascent(SCORE, optax.sgd(0.1)), KEY, STARTS, 1, start_mask=jnp.ones(3)
            ),
            r"start_mask has shape \(3,\)",
        ),
        (
            lambda: run_search(
                gradient_ascent(SCORE, optax.sgd(0.1), archive_size=0), KEY, STARTS, 1
            ),
            "at least 1",
        ),
        (
            lambda: run_search(local_search(lambda z: Scored(z, z), scale=0.1), KEY, STARTS, 1),
            r"expected \(2,\) for both",
        ),
        (
            lambda: prefix_best(run_search(local_search(SCORE, scale=0.1), KEY, STARTS, 2), [3]),
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
