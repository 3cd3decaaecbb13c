"""In-context prediction and test-time training against loops over demonstrations."""

from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.lpn import (
    LPN,
    Block,
    Config,
    Pairs,
    Posterior,
    baselines,
    from_padded,
    in_context_log_probs,
    in_context_loss,
    in_context_solve_tasks,
    mean_cells,
)
from jaxtta.lpn import test_time_training as adaptation  # not a test of this file
from jaxtta.lpn.decoder import Logits
from jaxtta.lpn.model import Prepared

SIDE, LATENT, PAIRS = 3, 3, 3
BLOCK = Block(1, 2, 4, 1.0)
LPN_ = LPN(Config(SIDE, SIDE, LATENT, BLOCK, BLOCK, variational=False, num_slots=PAIRS))
KEY = jax.random.key(0)


@cache
def random_params():
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(LPN_.init, KEY)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


def random_pairs(*lead, seed=1):
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 10, (*lead, SIDE, SIDE, 2), dtype=np.uint8)
    shapes = rng.integers(1, SIDE + 1, (*lead, 2, 2))
    return jax.device_get(jax.jit(from_padded)(squares, shapes))


def take(pairs, index):
    return jax.tree.map(lambda x: x[np.array(index)], pairs)


def masked(pairs, keep):
    """Garbage in the pairs that are not kept, and a mask that says so."""
    rng, keep = np.random.default_rng(2), np.array(keep)

    def spoil(grid):
        garbage = rng.integers(0, 10, grid.cells.shape, dtype=np.uint8)
        shape = np.where(keep[:, None], grid.shape, 2)
        return grid._replace(cells=np.where(keep[:, None], grid.cells, garbage), shape=shape)

    return Pairs(spoil(pairs.inputs), spoil(pairs.outputs), keep)


loss_fn = jax.jit(partial(in_context_loss, LPN_))
log_probs_fn = jax.jit(partial(in_context_log_probs, LPN_))


def loop(pairs, kept):
    """Means over pairs i of (rows, cols, mean cells, exact), predicted from the other pairs."""
    each = []
    for i in kept:
        parts = log_probs_fn(
            random_params(), take(pairs, [j for j in kept if j != i]), take(pairs, [i])
        )
        each.append([parts.rows[0], parts.cols[0], mean_cells(parts)[0], parts.exact[0]])
    return np.mean(np.float64(each), axis=0)


def test_loss_equals_a_loop_over_left_out_pairs():
    pairs = random_pairs(PAIRS)
    loss, metrics = loss_fn(random_params(), pairs, KEY)
    rows, cols, cells, exact = loop(pairs, range(PAIRS))
    np.testing.assert_allclose(loss, -(rows + cols + cells), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], loss)
    np.testing.assert_allclose(metrics["row_loss"], -rows, rtol=1e-5)
    np.testing.assert_allclose(metrics["col_loss"], -cols, rtol=1e-5)
    np.testing.assert_allclose(metrics["cell_loss"], -cells, rtol=1e-5)
    np.testing.assert_allclose(metrics["teacher_forced_accuracy"], exact, rtol=1e-5)


def test_masked_pairs_change_nothing():
    pairs = random_pairs(PAIRS)
    few = masked(pairs, [True, True, False])
    rows, cols, cells, _ = loop(pairs, [0, 1])
    loss, _ = loss_fn(random_params(), few, KEY)
    np.testing.assert_allclose(loss, -(rows + cols + cells), rtol=1e-5)
    wrong, _ = loss_fn(random_params(), few._replace(mask=np.ones(PAIRS, bool)), KEY)
    assert abs(wrong - loss) > 1e-3

    alone = masked(pairs, [True, False, False])  # nothing to predict it from
    other = jax.tree.map(lambda x: np.concatenate([x[:1], x[:0:-1]]), alone)
    assert (other.inputs.cells[1] != alone.inputs.cells[1]).any()
    np.testing.assert_array_equal(
        loss_fn(random_params(), other, KEY)[0], loss_fn(random_params(), alone, KEY)[0]
    )

    queries = random_pairs(1, seed=4)
    expected = log_probs_fn(random_params(), take(pairs, [0, 1]), queries)
    parts = log_probs_fn(random_params(), few, queries)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), parts, expected)


