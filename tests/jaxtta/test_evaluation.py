"""Scanned evaluation equals a Python loop; resets, padding, sweeps, and the check of images."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.core import Core
from jaxtta import evaluation, streams
from jaxtta.images import batch_statistics, entropy
from tests.jaxtta.images import tiny

APPLY = tiny.network()
ARGS = tiny.as_jax(tiny.variables(dtype=np.float32))
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 10, 2, 4, 3)).astype(np.uint8)
STREAM = streams.reset_each_shift([2, 0], 10, 4, 0)
KEY = jax.random.key(0)


def tent(rate=0.05):
    return entropy.tent(APPLY, optax.sgd(rate))


def test_scan_equals_a_loop_with_resets():
    core = tent()
    found = jax.jit(lambda: evaluation.evaluate(core, ARGS, IMAGES, STREAM, KEY))()
    update, state = jax.jit(core.update), None
    for t in range(len(STREAM.reset)):
        if STREAM.reset[t]:
            state = core.init(*ARGS)
        x = IMAGES[STREAM.domain[t], STREAM.image[t]].astype(np.float32) / 255
        batch = {"inputs": x, "mask": STREAM.mask[t]}
        state, out = update(state, batch, jax.random.fold_in(KEY, t))
        rows = STREAM.mask[t]
        np.testing.assert_allclose(
            found.logits[t][rows], out.outputs.logits[rows], rtol=1e-5, atol=1e-5
        )
        np.testing.assert_array_equal(found.selected[t], rows)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found.state, state
    )


def test_parts_with_the_images_of_one_domain_equal_the_whole():
    inner = tent()

    def noisy(state, batch, key):
        x = batch["inputs"] + 0.1 * jax.random.normal(key, batch["inputs"].shape)
        return inner.update(state, {**batch, "inputs": x}, key)

    core = Core(inner.init, noisy)
    stream = streams.rounds(streams.continual([2, 0], 10, 4, 0), 2)
    whole = evaluation.evaluate(core, ARGS, IMAGES, stream, KEY)
    state, found, cut = core.init(*ARGS), [], range(0, len(stream.reset), 3)
    for first in cut:
        part = streams.Stream(*(x[first : first + 3] for x in stream))
        pixels = IMAGES[part.domain[0, 0]][None]
        part = part._replace(domain=np.zeros_like(part.domain))
        done = evaluation.continued(core, ARGS, state, pixels, part, KEY, first)
        state = done.state
        found.append(done.logits)
    np.testing.assert_allclose(np.concatenate(found), whole.logits, rtol=1e-5, atol=1e-5)
    again = evaluation.continued(core, ARGS, core.init(*ARGS), pixels, part, KEY).logits
    assert np.abs(again - found[-1]).max() > 1e-3, "state and key must matter"


def test_without_resets_later_domains_differ():
    go_on = STREAM._replace(reset=np.zeros_like(STREAM.reset))
    evaluate = jax.jit(lambda s: evaluation.evaluate(tent(), ARGS, IMAGES, s, KEY).logits)
    with_reset, without = evaluate(STREAM), evaluate(go_on)
    np.testing.assert_array_equal(with_reset[:3], without[:3])
    assert np.abs(with_reset[3] - without[3]).max() > 1e-4


def test_sweep_equals_single_runs():
    rates = jnp.array([0.0, 0.1])
    run = lambda rate: evaluation.evaluate(tent(rate), ARGS, IMAGES, STREAM, KEY).logits
    together = jax.jit(jax.vmap(run))(rates)
    for i in range(2):
        np.testing.assert_allclose(together[i], jax.jit(run)(rates[i]), rtol=1e-4, atol=1e-4)
    still = evaluation.evaluate(
        batch_statistics.batch_norm(APPLY), ARGS, IMAGES, STREAM, KEY
    ).logits
    np.testing.assert_allclose(together[0], still, rtol=1e-4, atol=1e-4)


def test_predict_leaves_the_state_alone():
    core = tent(0.5)
    after = evaluation.evaluate(core, ARGS, IMAGES, STREAM, KEY).state
    clean = streams.continual([1], 10, 10, 0)
    found = evaluation.predict(core, after, IMAGES, clean, KEY)
    again = evaluation.predict(core, after, IMAGES, streams.rounds(clean, 2), KEY)
    np.testing.assert_allclose(again[1], found[0], rtol=1e-5, atol=1e-5)
    fresh = evaluation.predict(core, core.init(*ARGS), IMAGES, clean, KEY)
    assert np.abs(fresh - found).max() > 1e-4


def test_floats_are_taken_as_they_are():
    core = batch_statistics.source(APPLY)
    whole = evaluation.evaluate(core, ARGS, IMAGES, STREAM, KEY).logits
    floats = evaluation.evaluate(core, ARGS, IMAGES.astype(np.float32) / 255, STREAM, KEY).logits
    np.testing.assert_allclose(whole, floats, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "images, sentence",
    [
        (np.zeros((2, 3, 32, 32), np.float32), "last axis holds the channels"),
        (np.full((2, 4, 4, 3), np.nan, np.float32), "NaN or infinite"),
        (np.full((2, 4, 4, 3), 255.0), "range from 255 to 255"),
        (np.full((2, 4, 4, 3), -0.5), "must be in"),
        (np.zeros((2, 4, 4, 3), np.int64), "images are int64"),
    ],
)
def test_bad_images_are_named(images, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluation.check_images(images)


def test_good_images_pass():
    evaluation.check_images(IMAGES)
    evaluation.check_images(IMAGES / np.float32(255))
