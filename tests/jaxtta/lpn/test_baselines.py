"""In-context prediction and test-time training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.lpn import (
    LPN,
    Block,
    Config,
    Grid,
    Pairs,
    in_context_log_probs,
    in_context_loss,
    in_context_solve,
)
from jaxtta.lpn import test_time_training as adapt_to

BLOCK = Block(num_layers=1, num_heads=2, head_dim=4, mlp_factor=1.0)
MODEL = LPN(Config(3, 3, 4, BLOCK, BLOCK, variational=False, num_slots=4))


@pytest.fixture(scope="module")
def params():
    return jax.jit(MODEL.init)(jax.random.key(0))


def some_pairs(num_pairs, seed=0):
    rng = np.random.default_rng(seed)

    def grids():
        shape = rng.integers(1, 4, (num_pairs, 2))
        cells = np.where(np.arange(9) < shape.prod(-1, keepdims=True), rng.integers(0, 10, 9), 0)
        return Grid(jnp.asarray(cells, jnp.uint8), jnp.asarray(shape, jnp.int32))

    return Pairs(grids(), grids(), jnp.ones(num_pairs, bool))


def loss_of(params, pairs):
    return jax.jit(lambda p, x: in_context_loss(MODEL, p, x, jax.random.key(0))[0])(params, pairs)


def test_loss_is_the_mean_over_left_out_pairs(params):
    pairs = some_pairs(3)
    expected = []
    for i in range(3):
        others = jax.tree.map(lambda x, i=i: jnp.delete(x, i, 0), pairs)
        target = jax.tree.map(lambda x, i=i: x[i : i + 1], pairs)
        parts = in_context_log_probs(MODEL, params, others, target)
        expected.append(-(parts.rows + parts.cols + parts.mean_cells)[0])
    np.testing.assert_allclose(loss_of(params, pairs), np.mean(expected), rtol=1e-5)


def test_padding_demonstrations_change_nothing_but_real_ones_do(params):
    demos, target = some_pairs(2), some_pairs(1, seed=1)
    more = some_pairs(3, seed=2)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b[:1]]), demos, more)
    padded = joined._replace(mask=jnp.array([True, True, False]))
    rows = [in_context_log_probs(MODEL, params, d, target) for d in (demos, padded, joined)]
    np.testing.assert_allclose(rows[0].cells, rows[1].cells, rtol=1e-5)
    assert abs(float(rows[0].cells[0] - rows[2].cells[0])) > 1e-4


def test_order_of_demonstrations_matters(params):  # unlike for one latent program
    demos, target = some_pairs(3), some_pairs(1, seed=1)
    turned = jax.tree.map(lambda x: x[::-1], demos)
    one, two = (in_context_log_probs(MODEL, params, d, target).cells for d in (demos, turned))
    assert abs(float(one[0] - two[0])) > 1e-5


def test_too_many_demonstrations_are_named(params):
    with pytest.raises(ValueError, match="5 demonstrations needs .* num_slots is 4"):
        in_context_log_probs(MODEL, params, some_pairs(5), some_pairs(1))


def test_training_lowers_the_loss_of_its_task_and_no_steps_change_nothing(params):
    pairs = some_pairs(3)
    same = adapt_to(MODEL, 0)(params, pairs)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    adapted = jax.jit(adapt_to(MODEL, 10, 1e-2))(params, pairs)
    assert loss_of(adapted, pairs) < loss_of(params, pairs) - 0.1


def test_tasks_adapted_together_equal_one_by_one(params):
    tasks = jax.tree.map(lambda a, b: jnp.stack([a, b]), some_pairs(3), some_pairs(3, seed=1))
    adapt = adapt_to(MODEL, 3, 1e-2)
    together = jax.jit(jax.vmap(adapt, (None, 0)))(params, tasks)
    alone = jax.jit(adapt)(params, jax.tree.map(lambda x: x[1], tasks))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-5), together, alone)


def test_solving_gives_grids_of_possible_shapes(params):
    tasks = jax.tree.map(lambda x: x[None], some_pairs(2))
    inputs = jax.tree.map(lambda x: x[None], some_pairs(2, seed=3).inputs)
    grids = jax.jit(lambda p, d, x: in_context_solve(MODEL, p, d, x))(params, tasks, inputs)
    assert grids.cells.shape == (1, 2, 9)
    assert (np.asarray(grids.shape) >= 1).all() and (np.asarray(grids.shape) <= 3).all()