def test_slots_tell_demonstrations_apart():
    """Unlike the latent program network, this baseline depends on the order of demonstrations."""
    pairs, queries = random_pairs(PAIRS), random_pairs(1, seed=4)
    one, other = (log_probs_fn(random_params(), take(pairs, i), queries) for i in ([0, 1], [1, 0]))
    assert (abs(one.cells - other.cells) > 1e-3).all()


def test_too_few_slots_are_refused():
    with pytest.raises(ValueError, match="from 4 demonstrations .* num_slots is 3"):
        in_context_log_probs(LPN_, None, random_pairs(4), random_pairs(1))
    with pytest.raises(ValueError, match="from 4 demonstrations .* num_slots is 3"):
        in_context_loss(LPN_, None, random_pairs(5), KEY)
    with pytest.raises(ValueError, match="num_slots is 0"):
        in_context_solve_tasks(LPN(Config()), None, random_pairs(1, 2), random_pairs(1, 1).inputs)


def test_solving_generates_what_the_adapted_model_finds_most_likely():
    """`adapt` here is any function of a task; its parameters are used for this task only."""
    demos, queries = random_pairs(2, 2), random_pairs(2, 1, seed=4)
    demos = demos._replace(mask=jnp.array([[True, True], [True, False]]))

    def adapt(params, pairs):
        scale = 1.0 + 0.5 * pairs.mask.sum()
        changed = jax.tree.map(lambda x: x * scale, params)  # the encoder too
        return changed | {"encoder": jax.tree.map(jnp.negative, changed["encoder"])}

    solve = jax.jit(partial(in_context_solve_tasks, LPN_, adapt=adapt))
    grids = solve(random_params(), demos, queries.inputs)
    assert grids.cells.shape == (2, 1, SIDE**2)
    for i in range(2):
        params = adapt(random_params(), take(demos, i))
        targets = take(queries._replace(outputs=grids), i)
        assert log_probs_fn(params, take(demos, i), targets).exact.all()
        assert not log_probs_fn(params, take(demos, i), take(queries, i)).exact.any()
    unchanged = lambda params, pairs: params
    plain = jax.make_jaxpr(partial(in_context_solve_tasks, LPN_))
    same = jax.make_jaxpr(partial(in_context_solve_tasks, LPN_, adapt=unchanged))
    arguments = random_params(), demos, queries.inputs
    assert str(plain(*arguments)) == str(same(*arguments))


# --- Test-time training, on networks of one layer -------------------------------------------------


class Toy:
    """Predicts from a weighted mean of its contexts; quick to compile."""

    config = SimpleNamespace(num_slots=PAIRS)

    def params(self):
        rng = np.random.default_rng(6)
        sizes = {"encoder": (2 * SIDE**2, LATENT), "decoder": (LATENT, 2 * SIDE + 10 * SIDE**2)}
        return {k: (0.5 * rng.normal(size=v)).astype(np.float32) for k, v in sizes.items()}

    def encode(self, params, pairs, *, key=None):
        cells = jnp.concatenate([pairs.inputs.cells, pairs.outputs.cells], -1) / 10 - 0.5
        return Posterior(cells @ params["encoder"], None)

    def prepare(self, params, pairs, *, key=None):
        return Prepared(None, None, pairs.outputs)

    def logits(self, params, contexts, prepared, *, context_valid, key=None):
        context = jnp.where(context_valid[..., None], contexts, 0.0).sum(-2)
        out = jnp.sin(context @ params["decoder"])
        cells = out[..., 2 * SIDE :].reshape(*out.shape[:-1], SIDE**2, 10)
        return Logits(out[..., :SIDE], out[..., SIDE : 2 * SIDE], cells)


