"""MEMO against NumPy in float64, and its AugMix against Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image, ImageOps

from jaxtta.adaptation import row_keys
from jaxtta.images.changes import augmix
from jaxtta.images.changes.augmix import OPERATIONS, Draw, apply, view
from jaxtta.images.memo import memo
from tests.jaxtta.images import tiny
from tests.jaxtta.images.test_entropy import float64  # noqa: F401
from tests.jaxtta.images.test_mean_teacher import APPLY, NAMES

NEAR = {"rtol": 1e-6, "atol": 1e-7}


@jax.jit
def shaken(x, key):
    return x * (1 + 0.2 * jax.random.normal(key, x.shape, x.dtype))


def mixed_logits(params, stats, x, weight):
    """Forward pass with source statistics and a share of the batch's, its variance unbiased."""
    for i in (1, 2):
        a, old = x @ params[f"dense{i}"]["kernel"], stats[f"norm{i}"]
        mean = (1 - weight) * old["mean"] + weight * a.mean((0, 1, 2))
        var = (1 - weight) * old["var"] + weight * a.var((0, 1, 2), ddof=1)
        y = (a - mean) / np.sqrt(var + 1e-5)
        x = np.maximum(y * params[f"norm{i}"]["scale"] + params[f"norm{i}"]["bias"], 0)
    return x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


def test_memo():
    params, stats = tiny.variables()
    theta0 = tiny.flat(params, NAMES)
    core = memo(
        APPLY, optax.sgd(0.05, momentum=0.5), num_views=5, num_steps=2, rows_at_once=2, view=shaken
    )
    update = jax.jit(core.update)
    state = start = core.init(*tiny.as_jax((params, stats)))
    logits_of = lambda theta, x: mixed_logits(
        tiny.with_flat(params, theta, NAMES), stats["batch_stats"], x, 1 / 17
    )

    def loss(theta, views):
        p = tiny.softmax(logits_of(theta, views)).mean(0)
        return -(p * np.log(p)).sum()

    for i, x in enumerate(tiny.batches(2, 3)):
        key = jax.random.key(i)
        mask = np.arange(3) < 3 - i
        state, out = update(state, {"inputs": jnp.asarray(x), "mask": jnp.asarray(mask)}, key)
        first = []
        for row, row_key in enumerate(row_keys(key, 3, None)):
            theta, sgd = theta0, tiny.Sgd(0.05, 0.5)
            for step in range(2):
                keys = jax.random.split(jax.random.fold_in(row_key, step), 5)
                views = np.stack([shaken(jnp.asarray(x[row]), k) for k in keys])
                basis = 1e-5 * np.eye(len(theta))
                slopes = [(loss(theta + h, views) - loss(theta - h, views)) / 2e-5 for h in basis]
                if step == 0:
                    first.append(loss(theta, views))
                theta = sgd.step(theta, np.array(slopes))
            expected = logits_of(theta, x[row : row + 1])[0]
            np.testing.assert_allclose(out.outputs.logits[row], expected, **NEAR)
            assert np.abs(expected - logits_of(theta0, x[row : row + 1])[0]).max() > 1e-4
        np.testing.assert_allclose(out.metrics["loss"], np.mean(np.array(first)[mask]), rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, state, start)


def test_errors():
    with pytest.raises(ValueError, match="num_views=0"):
        memo(APPLY, optax.sgd(0.1), num_views=0)
    with pytest.raises(ValueError, match="one square RGB image"):
        apply(jnp.zeros((2, 8, 8, 3)), None)


# --- AugMix ---------------------------------------------------------------------------------------


def pillow(x, name, amount, negative):
    image, side, sign = Image.fromarray(x), len(x), -1 if negative else 1
    whole = lambda largest: int(amount * largest / 10)
    if name == "rotate":
        return image.rotate(sign * whole(30), resample=Image.BILINEAR, fillcolor=128)
    plain = {
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalise": lambda: ImageOps.equalize(image),
        "solarise": lambda: ImageOps.solarize(image, 256 - whole(256)),
        "posterise": lambda: ImageOps.posterize(image, 4 - whole(4)),
    }
    if name in plain:
        return plain[name]()
    shear, shift = sign * amount * 0.03, sign * whole(side / 3)
    matrix = {
        "shear_x": (1, shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, 0),
        "shift_x": (1, 0, shift, 0, 1, 0),
        "shift_y": (1, 0, 0, 0, 1, shift),
    }[name]
    return image.transform((side, side), Image.AFFINE, matrix, Image.BILINEAR, fillcolor=128)


def test_operations_are_those_of_pillow():
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(30, 200, (5, 5, 3)).astype(np.uint8)).resize((16, 16))
    x = np.asarray(smooth)
    operate = jax.jit(augmix.operate)
    for index, name in enumerate(OPERATIONS):
        changes = 0
        for amount, negative in ((0.4, False), (1.0, True), (3.3, False), (7.0, True)):
            given = (jnp.asarray(amount), jnp.asarray(negative))
            found = operate(jnp.asarray(x, jnp.float64), index, *given)
            expected = np.asarray(pillow(x, name, amount, negative)).astype(int)
            assert np.abs(found - expected).max() <= 1, name
            assert (found == expected).mean() > 0.97, name
            changes += np.abs(expected - x.astype(int)).mean() > 0.5
        assert changes, f"{name} changed nothing"


def test_views():
    x = np.random.default_rng(0).integers(0, 256, (8, 8, 3)) / 255
    one, zero = jnp.ones(3), jnp.zeros((3, 3), jnp.int32)
    kept = Draw(
        jnp.array([1, 1]), jnp.array(True), zero, zero + 0.5, zero > 0, zero[0] + 1, one / 3, one[0]
    )
    plain = jax.jit(apply, static_argnums=2)(jnp.asarray(x), kept, 1)
    np.testing.assert_allclose(plain, x[:, ::-1], atol=1e-12)
    chain = kept._replace(share=jnp.zeros(()), flip=jnp.array(False))
    mixed = jax.jit(apply, static_argnums=2)(jnp.asarray(x), chain, 1)
    stretched = np.asarray(ImageOps.autocontrast(Image.fromarray((x * 255).astype(np.uint8)))) / 255
    np.testing.assert_allclose(mixed, stretched, atol=1.01 / 255)
    solarised = jnp.array([[OPERATIONS.index(n) for n in ("autocontrast", "solarise", "solarise")]])
    one_of_three = chain._replace(operation=jnp.tile(solarised, (3, 1)), amount=zero + 0.9)
    again = jax.jit(apply, static_argnums=2)(jnp.asarray(x), one_of_three, 1)
    np.testing.assert_allclose(again, stretched, atol=1.01 / 255)  # depth 1: no second operation
    views = jax.jit(jax.vmap(view, (None, 0)))(
        jnp.asarray(x), jax.random.split(jax.random.key(0), 6)
    )
    assert views.min() >= 0 and views.max() <= 1
    assert len({np.asarray(v).tobytes() for v in views}) == 6
