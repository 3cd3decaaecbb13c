"""DACS and FST on a network of 1 x 1 convolutions, part by part against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.nets.norm import BATCH
from jaxtta.adaptation import row_keys
from jaxtta.dense.fst import dacs, fst, pasted, strongly_changed
from tests.jaxtta.images import tiny
from tests.jaxtta.images.test_entropy import float64  # noqa: F401

APPLY, SIZE = tiny.network(pixels=True), 4
SHAPE = (SIZE, 2, 4)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "inputs": jnp.asarray(rng.random((*SHAPE, 3))),
        "labels": jnp.asarray(rng.integers(-1, tiny.CLASSES, SHAPE)),
        "target": jnp.asarray(rng.random((*SHAPE, 3))),
    }


def in_numpy(params, x):
    """Logits of all pixels with the statistics of the batch."""
    logits, _ = tiny.forward(params, np.asarray(x).reshape(-1, 1, 1, 3))
    return logits.reshape(*x.shape[:-1], tiny.CLASSES)


def cross_entropy(logits, labels, weights):
    known = labels >= 0
    each = -np.take_along_axis(tiny.log_softmax(logits), np.maximum(labels, 0)[..., None], -1)
    return (weights * each[..., 0])[known].sum() / known.sum()


def test_losses_of_the_source_and_of_mixed_pictures():
    """Without strong changes; the mask is that of the key's second half, `pasted` has a test."""
    core, given, key = (
        dacs(APPLY, optax.sgd(0.1), confidence=0.5, jitter=0, blur=0),
        batch(),
        jax.random.key(3),
    )
    args = tiny.as_jax(tiny.variables())
    _, out = jax.jit(core.update)(core.init(*args), given, key)
    params, _ = tiny.variables()
    images, labels, target = (np.asarray(given[name]) for name in ("inputs", "labels", "target"))
    logits = in_numpy(params, target)
    np.testing.assert_allclose(out.outputs.logits, logits, rtol=1e-6)
    sure = np.mean(tiny.softmax(logits).max(-1) >= 0.5)
    keys = jax.vmap(jax.random.split)(row_keys(jax.random.split(key)[1], SIZE, None))
    mask = np.asarray(pasted(given["labels"], keys[:, 0], tiny.CLASSES))
    assert 0 < mask.mean() < 1 and 0 < sure < 1
    mixed = np.where(mask[..., None], images, target)
    guessed = np.where(mask, labels, logits.argmax(-1))
    plain = cross_entropy(in_numpy(params, images), labels, np.ones(SHAPE))
    other = cross_entropy(in_numpy(params, mixed), guessed, np.where(mask, 1, sure))
    found = [out.metrics[name] for name in ("confident", "source_loss", "mixed_loss", "loss")]
    np.testing.assert_allclose(found, [sure, plain, other, plain + other], rtol=1e-5)


def test_half_of_the_classes_of_each_picture_are_pasted_whole():
    labels = np.random.default_rng(0).integers(-1, 6, (7, 3, 4))
    labels[0] = 2  # one class
    labels[1] = -1
    keys = jax.random.split(jax.random.key(0), 7)
    for seed in range(3):
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, seed)
        mask = np.asarray(pasted(jnp.asarray(labels), keys, 6))
        for one, chosen in zip(labels, mask, strict=True):
            present = set(np.unique(one[one >= 0]))
            assert len(set(one[chosen])) == (len(present) + 1) // 2
            np.testing.assert_array_equal(chosen, np.isin(one, list(set(one[chosen]))))


def test_every_class_is_pasted_as_often_as_the_others():
    labels = jnp.broadcast_to(jnp.arange(4)[None, None], (600, 1, 4))
    mask = pasted(labels, jax.random.split(jax.random.key(0), 600), 4)
    np.testing.assert_allclose(mask.mean((0, 1)), 0.5, atol=0.08)


def test_strong_changes_are_drawn_for_all_and_measured_for_each():
    image = np.random.default_rng(0).random((1, 6, 8, 3))
    images, keys = jnp.asarray(np.repeat(image, 3, 0)), jax.random.split(jax.random.key(1), 3)
    change = lambda **options: np.asarray(
        strongly_changed(images, jax.random.key(0), keys, **options)
    )
    np.testing.assert_allclose(change(jitter=0, blur=0), images, atol=1e-9)
    for options in ({"jitter": 1, "blur": 0}, {"jitter": 0, "blur": 1}):
        found = change(**options)
        assert np.abs(found - images).max((1, 2, 3)).min() > 1e-3
        assert np.abs(found[0] - found[1]).max() > 1e-3
    blurred = change(jitter=0, blur=1)
    np.testing.assert_allclose(blurred.mean((1, 2)), images.mean((1, 2)), atol=0.03)
    assert (blurred.std((1, 2)) < np.asarray(images).std((1, 2))).all()


def test_student_and_teacher_move_and_the_students_statistics_are_stored():
    args = tiny.as_jax(tiny.variables())
    core = dacs(APPLY, optax.sgd(0.1), decay=0.9)
    state, _ = jax.jit(core.update)(core.init(*args), batch(), jax.random.key(0))
    state, out = jax.jit(core.update)(state, batch(1), jax.random.key(1))
    moved = lambda a, b: max(
        jax.tree.leaves(jax.tree.map(lambda x, y: float(abs(x - y).max()), a, b))
    )
    assert out.metrics["did_update"] and moved(state.params, args[0]) > 1e-3
    assert moved(state.memory.teacher, args[0]) > 1e-3
    assert moved(state.memory.teacher, state.params) > 1e-4
    assert moved(state.model_state, args[1]) > 1e-3
    core = dacs(APPLY, optax.sgd(0.1), norm=BATCH)
    state, _ = jax.jit(core.update)(core.init(*args), batch(), jax.random.key(0))
    assert moved(state.model_state, args[1]) == 0


def test_looking_ahead_moves_the_teacher_that_labels():
    args = tiny.as_jax(tiny.variables())
    last = {}
    for num_steps in (0, 2):
        core = fst(APPLY, optax.sgd(0.1), num_steps=num_steps, decay=0.5)
        state = core.init(*args)
        for i in range(2):
            state, out = jax.jit(core.update)(state, batch(i), jax.random.key(i))
        last[num_steps] = out.outputs.logits
    assert np.abs(last[0] - last[2]).max() > 1e-2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda b: {"inputs": b["inputs"], "labels": b["labels"]}, "'target', but got .'inputs'"),
        (lambda b: b["inputs"], "but got a "),
        (lambda b: b | {"target": b["target"][:2]}, r"target \(2, 2, 4, 3\) must be images of one"),
        (lambda b: b | {"labels": b["labels"][:, 0]}, "whole numbers for their pixels"),
    ],
)
def test_other_batches_are_named(change, sentence):
    core, args = dacs(APPLY, optax.sgd(0.1)), tiny.as_jax(tiny.variables())
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(lambda: core.update(core.init(*args), change(batch()), jax.random.key(0)))


def test_a_classifier_of_images_is_refused():
    core, args = dacs(tiny.network(), optax.sgd(0.1)), tiny.as_jax(tiny.variables())
    with pytest.raises(ValueError, match="must classify the pixels of the labels"):
        jax.eval_shape(lambda: core.update(core.init(*args), batch(), jax.random.key(0)))
