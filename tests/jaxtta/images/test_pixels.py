"""Methods on networks that classify pixels: where all pixels are alike they do what they do with
images, elsewhere they take means over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.core import Core
from jaxtta import images
from jaxtta.images import batch_statistics, entropy, mean_teacher
from tests.jaxtta.images import tiny
from tests.jaxtta.images.test_entropy import CLOSE, float64, masks, run  # noqa: F401

IMAGES, PIXELS = tiny.network(), tiny.network(pixels=True)


def brighter(x, key, keys):
    """An augmentation that leaves constant images constant."""
    rows = jax.vmap(lambda k: jax.random.normal(k, (1, 1, 1), x.dtype))(keys)
    return x * (1 + 0.3 * jax.random.normal(key, (), x.dtype)) + 0.1 * rows


COTTA = dict(num_augmentations=2, min_confidence=0.75, augmentation=brighter)


def petal(f):
    """Without restoration, and by plain steps: first gradients are 0 but for rounding."""
    core = images.petal(f, optax.sgd(0.01), restore="none", **COTTA)
    return Core(lambda p, s: core.init(p, s, jax.tree.map(jnp.ones_like, p)), core.update)


METHODS = {
    "source": batch_statistics.source,
    "batch_norm": batch_statistics.batch_norm,
    "alpha_norm": lambda f: batch_statistics.alpha_norm(f, 0.3, unbiased=False),
    "ema_norm": lambda f: batch_statistics.ema_norm(f, 0.3),
    "tent": lambda f: entropy.tent(f, optax.adam(0.01)),
    "cotta": lambda f: mean_teacher.cotta(f, optax.adam(0.01), restore_probability=0.1, **COTTA),
    "petal": petal,
    "symmetric": lambda f: mean_teacher.cotta(f, optax.adam(0.01), loss="symmetric", **COTTA),
}


@pytest.mark.parametrize("name", METHODS)
def test_constant_images_are_adapted_as_by_a_classifier(name):
    """1 x 1 convolutions give every pixel of such an image what a classifier gives the image."""
    x = np.broadcast_to(tiny.batches()[:, :, :1, :1], tiny.batches().shape)
    replayed = [run(METHODS[name](f), tiny.variables(), x, masks()) for f in (IMAGES, PIXELS)]
    of_images, of_pixels = replayed
    logits = of_pixels.outputs.logits
    assert logits.shape == (*x.shape[:-1], tiny.CLASSES)
    np.testing.assert_allclose(logits, np.broadcast_to(logits[:, :, :1, :1], logits.shape), **CLOSE)
    outputs = of_pixels.outputs._replace(logits=logits[:, :, 1, 2])
    close = lambda a, b: np.testing.assert_allclose(a, b, **CLOSE)
    jax.tree.map(close, of_pixels._replace(outputs=outputs), of_images)


def test_the_loss_is_the_mean_over_the_pixels_of_the_rows_that_count():
    x, valid = tiny.batches(2), masks(2)
    found = run(METHODS["tent"](PIXELS), tiny.variables(), x, valid)
    for i in range(2):
        expected = tiny.entropy(found.outputs.logits[i][valid[i]]).mean()
        np.testing.assert_allclose(found.metrics["loss"][i], expected, rtol=1e-6)
    found = run(METHODS["batch_norm"](PIXELS), tiny.variables(), x, valid)
    expected = tiny.entropy(found.outputs.logits[1][valid[1]]).mean()
    np.testing.assert_allclose(found.metrics["entropy"][1], expected, rtol=1e-6)
    found = run(METHODS["cotta"](PIXELS), tiny.variables(), x, valid)
    for i in range(2):
        expected = tiny.softmax(in_numpy(x[i], valid[i])[valid[i]]).max(-1).mean()
        np.testing.assert_allclose(found.metrics["confidence"][i], expected, rtol=1e-6)


def in_numpy(x, valid):
    """Of all pixels, from the NumPy network on images of one pixel; the same rows count."""
    params, _ = tiny.variables()
    rows = x.reshape(-1, 1, 1, tiny.CHANNELS)
    counted = np.repeat(valid, x.shape[1] * x.shape[2])
    logits, _ = tiny.forward(params, rows, counted)
    return logits.reshape(*x.shape[:-1], tiny.CLASSES)


def test_one_pixel_that_is_not_finite_leaves_its_row_out():
    core = METHODS["tent"](lambda *args, **options: spoiled(*PIXELS(*args, **options)))
    found = run(core, tiny.variables(), tiny.batches(1), masks()[:1])
    assert found.metrics["num_nonfinite"][0] == 1 and not found.outputs.selected[0, 3]
    assert found.outputs.selected[0].sum() == 11


def spoiled(found, state):
    return found._replace(logits=found.logits.at[3, 1, 2, 0].set(jnp.nan)), state


@pytest.mark.parametrize("name", ["cotta", "petal"])
def test_an_augmentation_that_moves_pixels_is_refused(name):
    args = tiny.as_jax(tiny.variables())
    core = getattr(images, name)(PIXELS, optax.sgd(0.1))
    args = (*args, args[0]) if name == "petal" else args
    batch = {"inputs": jnp.asarray(tiny.batches()[0])}
    run = lambda *args: core.update(core.init(*args), batch, jax.random.key(0))
    with pytest.raises(ValueError, match="moves pixels.*standard_augmentation.moves=False"):
        jax.eval_shape(run, *args)
