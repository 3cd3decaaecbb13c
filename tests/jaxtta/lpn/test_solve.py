"""Finding and executing latent programs: batches against single tasks, and the promised choices."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta.lpn import (
    LPN,
    Block,
    Config,
    Grid,
    Method,
    Posterior,
    SearchResult,
    Starts,
    distinct_output,
    encoder_sampling,
    first_latent,
    from_padded,
    generate,
    gradient_ascent,
    local_search,
    other_start,
    posterior_mean,
    prefix_best,
    product_latent,
    scorer,
    search_task,
    second_best,
    solve_tasks,
)
from jaxtta.lpn.solve import _first_two_different, _trail

SIDE, LATENT, TASKS, DEMOS, INPUTS = 3, 3, 3, 2, 2
BLOCK = Block(1, 2, 4, 1.0)
LPN_ = LPN(Config(SIDE, SIDE, LATENT, BLOCK, BLOCK))
KEYS = jax.random.split(jax.random.key(1), TASKS)
LOCAL = Method(
    partial(local_search, scale=0.5),
    num_steps=3,
    starts=Starts(include_all_latents=True),
    attempts=other_start,
)


@cache
def random_params():
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(LPN_.init, jax.random.key(0))
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


@cache
def tasks():
    """Demonstrations `[TASKS, DEMOS]` and test inputs `[TASKS, INPUTS]`."""
    rng = np.random.default_rng(1)
    squares = rng.integers(0, 10, (TASKS, DEMOS + INPUTS, SIDE, SIDE, 2), dtype=np.uint8)
    shapes = rng.integers(1, SIDE + 1, (TASKS, DEMOS + INPUTS, 2, 2))
    pairs = jax.device_get(jax.jit(from_padded)(squares, shapes))
    take = lambda *index: jax.tree.map(lambda x: x[:, slice(*index)], pairs)
    return take(DEMOS), take(DEMOS, None).inputs


def task(i):
    return jax.tree.map(lambda x: x[i], tasks()[0])


@cache
def finder(method, **kwargs):
    return jax.jit(partial(search_task, LPN_, method=method, **kwargs))


@cache
def solver(method):
    return jax.jit(partial(solve_tasks, LPN_, method=method))


@cache
def solution(method):
    return jax.device_get(solver(method)(random_params(), KEYS, *tasks()))


generate_batch = jax.jit(partial(generate, LPN_))


def generate_few(contexts, inputs):
    """`generate` for less than `TASKS * INPUTS * 2` grids without compiling again."""
    fill = lambda x: np.resize(x, (TASKS * INPUTS * 2, *x.shape[1:]))
    grids = generate_batch(random_params(), *jax.tree.map(fill, (contexts, inputs)))
    return jax.tree.map(lambda x: x[: len(contexts)], grids)


score_tasks = jax.jit(
    jax.vmap(lambda params, demos, z: scorer(LPN_, params, demos)(z), (None, 0, 0))
)


# --- One task and batches of tasks ----------------------------------------------------------------


def test_a_task_in_a_batch_is_solved_like_the_task_alone():
    batch = solution(LOCAL)
    for i in range(TASKS):
        alone = finder(LOCAL)(random_params(), KEYS[i], task(i))
        np.testing.assert_allclose(alone.best_latents[0], batch.latents[i, 0], rtol=1e-5)
        np.testing.assert_allclose(alone.best_scores[0], batch.scores[i, 0], rtol=1e-5)
        best = np.maximum.accumulate(np.array(alone.scores).max(-1))
        np.testing.assert_allclose(best, batch.trajectory[i], rtol=1e-5)
        moved = np.linalg.norm(alone.best_latents[0] - alone.latents[0, 0])
        np.testing.assert_allclose(moved, batch.distance[i], rtol=1e-4)
        repeat = lambda x, i=i: jnp.repeat(x[i : i + 1], TASKS, axis=0)
        filled = solver(LOCAL)(random_params(), *jax.tree.map(repeat, (KEYS, *tasks())))
        for got, expected in zip(jax.tree.leaves(filled), jax.tree.leaves(batch), strict=True):
            np.testing.assert_allclose(got, repeat(expected), rtol=1e-5)
    assert abs(batch.latents[0] - batch.latents[1]).max() > 0.01


def test_scores_belong_to_the_latents_and_rise():
    result = solution(LOCAL)
    again = score_tasks(random_params(), tasks()[0], result.latents)
    np.testing.assert_allclose(again.score, result.scores, rtol=1e-5)
    np.testing.assert_array_equal(again.exact[:, 0], result.exact)
    assert result.trajectory.shape == (TASKS, 4) and (np.diff(result.trajectory, axis=1) >= 0).all()
    assert (result.trajectory[:, -1] > result.trajectory[:, 0]).any()
    np.testing.assert_allclose(result.trajectory[:, -1], result.scores[:, 0], rtol=1e-6)
    assert (result.scores[:, 0] >= result.scores[:, 1]).all() and (result.steps_used == 3).all()


def test_attempts_are_the_latents_executed_on_every_input():
    result, (_, inputs) = solution(LOCAL), tasks()
    cases = list(np.ndindex(TASKS, INPUTS, 2))
    contexts = np.array([result.latents[b, k] for b, _, k in cases])
    queries = Grid(*(np.array([x[b, q] for b, q, _ in cases]) for x in inputs))
    grids = generate_batch(random_params(), contexts, queries)
    assert result.attempts.cells.shape == (TASKS, INPUTS, 2, SIDE**2)
    for n, case in enumerate(cases):
        np.testing.assert_array_equal(result.attempts.cells[case], grids.cells[n])
        np.testing.assert_array_equal(result.attempts.shape[case], grids.shape[n])
    assert len(np.unique(grids.cells, axis=0)) > 3


def test_no_steps_equal_mean_mode():
    latents = np.float32([[1.0, 2.0, 3.0], [-5.0, 0.0, 1.0]])
    method = replace(LOCAL, num_steps=0, starts=Starts())
    run = jax.jit(lambda params, z: search_task(LPN_, params, KEYS[0], task(0), method, latents=z))
    result = run(random_params(), latents)
    np.testing.assert_allclose(result.best_latents, latents.mean(0, keepdims=True).repeat(2, 0))
    assert result.steps_used == 0 and result.scores.shape == (1, 1)


def test_prefixes_of_a_run_equal_shorter_runs():
    arguments = random_params(), KEYS[0], task(0)
    whole = finder(LOCAL)(*arguments)
    latents, scores = prefix_best(whole, [1, 3])
    for i, method in enumerate([replace(LOCAL, num_steps=1), LOCAL]):
        alone = finder(method)(*arguments)
        np.testing.assert_allclose(latents[i], alone.best_latents, rtol=1e-5)
        np.testing.assert_allclose(scores[i], alone.best_scores, rtol=1e-5)
    assert scores[0, 0] < scores[1, 0]


def test_ascent_climbs_the_score_of_the_demonstrations():
    """The first move has the direction of finite differences of the score."""
    ascent = Method(partial(gradient_ascent, optimizer=optax.sgd(0.01)), num_steps=1)
    result = finder(ascent)(random_params(), KEYS[0], task(0))
    start = np.array(result.latents[0, 0])
    points = start[None] + 1e-2 * np.concatenate([np.eye(LATENT), -np.eye(LATENT)])
    demos = jax.tree.map(lambda x: x[None], task(0))
    scores = np.array(score_tasks(random_params(), demos, jnp.float32(points)[None]).score)[0]
    slope = (scores[:LATENT] - scores[LATENT:]) / 2e-2
    expected = 0.01 * slope * min(1.0, 1 / np.linalg.norm(slope))
    np.testing.assert_allclose(result.latents[1, 0] - start, expected, rtol=0.02, atol=2e-4)
    assert result.scores[1, 0] > result.scores[0, 0]


def test_masked_demonstrations_and_longer_streams_change_nothing():
    def longer(grid):
        cells = np.pad(grid.cells, ((0, 1), (0, 4)), constant_values=5)
        return Grid(cells, np.append(grid.shape, [[2, 2]], axis=0))

    demos = task(0)
    padded = demos._replace(
        inputs=longer(demos.inputs),
        outputs=longer(demos.outputs),
        mask=np.array([True, True, False]),
    )
    expected, result = (finder(LOCAL)(random_params(), KEYS[0], x) for x in (demos, padded))
    assert np.isneginf(result.scores[:, 3]).all()  # the start at the masked demonstration
    kept = result._replace(latents=result.latents[:, :3], scores=result.scores[:, :3])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), kept, expected)
    unmasked = padded._replace(mask=np.ones(3, bool))
    assert finder(LOCAL)(random_params(), KEYS[0], unmasked).scores[0, 0] != expected.scores[0, 0]


def test_early_exit_means_that_the_demonstrations_are_reproduced():
    """Task 0 was made by the latent its search starts from; task 1 was not."""
    demos = jax.tree.map(lambda x: x[:2], tasks()[0])
    latents = np.random.default_rng(4).normal(size=(2, 1, LATENT)).repeat(DEMOS, 1)
    flat = lambda grid: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), grid)
    programs = np.float32(latents).reshape(-1, LATENT)
    made = generate_few(programs, flat(demos.inputs))
    outputs = jax.tree.map(lambda x: np.array(x).reshape(2, DEMOS, -1), made)
    outputs.cells[1, 0, 0] = (outputs.cells[1, 0, 0] + 1) % 10
    demos = demos._replace(outputs=outputs)

    method = Method(LOCAL.make_search, num_steps=3, early_exit=True)
    search = lambda key, pairs, z: search_task(LPN_, random_params(), key, pairs, method, latents=z)
    result = jax.jit(jax.vmap(search))(KEYS[:2], demos, jnp.float32(latents))
    np.testing.assert_array_equal(result.steps_used, [0, 3])
    np.testing.assert_array_equal(result.exact, [True, False])
    assert np.isneginf(result.scores[0, 1:]).all() and np.isfinite(result.scores[1]).all()
    np.testing.assert_allclose(result.best_latents[0, 0], latents[0, 0], rtol=1e-5)
    best = np.array(result.best_latents[:, 0]).repeat(DEMOS, 0)
    again = generate_few(best, flat(demos.inputs))
    same = [(a == b).all(-1).reshape(2, DEMOS) for a, b in zip(again, flat(outputs), strict=True)]
    assert (same[0] & same[1])[0].all() and not (same[0] & same[1])[1].all()


# --- Where a search starts ------------------------------------------------------------------------


@cache
def start_finder(**options):
    """Row 0 of the trajectory: the start points and nothing else (scores are never computed)."""
    method = Method(LOCAL.make_search, **options)
    return jax.jit(
        lambda key, demos, posterior, latents: search_task(
            LPN_, random_params(), key, demos, method, posterior=posterior, latents=latents
        ).latents[0]
    )


MEAN, LOGVAR = np.float32([[1.0, 2.0, 3.0], [-5.0, 6.0, 7.0]]), np.float32([[0.0], [1.0]])
POSTERIOR = Posterior(MEAN, LOGVAR * np.ones_like(MEAN))
SHARP = Posterior(MEAN, np.full_like(MEAN, -40.0))


def starts(demos=None, key=KEYS[0], posterior=POSTERIOR, given=None, **options):
    return start_finder(**options)(key, demos or task(0), posterior, given)


def test_start_points():
    encoded = jax.jit(LPN_.encode)(random_params(), task(0)).mean
    np.testing.assert_allclose(
        starts(latents=posterior_mean, posterior=None), encoded.mean(0, keepdims=True), rtol=1e-5
    )
    latents = MEAN[::-1] + 1
    chosen = Starts(include_all_latents=True, random_perturbation=(2, 0.1))
    every = starts(given=latents, starts=chosen)
    np.testing.assert_allclose(every[0], latents.mean(0))
    np.testing.assert_allclose(every[3:], latents)
    assert (abs(every[1:3] - every[:1]) < 0.6).all() and (every[1] != every[2]).all()

    second_only = task(0)._replace(mask=np.array([False, True]))
    for demos, first in ((task(0), latents[0]), (second_only, latents[1])):
        found = starts(demos, given=latents, starts=Starts(first_latent))
        np.testing.assert_allclose(found[0], first)

    precision = np.exp(-np.float64(POSTERIOR.logvar))
    product = (precision * MEAN).sum(0) / precision.sum(0)
    np.testing.assert_allclose(starts(starts=Starts(product_latent))[0], product, rtol=1e-4)


def test_samples_follow_the_posterior():
    sharp, wide = starts(posterior=SHARP), starts()
    np.testing.assert_allclose(sharp[0], MEAN.mean(0), rtol=1e-5)
    assert (abs(wide - sharp) > 1e-3).all() and (wide != starts(key=KEYS[1])).all()


def test_no_encoder_starts_ignore_the_encoder():
    one, two = (starts(posterior=x, no_encoder=True) for x in (SHARP, POSTERIOR))
    np.testing.assert_array_equal(one, two)
    assert (one != starts(key=KEYS[1], no_encoder=True)).all()


def test_search_that_uses_the_posterior():
    method = Method(partial(encoder_sampling, num_samples=4), uses_posterior=True)
    demos = task(0)._replace(mask=np.array([True, False]))
    run = jax.jit(lambda p: search_task(LPN_, p, KEYS[0], demos, method, posterior=SHARP).latents)
    np.testing.assert_allclose(run(random_params())[0], MEAN[:1].repeat(5, 0), rtol=1e-5)


# --- The second attempt ---------------------------------------------------------------------------


def result_of(scores, num_candidates=2):
    """A search result over candidates `[K + 1, P]` whose latents name their place."""
    scores = np.float32(scores)
    places = np.float32(list(np.ndindex(scores.shape)))
    order = np.argsort(-scores.ravel(), kind="stable")[:num_candidates]
    return SearchResult(
        jnp.array(places.reshape(*scores.shape, 2)),
        jnp.array(scores),
        jnp.int32(len(scores) - 1),
        jnp.array(places[order]),
        jnp.array(scores.ravel()[order]),
        jnp.array(False),
    )


@pytest.mark.parametrize(
    ("scores", "best", "second"),
    [
        ([[0, 1, 5], [2, 9, 4], [3, 8, -1]], (1, 1), (0, 2)),  # 8 is on the winner's column
        ([[7, 1], [2, 6], [3, 8]], (2, 1), (0, 0)),
        ([[5, -np.inf], [6, -np.inf]], (1, 0), (1, 0)),  # no other start: the best again
        ([[1], [4], [3]], (1, 0), (1, 0)),
    ],
)
def test_other_start_is_the_best_of_another_column(scores, best, second):
    batch = jax.tree.map(lambda x: x[None], result_of(scores))
    paint = lambda latents: Grid(latents[:, None], latents[:, None])
    found = jax.jit(partial(other_start, execute=paint))(batch)
    np.testing.assert_array_equal(found.latents[0], [best, second])
    np.testing.assert_array_equal(
        found.scores[0], [scores[best[0]][best[1]], scores[second[0]][second[1]]]
    )
    np.testing.assert_array_equal(found.grids.cells[:, 0], found.latents)
    np.testing.assert_array_equal(found.grid_scores[:, 0], found.scores)


def test_distinct_output_is_the_best_grid_that_differs():
    # One task, four inputs, four ranked candidates of up to four cells, two of them once more.
    shape = np.full((1, 4, 6, 2), 2, np.int32)
    cells = np.ones((1, 4, 6, 4), np.uint8)
    cells[0, 0, 2, 3] = 9  # input 0: the third grid is the first to differ
    cells[0, 1, 1:, 0] = 7  # input 1: the second
    shape[0, 2, 3] = 1, 4  # input 2: the fourth, by its shape alone; input 3: none
    grids = Grid(jnp.array(cells), jnp.array(shape))
    batch = jax.tree.map(lambda x: x[None], result_of([[0, 3], [2, 1]], num_candidates=4))
    chosen = jax.jit(partial(distinct_output, execute=lambda latents: grids))(batch)
    for question, second in enumerate([2, 1, 3, 0]):
        pick = question, [0, second]
        np.testing.assert_array_equal(chosen.grids.cells[0, question], cells[0, *pick])
        np.testing.assert_array_equal(chosen.grids.shape[0, question], shape[0, *pick])
        np.testing.assert_array_equal(chosen.grid_scores[0, question], [3, 3 - second])


@pytest.mark.parametrize(
    ("steps", "differs", "second"),
    [
        (9, [0, 1, 2, 3, 4, 5], 4),  # of the steps 0, 1, 2, 4, 8 with other grids
        (9, [0, 3, 5, 6, 7], 0),
        (9, [3, 5, 6, 7], 9),  # on none of these steps
        (9, [9, 8], 4),
        (9, [9], 8),  # among those that were kept
        (3, [0], 0),
    ],
)
def test_when_all_that_was_kept_agrees_the_way_there_is_looked_at(steps, differs, second):
    """Scores rise with the steps, and the column beside is worse and holds a grid of its own; what
    comes after the search has stopped was never scored."""
    scores = np.full((steps + 3, 2), -np.inf)
    scores[: steps + 1] = np.arange(steps + 1.0)[:, None] - [0, 100]
    result = result_of(scores, num_candidates=2)
    painted = np.array([[s in differs or s > steps, 1] for s in range(steps + 3)])
    painted[:, 0] *= 2
    execute = lambda z: Grid(
        jnp.asarray(painted)[z[..., 0].astype(int), z[..., 1].astype(int)][:, None, :, None],
        jnp.ones((*z.shape[:1], 1, z.shape[1], 2), int),
    )
    chosen = distinct_output(jax.tree.map(lambda x: x[None], result), execute)
    np.testing.assert_array_equal(chosen.grid_scores[0, 0], [steps, second])
    expected = [painted[steps, 0], painted[second, 0]]
    np.testing.assert_array_equal(chosen.grids.cells[0, 0, :, 0], expected)


@pytest.mark.parametrize(
    ("attempts", "second"), [(second_best, 8), (other_start, 5), (distinct_output, 3)]
)
def test_solving_uses_the_chosen_attempts(monkeypatch, attempts, second):
    """The search and the execution are given; a program's score decides the grid it makes."""
    result = result_of([[0, 1, 5], [2, 9, 4], [3, 8, -1]], num_candidates=6)
    place_of = lambda latents: 3 * latents[..., 0] + latents[..., 1]  # in the trajectory
    monkeypatch.setattr("jaxtta.lpn.solve.search_task", lambda *arguments: result)

    def make(lpn, params, latents, inputs):
        values = result.scores.ravel()[place_of(latents).astype(int)]  # [B, K]
        cells = jnp.where(values > 4, 4, values)[:, None, :, None]  # the best ones look alike
        shape = jnp.ones((*cells.shape[:3], 2), int)
        return Grid(jnp.broadcast_to(cells, (*cells.shape[:3], 1)), shape)

    monkeypatch.setattr("jaxtta.lpn.solve.execute_tasks", make)
    method = Method(LOCAL.make_search, attempts=attempts, num_candidates=6)
    demos = jax.tree.map(lambda x: x[:1], tasks()[0])
    chosen = solve_tasks(LPN_, None, KEYS[:1], demos, None, method)
    looks = [min(9, 4), min(second, 4)]
    np.testing.assert_array_equal(chosen.attempts.cells.ravel(), looks)
    if attempts is not distinct_output:
        np.testing.assert_array_equal(chosen.scores[0], [9, second])
    np.testing.assert_array_equal(chosen.trajectory[0], [5, 9, 9])