def toy_loss(params, pairs):
    """Summed over demonstrations, as in the paper."""
    return in_context_loss(Toy(), params, pairs, KEY)[0] * pairs.mask.sum()


def adapt_toy(num_steps, rate=0.01):
    return adaptation(Toy(), num_steps, rate)


def test_no_steps_leave_the_parameters():
    params = Toy().params()
    adapted = jax.jit(adapt_toy(0))(params, random_pairs(PAIRS))
    jax.tree.map(np.testing.assert_array_equal, adapted, params)


def test_adaptation_is_adam_on_all_parameters():
    params, pairs = Toy().params(), masked(random_pairs(PAIRS), [True, True, False])
    adapted = jax.jit(adapt_toy(3))(params, pairs)
    gradient = jax.jit(jax.grad(toy_loss))
    expected = {k: np.float64(v) for k, v in params.items()}
    moments = {k: (np.zeros_like(v), np.zeros_like(v)) for k, v in expected.items()}
    for t in (1, 2, 3):
        for name, g in gradient(jax.tree.map(np.float32, expected), pairs).items():
            mean, square = moments[name]
            moments[name] = mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
            step = (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
            expected[name] = expected[name] - 0.01 * step
    for name, leaf in adapted.items():
        moved = abs(np.array(leaf) - params[name])
        assert moved.max() > 0.02
        np.testing.assert_allclose(leaf, expected[name], atol=1e-4)


def test_the_loss_is_summed_over_demonstrations(monkeypatch):
    """Adam hides the size of a gradient, unless it is as small as its epsilon of 1e-8."""
    mean_loss = lambda lpn, params, pairs, key: (1e-8 * params["w"].sum(), {})
    monkeypatch.setattr(baselines, "in_context_loss", mean_loss)
    pairs = masked(random_pairs(PAIRS), [True, True, False])
    adapted = adapt_toy(1)({"w": jnp.zeros(2)}, pairs)
    np.testing.assert_allclose(adapted["w"], -0.01 * 2 / (2 + 1), rtol=1e-4)


def test_adaptation_lowers_the_loss_of_its_task_and_vmaps():
    params, tasks = Toy().params(), random_pairs(2, PAIRS)
    adapt, loss = jax.jit(adapt_toy(30)), jax.jit(toy_loss)
    together = jax.jit(jax.vmap(adapt_toy(30), (None, 0)))(params, tasks)
    for i in range(2):
        task = take(tasks, i)
        alone = adapt(params, task)
        for name, leaf in alone.items():
            np.testing.assert_allclose(together[name][i], leaf, atol=1e-4)
        assert loss(alone, task) < loss(params, task) - 0.1
    assert abs(together["decoder"][0] - together["decoder"][1]).max() > 0.01


def test_adaptation_drops_nothing_out():
    class WithoutKeys(Toy):
        def encode(self, params, pairs, *, key=None):
            assert key is None
            return super().encode(params, pairs)

    pairs = random_pairs(PAIRS)
    jax.eval_shape(adaptation(WithoutKeys(), 1), Toy().params(), pairs)
    with pytest.raises(AssertionError):
        in_context_loss(WithoutKeys(), Toy().params(), pairs, KEY)


def test_learning_rate_may_be_traced():
    params, pairs = Toy().params(), random_pairs(PAIRS)
    sweep = jax.jit(jax.vmap(lambda rate: adapt_toy(2, rate)(params, pairs)))
    adapted = sweep(jnp.array([0.0, 0.01]))
    np.testing.assert_array_equal(adapted["decoder"][0], params["decoder"])
    assert abs(adapted["decoder"][1] - params["decoder"]).max() > 0.01


def test_adaptation_needs_two_demonstrations():
    with pytest.raises(ValueError, match="needs at least 2"):
        adapt_toy(1)(Toy().params(), random_pairs(1))
