"""Which rows of a test batch count, what a loss does without a class, and what never moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxtrain import nets
from jaxtrain.nets.norm import SOURCE, BatchNorm, GroupNorm, Norm
from jaxtta import adaptation, batches
from jaxtta.images import batch_statistics, entropy
from jaxtta.images.eata import eta
from jaxtta.images.mean_teacher import cross_entropy, symmetric_cross_entropy
from jaxtta.images.memo import marginal_entropy
from jaxtta.images.roid import diversity_weights, roid, soft_likelihood_ratio
from tests.jaxtta.images import tiny

NAN, INF = np.nan, np.inf
KEY = jax.random.key(0)


def variables():
    return tiny.as_jax(tiny.variables(dtype=np.float32))


def images(size=6):
    return tiny.batches(1, size, dtype=np.float32)[0]


def same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_rows_that_are_not_finite_do_not_count():
    x, mask = images(), np.array([1, 1, 1, 0, 0, 1], bool)
    for row, value in ((1, NAN), (2, INF), (4, -INF)):
        x[row, 1, 2, 0] = value
    given = batches.given({"inputs": x, "mask": mask})
    np.testing.assert_array_equal(given.rows, mask)
    np.testing.assert_array_equal(given.valid, [1, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(given.inputs, np.where(np.isfinite(x), x, 0))
    np.testing.assert_array_equal(batches.given({"inputs": x}).rows, np.ones(6, bool))


def test_logits_that_no_loss_can_use():
    logits = np.array([[1, -INF], [NAN, 0], [INF, 0], [-INF, -INF], [2, 3], [2, 3]], np.float32)
    features = np.array([0, 0, 0, 0, -INF, 1], np.float32)[:, None]
    valid = np.array([1, 1, 1, 1, 1, 0], bool)
    counted, found, others = batches.sound(valid, logits, features)
    np.testing.assert_array_equal(counted, [1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(found, [[1, -INF], [0, 0], [0, 0], [0, 0], [0, 0], [2, 3]])
    np.testing.assert_array_equal(others[:, 0], [0, 0, 0, 0, 0, 1])


def test_what_was_finite_must_stay_finite():
    old = {"best": jnp.array([INF, 1.0]), "count": jnp.zeros((), jnp.int32)}
    stays = lambda best: bool(batches.stays_finite({**old, "best": jnp.array(best)}, old))
    assert stays([INF, 2.0]) and stays([0.0, 2.0]) and stays([NAN, 2.0])
    assert not stays([INF, NAN]) and not stays([INF, -INF])


# --- Losses without a class -----------------------------------------------------------------------

LOSSES = {
    "entropy": adaptation.entropy,
    "marginal_entropy": marginal_entropy,
    "soft_likelihood_ratio": soft_likelihood_ratio,
    "cross_entropy": lambda z: cross_entropy(z[::-1], z),
    "symmetric_cross_entropy": lambda z: symmetric_cross_entropy(z[::-1], z),
    "class_correlation": lambda z: (
        # Its mean is over all pairs of classes.
        batch_statistics.class_correlation(z, jnp.ones(len(z), bool))
        * (z.shape[1] * (z.shape[1] - 1))
    ),
    "diversity_weights": lambda z: (
        diversity_weights(z, jax.nn.softmax(z).mean(0), jnp.ones(len(z), bool)).weights
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_at_minus_infinity_might_as_well_not_be_there(name):
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    without = jnp.asarray(logits)
    left_out = jnp.insert(without, 1, -INF, axis=1)
    total = lambda z: LOSSES[name](z).sum()
    value, grad = jax.value_and_grad(total)(left_out)
    expected, expected_grad = jax.value_and_grad(total)(without)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(np.delete(grad, 1, 1), expected_grad, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(grad[:, 1], 0)


def test_tent_on_a_subset_of_classes_is_tent_on_the_smaller_network():
    apply_fn, kept = tiny.network(), np.array([0, 2, 3])

    def subset(*args, **options):
        found, after = apply_fn(*args, **options)
        allowed = jnp.isin(jnp.arange(tiny.CLASSES), kept)
        return found._replace(logits=jnp.where(allowed[None], found.logits, -INF)), after

    def smaller(*args, **options):
        found, after = apply_fn(*args, **options)
        return found._replace(logits=found.logits[:, kept]), after

    @jax.jit
    def steps(args):
        given = {"inputs": jnp.stack([images()] * 2)}
        keys = jax.random.split(KEY)
        replayed = lambda apply: adaptation.replay(
            entropy.tent(apply, optax.sgd(0.1)), args, given, keys
        )
        return replayed(subset), replayed(smaller)

    found, expected = steps(variables())
    np.testing.assert_allclose(found.outputs.logits[..., kept], expected.outputs.logits, rtol=1e-5)
    moved = tiny.flat(jax.tree.map(lambda x: x[-1], expected.params))
    np.testing.assert_allclose(
        tiny.flat(jax.tree.map(lambda x: x[-1], found.params)), moved, rtol=1e-5
    )
    assert np.abs(moved - tiny.flat(variables()[0])).max() > 1e-3


# --- Steps that are not made ----------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [optax.sgd(1.0), optax.adam(1.0)], ids=["sgd", "adam"])
@pytest.mark.parametrize(
    ("value", "grad", "moves"),
    [
        (0.0, 1.0, True),
        (NAN, 1.0, False),
        (INF, 1.0, False),
        (0.0, NAN, False),
        (0.0, -INF, False),
    ],
)
def test_neither_loss_nor_gradient_reach_the_state_unless_finite(optimizer, value, grad, moves):
    select = lambda path: True
    state = adaptation.start({"w": jnp.ones(2)}, {}, optimizer, select)
    grads = {"w": jnp.array([1.0, grad])}
    after, moved = adaptation.descend(state, jnp.asarray(value), grads, optimizer)
    assert bool(moved) == moves
    if moves:
        assert (after.params["w"] < 1).all()
    else:
        same(after, state)


def test_moments_that_overflow_are_not_kept():
    state = adaptation.start({"w": jnp.ones(2)}, {}, optax.adam(1.0), lambda path: True)
    after, moved = adaptation.descend(state, jnp.zeros(()), {"w": jnp.full(2, 1e30)}, optax.adam(1))
    assert not moved
    same(after, state)


def test_statistics_that_overflow_are_not_stored():
    x = images()
    x[2, 0, 0, 0] = 1e30
    core = batch_statistics.ema_norm(tiny.network(), 0.1)
    state = core.init(*variables())
    update = jax.jit(core.update)
    after, _ = update(state, {"inputs": x, "mask": np.ones(6, bool)}, KEY)
    same(after, state)
    after, _ = update(state, {"inputs": images(), "mask": np.zeros(6, bool)}, KEY)
    same(after, state)


def test_a_window_leaves_out_what_is_not_finite():
    """It holds NaN, 1, 2, 3 when it is full: TENT on the three others."""
    x = images(5)
    spoiled = x.copy()
    spoiled[1, 0, 0, 0] = NAN
    tent = entropy.tent(tiny.network(), optax.sgd(0.1))
    core = adaptation.windowed(tent, 4, x.shape[1:])
    state = core.init(*variables())
    update = jax.jit(core.update)
    for i in range(4):
        state, out = update(state, {"inputs": spoiled[i : i + 1]}, KEY)
        assert out.metrics["num_nonfinite"] == (i == 1) and out.outputs.selected[0] == (i == 3)
        assert np.isfinite(out.outputs.logits).all()
    expected, _ = jax.jit(tent.update)(tent.init(*variables()), {"inputs": x[[0, 2, 3]]}, KEY)
    np.testing.assert_allclose(
        tiny.flat(state.state.params), tiny.flat(expected.params), rtol=1e-5, atol=1e-6
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


class Pooled(nn.Module):
    """Mean over positions, then a norm."""

    kind: type[nn.Module]

    @nn.compact
    def __call__(self, inputs, *, norm: Norm = SOURCE, mask=None):
        x = nn.Dense(8, name="dense")(inputs.mean((1, 2)))
        x = nn.relu(self.kind(name="norm")(x, norm, mask))
        return nets.Classified(nn.Dense(4, name="head")(x), x)


METHODS = {
    "tent": entropy.tent,
    "eta": lambda *args: eta(*args, 4, threshold=9.0),
    "roid": lambda *args: roid(*args, 4, consistency=False),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_single_row_that_has_no_say_is_not_learned_from(name):
    """Of the statistics of one pooled row nothing is left but the bias, whatever the image."""
    network = Pooled(BatchNorm)
    start = network.init(KEY, images(1))
    norm = {"scale": jnp.full(8, 1.5), "bias": jnp.linspace(-1, 1, 8)}
    params = {**start["params"], "norm": norm}
    core = METHODS[name](nets.classifier(network), optax.adam(0.1))
    state = core.init(params, {"batch_stats": start["batch_stats"]})
    update = jax.jit(core.update)
    after, out = update(state, {"inputs": images(1)}, KEY)
    assert out.metrics["did_update"] == 0 and not out.outputs.selected.any()
    same(after, state)
    after, out = update(state, {"inputs": images(2)}, KEY)
    assert out.metrics["did_update"] == 1
    assert np.abs(after.params["norm"]["bias"] - norm["bias"]).max() > 1e-3


def test_a_single_row_of_a_network_without_batch_statistics_is_learned_from():
    network = Pooled(lambda name: GroupNorm(2, name=name))
    core = entropy.tent(nets.classifier(network), optax.adam(0.1))
    state = core.init(network.init(KEY, images(1))["params"], {})
    _, out = jax.jit(core.update)(state, {"inputs": images(1)}, KEY)
    assert out.metrics["did_update"] == 1
