"""Draws in place of keys: those of the key are the same program, those made by hand do as told."""

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.nets.norm import SOURCE, Norm
from jaxtta import batches
from jaxtta.draws import Augmenting, augmenting, either
from jaxtta.images.changes import cotta_augment
from jaxtta.images.changes.augmix import draw as augmix_draw
from jaxtta.images.changes.augmix import view
from jaxtta.images.changes.mixstyle import Mixing, draw_mixing
from jaxtta.images.denoising import noise_draws, row_noise
from jaxtta.images.deyo import DeyoDraws, destroyed, deyo_draws
from jaxtta.images.itta import training_draws
from jaxtta.images.mean_teacher import (
    CottaDraws,
    cotta,
    cotta_draws,
    restored,
    standard_augmentation,
)
from jaxtta.images.memo import MemoDraws, memo, memo_draws
from jaxtta.images.rmt import Known, Labelled, RmtDraws, rmt, rmt_draws
from jaxtta.images.roid import roid
from jaxtta.images.rotta import rotta_draws
from jaxtta.images.sda import SdaDraws, sda, sda_draws
from jaxtta.images.vdp import vdp
from tests.contract.cores_adaptation import ROWS
from tests.contract.row import BATCH_SIZE
from tests.jaxtta.images import tiny

KEY, SIZE, SHAPE, APPLY = jax.random.key(0), 4, (2, 4, 3), tiny.network()
X = jnp.asarray(tiny.batches(1, SIZE, dtype=np.float32)[0])
OTHER = jnp.asarray(tiny.batches(1, SIZE, seed=7, dtype=np.float32)[0])
recorded = lambda x, images, rows: images


def variables():
    return tiny.as_jax(tiny.variables(dtype=np.float32))


# --- The draws of a key ---------------------------------------------------------------------------