# --- Settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": -1}, "num_steps is -1; use 0 or more"),
        ({"num_candidates": 1}, "num_candidates is 1; keep at least 2"),
    ],
)
def test_impossible_methods_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Method(LOCAL.make_search, **options)


@pytest.mark.parametrize("options", [{"starts": Starts(product_latent)}, {"uses_posterior": True}])
def test_point_encoder_has_no_posterior(options):
    posterior = Posterior(jnp.zeros((DEMOS, LATENT)), None)
    with pytest.raises(ValueError, match="a variational encoder"):
        starts(posterior=posterior, **options)


def test_no_encoder_has_no_posterior():
    with pytest.raises(ValueError, match="a variational encoder"):
        starts(no_encoder=True, starts=Starts(product_latent))


def test_a_grid_of_a_latent_that_was_never_scored_is_no_second_attempt():
    cells = jnp.arange(4, dtype=jnp.uint8)[None, None, :, None]
    grids = Grid(cells, jnp.ones((1, 1, 4, 2), jnp.int32))
    valid = jnp.array([[True, False, False, True]])
    np.testing.assert_array_equal(_first_two_different(grids, valid), [[[0, 3]]])
    np.testing.assert_array_equal(
        _first_two_different(grids, valid.at[0, 3].set(False)), [[[0, 0]]]
    )


def test_the_trail_is_the_column_of_the_best_candidate():
    latents = jnp.arange(12.0).reshape(2, 3, 2)
    scores = jnp.array([[-1.0, -3.0, -2.0], [-4.0, -0.5, -jnp.inf]])
    none = jnp.zeros(())
    trail, found = _trail(SearchResult(latents, scores, none, latents[0], scores[0], none))
    np.testing.assert_array_equal(trail, [[2, 3], [8, 9]])
    np.testing.assert_array_equal(found, [-3, -0.5])
