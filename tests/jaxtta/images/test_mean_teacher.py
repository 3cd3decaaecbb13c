"""CoTTA step by step against NumPy in float64 with injected augmentations and restoration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta.images import mean_teacher
from tests.jaxtta.images import reference, tiny
from tests.jaxtta.images.test_entropy import CLOSE, float64, masks, run  # noqa: F401

APPLY = tiny.network()
NAMES = [(a, b) for a, group in tiny.variables()[0].items() for b in group]


@jax.jit
def jitter(x, key, keys):
    """An augmentation with a shared and a per-row part."""
    rows = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)
    return x * (1 + 0.3 * jax.random.normal(key, (), x.dtype)) + 0.1 * rows


@functools.partial(jax.jit, static_argnums=2)
def draw_of(key, params, batch_size):
    return mean_teacher.cotta_draws(
        key, params, batch_size, num_augmentations=3, restore_probability=0.2
    )


class Cotta(reference.Method):
    """Takes the draws of the key; everything else is NumPy."""

    names = NAMES
    passes, decay, symmetric, threshold = 3, 0.9, False, 0.92

    def __init__(self, params, optimizer):
        super().__init__(params, optimizer)
        self.teacher, self.augmented = self.theta.copy(), []

    def logits(self, theta, x, mask):
        return tiny.forward(self.params(theta), x, mask)[0]

    def step(self, x, mask, key):
        drawn = draw_of(key, tiny.as_jax(self.params()), len(x))
        logits, cache = self.forward(x, mask)
        source = tiny.softmax(self.logits(self.theta0, x, mask))
        unsure = bool(mask.any()) and source[mask].max(-1).mean() < self.threshold
        self.augmented.append(unsure)
        if unsure:
            total = 0.0
            for i in range(self.passes):
                shared, rows = jax.tree.map(lambda v, i=i: v[i], drawn.augmentations)
                changed = jitter(jnp.asarray(x), shared, rows)
                total = total + self.logits(self.teacher, np.asarray(changed), mask)
            target = total / self.passes
        else:
            target = self.logits(self.teacher, x, mask)
        if not mask.any():
            return target, mask
        t, p = tiny.softmax(target), tiny.softmax(logits)
        d = p - t
        if self.symmetric:
            # d/dz of -sum p log t: -p (log t - p . log t)
            back = -p * (np.log(t) - (p * np.log(t)).sum(-1, keepdims=True))
            d = 0.5 * (d + back)
        d = np.where(mask[:, None], d, 0) / mask.sum()
        gradient = self.gradient(cache, d) + self.prior_gradient()
        self.theta = self.optimizer.step(self.theta, gradient)
        self.teacher = self.decay * self.teacher + (1 - self.decay) * self.theta
        self.theta = np.where(self.returning(gradient, drawn), self.theta0, self.theta)
        return target, mask

    def prior_gradient(self):
        return 0.0

    def returning(self, gradient, drawn):
        back = tiny.flat(drawn.returning, NAMES)
        assert 0.05 < back.mean() < 0.4
        return back


# While no augmented pass runs, student and teacher start equal and the first gradient is rounding
# noise, which Adam would blow up; hence SGD there.
@pytest.mark.parametrize(
    "threshold, symmetric, optimizer",
    [
        (0.0, False, (optax.sgd(0.01, momentum=0.9), tiny.Sgd)),
        (0.75, False, (optax.sgd(0.01, momentum=0.9), tiny.Sgd)),
        (1.1, False, (optax.adam(0.01), tiny.Adam)),
        (1.1, True, (optax.adam(0.01), tiny.Adam)),
    ],
)
def test_cotta(threshold, symmetric, optimizer):
    core = mean_teacher.cotta(
        APPLY,
        optimizer[0],
        num_augmentations=3,
        min_confidence=threshold,
        teacher_decay=0.9,
        restore_probability=0.2,
        loss="symmetric" if symmetric else "cross_entropy",
        augmentation=jitter,
    )
    x, valid = tiny.batches(4), masks(4)
    method = Cotta(tiny.variables()[0], optimizer[1]())
    method.threshold, method.symmetric = threshold, symmetric
    replayed = run(core, tiny.variables(), x, valid)
    for i in range(4):
        key = jax.random.fold_in(jax.random.key(0), i)
        target, _ = method.step(x[i], valid[i], key)
        np.testing.assert_allclose(replayed.outputs.logits[i][valid[i]], target[valid[i]], **CLOSE)
        theta = tiny.flat(jax.tree.map(lambda v, i=i: v[i], replayed.params), NAMES)
        np.testing.assert_allclose(theta, method.theta, **CLOSE)
        if valid[i].any():
            assert replayed.metrics["augmented"][i] == method.augmented[i]
    if threshold != 0.75:
        assert method.augmented[0] == (threshold > 1)
    if threshold > 1:
        assert np.abs(method.teacher - method.theta0).max() > 1e-3


def build(**options):
    return mean_teacher.cotta(APPLY, optax.sgd(0.05), augmentation=jitter, **options)


def test_full_restoration_keeps_the_student_at_the_source():
    replayed = run(
        build(restore_probability=1.0, num_augmentations=1),
        tiny.variables(),
        tiny.batches(3),
        masks(3),
    )
    source = tiny.flat(tiny.variables()[0], NAMES)
    for i in range(3):
        theta = tiny.flat(jax.tree.map(lambda v, i=i: v[i], replayed.params), NAMES)
        np.testing.assert_array_equal(theta, source)


def test_teacher_without_memory_is_the_student_before_restoration():
    core = build(teacher_decay=0.0, restore_probability=0.0, num_augmentations=1)
    args = tiny.as_jax(tiny.variables())
    state, _ = jax.jit(core.update)(
        core.init(*args), {"inputs": jnp.asarray(tiny.batches()[0])}, jax.random.key(0)
    )
    jax.tree.map(np.testing.assert_array_equal, state.memory, state.params)
    moved = np.abs(tiny.flat(state.params, NAMES) - tiny.flat(tiny.variables()[0], NAMES)).max()
    assert moved > 1e-3


def test_standard_augmentation_is_used_by_default():
    x = jnp.asarray(np.random.default_rng(0).random((4, 8, 8, 3)))
    args = tiny.as_jax(tiny.variables())
    core = mean_teacher.cotta(APPLY, optax.sgd(0.1), num_augmentations=2, min_confidence=1.1)
    update = jax.jit(core.update)
    _, one = update(core.init(*args), {"inputs": x}, jax.random.key(0))
    _, two = update(core.init(*args), {"inputs": x}, jax.random.key(1))
    assert np.isfinite(one.outputs.logits).all()
    assert np.abs(one.outputs.logits - two.outputs.logits).max() > 1e-3


def test_errors():
    with pytest.raises(ValueError, match="loss='mse'"):
        build(loss="mse")
    with pytest.raises(ValueError, match="num_augmentations=0"):
        build(num_augmentations=0)
