"""Sets of tasks through a solver that paints the number of the attempt."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.arc.parsing import Task
from experiments.lpn import arc_solving
from jaxtta.lpn import Grid, Solution
from jaxtta.lpn.search import Scored

GROUPING = dict(lengths=(6, 9), pair_counts=(1,), group_size=2)


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def grid(colour, rows=2, cols=3):
    return np.full((rows, cols), colour, np.uint8)


def task(name, answer, rows=2):
    given = grid(0, rows)
    return Task(name, ((given, given),), ((given, answer), (given, answer)))


def painted(queries, number):
    """Grids `[G, Q, number]` of two rows and three columns, each of the colour of its place."""
    colours = jnp.arange(number, dtype=jnp.uint8)
    lead = (*queries.cells.shape[:2], number)
    cells = jnp.broadcast_to(colours[:, None], (*lead, queries.cells.shape[-1]))
    return Grid(cells, jnp.broadcast_to(jnp.array([2, 3]), (*lead, 2)))


def test_both_attempts_at_every_output_are_returned_in_the_order_of_the_tasks(mesh):
    def solver(params, keys, demos, queries):
        one = jnp.zeros(len(keys))
        size = queries.shape[:, 0, 0]
        rest = (one[:, None], one[:, None, None], one[:, None], one, one)
        return Solution(painted(queries, 2), one, jnp.stack([one, one], 1), size, one > 0, *rest)

    tasks = [task("large", None, rows=3), task("a", None), task("b", None), task("c", None)]
    found = arc_solving.solve_set(solver, {}, jax.random.key(0), tasks, mesh, **GROUPING)
    assert found.steps_used.tolist() == [3, 2, 2, 2]
    for one in tasks:
        for attempts in found.predictions[one.id]:
            np.testing.assert_array_equal(attempts, [grid(0), grid(1)])


def test_a_result_does_not_depend_on_the_other_tasks_of_a_group():
    tasks, key = [task("a", None), task("b", None)], jax.random.key(0)
    data = lambda *positions: jax.random.key_data(
        arc_solving.task_keys(key, tasks, np.array(positions))
    )
    np.testing.assert_array_equal(data(0, 1, -1)[:2], data(1, 0)[::-1])
    assert (data(0, 1)[0] != data(0, 1)[1]).any()
    np.testing.assert_array_equal(data(1), data(-1, 1)[1:])


def test_the_curve_scores_both_attempts_of_every_number_of_steps(mesh, monkeypatch):
    steps, places = (0, 1, 4), jnp.arange(6.0)
    monkeypatch.setattr(arc_solving, "search_task", lambda lpn, params, key, demos, method: key)
    latents = places.reshape(3, 2, 1), None
    monkeypatch.setattr(arc_solving, "prefix_best", lambda found, steps, k: latents)

    def execute(lpn, params, contexts, queries):
        np.testing.assert_array_equal(contexts.shape, (2, 6, 1))
        return painted(queries, 6)

    monkeypatch.setattr(arc_solving, "execute_tasks", execute)
    monkeypatch.setattr(arc_solving, "search_flops", lambda lpn, steps, length: np.zeros(3))
    measure = arc_solving.accuracy_curve(None, None, steps, mesh)
    tasks = [task("third", grid(3)), task("none", grid(7)), task("last", grid(4))]
    curve = measure({}, jax.random.key(0), tasks, **GROUPING)
    np.testing.assert_array_equal(curve.accuracy, [[0, 0, 0], [1, 0, 0], [0, 0, 1]])


def test_flops_of_a_search_are_those_of_its_products(monkeypatch):
    """An encoder and a scorer of one product each on every pair, and one on the latent, which is
    the only one that the gradient goes through."""
    length, pairs, width = 6, 2, 4
    read = lambda cells, size: cells.astype(jnp.float32) @ jnp.ones((length, size))
    lpn = SimpleNamespace(
        config=SimpleNamespace(latent_dim=width),
        init=lambda key: jnp.ones((width, 5)),
        encode=lambda params, demos: read(demos.inputs.cells, 7),
    )

    def scorer(lpn, params, demos):
        prepared = read(demos.outputs.cells, 3).sum()
        return lambda z: Scored((z @ params).sum(-1) + prepared, None)

    monkeypatch.setattr(arc_solving, "scorer", scorer)
    found = arc_solving.search_flops(lpn, (0, 1, 20), length, pairs)
    encode, prepare, on_latent = 2 * pairs * length * 7, 2 * pairs * length * 3, 2 * width * 5
    once, step = encode + prepare + on_latent, prepare + 2 * on_latent
    np.testing.assert_array_equal(found, [once, once + step, once + 20 * step])