def meaning(jaxpr, consts, args):
    """What a program computes, as hashes of its results; neither order nor repetitions matter."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
    literal = jax.extend.core.Literal
    read = lambda v: hash(str(v.val)) if isinstance(v, literal) else known[v]

    def setting(x):
        if isinstance(x, jax.extend.core.ClosedJaxpr):
            return meaning(x.jaxpr, constants(x), range(len(x.jaxpr.invars)))
        if isinstance(x, jax.extend.core.Jaxpr):
            return meaning(x, range(len(x.constvars)), range(len(x.invars)))
        if isinstance(x, tuple | list):
            return tuple(map(setting, x))
        return "" if callable(x) else str(x)

    for equation in jaxpr.eqns:
        settings = tuple((name, setting(x)) for name, x in sorted(equation.params.items()))
        found = hash((equation.primitive.name, settings, tuple(map(read, equation.invars))))
        known.update({v: hash((found, i)) for i, v in enumerate(equation.outvars)})
    return tuple(map(read, jaxpr.outvars))


def constants(closed):
    keys = lambda x: jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)
    value = lambda x: np.asarray(jax.random.key_data(x) if keys(x) else x)
    return [hash(value(x).tobytes()) for x in closed.consts]


def means(function, *args):
    closed = jax.make_jaxpr(function)(*args)
    return meaning(closed.jaxpr, constants(closed), range(len(closed.jaxpr.invars)))


def of_cotta(probability):
    return lambda key, state, batch: cotta_draws(
        key,
        state.params,
        BATCH_SIZE,
        num_augmentations=2,
        restore_probability=probability,
    )


DRAWS = {
    "cotta": of_cotta(0.01),
    "cotta_of_pixels": of_cotta(0.01),
    "petal": of_cotta(None),
    "vida": of_cotta(0.01),
    "roid": lambda key, *_: augmenting(key, BATCH_SIZE),
    "vdp": lambda key, *_: augmenting(key, BATCH_SIZE),
    "rmt": lambda key, *_: rmt_draws(key, BATCH_SIZE, BATCH_SIZE),
    "rotta": lambda key, *_: rotta_draws(key, BATCH_SIZE, capacity=8, update_every=12),
    "memo": lambda key, *_: memo_draws(key, BATCH_SIZE, num_views=3, num_steps=2),
    "deyo": lambda key, *_: deyo_draws(key, SHAPE, BATCH_SIZE, num_patches=2),
    "sda": lambda key, *_: sda_draws(key, BATCH_SIZE),
    "itta": lambda key, _, batch: draw_mixing(key, batches.given(batch).valid),
    "itta_training": lambda key, _, batch: training_draws(
        key, batches.finite_images(batch["inputs"])[1]
    ),
    "noise_training": lambda key, *_: noise_draws(key, (BATCH_SIZE, *SHAPE)),
}


def test_every_method_that_draws_is_here():
    assert {row.name for row in ROWS if row.random} == set(DRAWS)


@pytest.mark.parametrize("name", DRAWS)
def test_the_draws_of_a_key_are_what_the_update_makes_of_it(name):
    (row,) = [row for row in ROWS if row.name == name]
    core = row.build(None)
    state = jax.eval_shape(lambda: core.init(*row.init_args()))
    batch = jax.tree.map(jnp.asarray, row.batch(0))
    given = lambda key, state, batch: core.update(state, batch, DRAWS[name](key, state, batch))
    with_key = means(lambda key, state, batch: core.update(state, batch, key), KEY, state, batch)
    assert means(given, KEY, state, batch) == with_key
    other = lambda key, *args: given(jax.random.fold_in(key, 1), *args)
    assert means(other, KEY, state, batch) != with_key


def test_what_is_neither_a_key_nor_the_draws_is_named():
    draw = lambda key: Augmenting(key, ())
    assert either(KEY, Augmenting, draw).shared is KEY
    with pytest.raises(ValueError, match="its draws as Augmenting, but got a MemoDraws"):
        either(MemoDraws(()), Augmenting, draw)


# --- Draws made by hand ---------------------------------------------------------------------------


def updated(core, given, *known):
    state = core.init(*variables(), *known)
    return jax.jit(core.update)(state, {"inputs": X}, given)


def logits_of(x, norm=SOURCE):
    return APPLY(*variables(), x, norm=norm)[0].logits


BATCH = Norm(weight=1.0)


@pytest.mark.parametrize("returns", [True, False])
def test_cotta_on_recorded_images_and_masks(returns):
    params, _ = variables()
    core = cotta(
        APPLY,
        optax.sgd(0.1),
        num_augmentations=2,
        min_confidence=1.1,
        augmentation=recorded,
    )
    mask = jax.tree.map(lambda x: jnp.full(x.shape, returns), params)
    draws = CottaDraws(Augmenting(jnp.stack([X, OTHER]), ()), mask)
    state, out = updated(core, draws)
    expected = (logits_of(X, BATCH) + logits_of(OTHER, BATCH)) / 2
    np.testing.assert_allclose(out.outputs.logits, expected, rtol=1e-4, atol=1e-5)
    moved = optax.tree.norm(optax.tree.sub(state.params, params))
    assert moved == 0 if returns else moved > 1e-4


def test_numbers_return_where_the_mask_says():
    found = restored({"w": jnp.arange(3.0)}, {"w": jnp.full(3, 9.0)}, {"w": jnp.array([1, 0, 1])})
    np.testing.assert_array_equal(found["w"], [9, 1, 9])


@pytest.mark.parametrize("name", ["roid", "vdp"])
def test_a_recorded_image_is_the_augmented_one(name):
    build = {
        "roid": lambda change: roid(APPLY, optax.sgd(0.1), 4, augmentation=change),
        "vdp": lambda change: vdp(APPLY, optax.sgd(1e3), SHAPE, augmentation=change),
    }[name]
    state, _ = updated(build(recorded), Augmenting(OTHER, ()))
    expected, _ = updated(build(lambda *_: OTHER), KEY)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, state, expected)
    other, _ = updated(build(recorded), Augmenting(X, ()))
    assert optax.tree.norm(optax.tree.sub(other.params, state.params)) > 1e-4


def test_tiles_go_where_they_are_told():
    x = np.arange(2 * 2 * 4).reshape(2, 2, 4, 1)
    order = jnp.array([[1, 0, 2, 3], [0, 1, 2, 3]])
    found = destroyed(jnp.asarray(x), DeyoDraws(order), "patch", 2)
    np.testing.assert_array_equal(found[0, 0, :, 0], [2, 3, 0, 1])
    np.testing.assert_array_equal(found[0, 1], x[0, 1])
    np.testing.assert_array_equal(found[1], x[1])


def test_memo_on_views_that_are_the_image():
    core = memo(APPLY, optax.sgd(0.1), num_views=3, view=lambda x, image: image, norm=SOURCE)
    _, out = updated(core, MemoDraws(jnp.broadcast_to(X[:, None, None], (SIZE, 1, 3, *SHAPE))))
    z = np.asarray(logits_of(X), np.float64)
    np.testing.assert_allclose(out.metrics["loss"], tiny.entropy(z).mean(), rtol=1e-3)


def test_sda_with_given_noise():
    core = sda(APPLY, lambda _, x, noise: x + noise)
    _, out = updated(core, SdaDraws(OTHER - X))
    np.testing.assert_allclose(
        out.outputs.logits, logits_of(X) + logits_of(OTHER), rtol=1e-4, atol=1e-5
    )


def test_rmt_replays_the_images_it_is_told_to():
    known = Known(jnp.eye(4, tiny.FEATURES), Labelled(OTHER, jnp.arange(4)))
    core = rmt(APPLY, optax.sgd(0.1), augmentation=recorded)
    place = jnp.array([2, 0, 0, 3])
    _, out = updated(core, RmtDraws(Augmenting(OTHER, ()), place), known)
    log_p = tiny.log_softmax(np.asarray(logits_of(OTHER[place], BATCH), np.float64))
    np.testing.assert_allclose(
        out.metrics["source_loss"], -log_p[np.arange(4), place].mean(), rtol=1e-5
    )


def test_standard_augmentation_takes_parameters_and_noise():
    x = jax.random.uniform(KEY, (3, 8, 8, 3))
    drawn = cotta_augment.draw(jax.random.key(1), 8)
    keys = jax.random.split(jax.random.key(2), 3)
    noise = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys)
    change = jax.jit(standard_augmentation())
    expected = change(x, jax.random.key(1), keys)
    np.testing.assert_allclose(change(x, drawn, noise), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(change(x, drawn, 0 * noise) - expected).max() > 1e-4


def test_views_and_noise_may_be_given():
    x = jax.random.uniform(KEY, (8, 8, 3))
    drawn = augmix_draw(jax.random.key(1), padding=1)
    np.testing.assert_array_equal(jax.jit(view)(x, drawn), jax.jit(view)(x, jax.random.key(1)))
    noise = jnp.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_array_equal(row_noise(noise, 1, jnp.zeros((2, 2))), noise[:, 1])


def test_a_row_mixed_with_itself_keeps_its_style():
    (row,) = [row for row in ROWS if row.name == "itta"]
    core, places = row.build(None), jnp.arange(BATCH_SIZE)
    state = core.init(*row.init_args())
    alone = Mixing(jnp.int32(0), places, places >= 0, jnp.zeros(BATCH_SIZE))
    after, out = jax.jit(core.update)(state, row.batch(0), alone)
    assert out.metrics["loss"] == 0
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
