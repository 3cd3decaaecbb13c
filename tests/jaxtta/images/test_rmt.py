"""RMT, its warm-up, prototypes and contrast against NumPy loops in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import trees
from jaxtta.images.contrast import contrastive_loss, nearest_prototypes, new_projector
from jaxtta.images.rmt import Known, Labelled, class_prototypes, rmt, rmt_draws, warm_up
from tests.jaxtta.images import reference, tiny
from tests.jaxtta.images.test_entropy import CLOSE, float64, masks, run  # noqa: F401
from tests.jaxtta.images.test_mean_teacher import NAMES, jitter

APPLY = tiny.network()
HEAD = [(a, b) for a in ("linear1", "linear2") for b in ("kernel", "bias")]
NEAR = {"rtol": 1e-6, "atol": 1e-7}
DATA = tiny.batches(2, 10, seed=7), np.random.default_rng(8).integers(0, 3, (2, 10))


def slope(loss, theta):
    """Gradient by central differences."""
    basis = 1e-5 * np.eye(len(theta))
    return np.array([(loss(theta + h) - loss(theta - h)) / 2e-5 for h in basis])


def sce(a, b):
    p, q = tiny.softmax(a), tiny.softmax(b)
    return -0.5 * (p * np.log(q)).sum(-1) - 0.5 * (q * np.log(p)).sum(-1)


def contrast(views, temperature=0.1):
    """The loss of unit vectors [V, B, D], anchor by anchor."""
    number, size, _ = views.shape
    flat, total = views.reshape(number * size, -1), 0.0
    exponent = flat @ flat.T / temperature
    for a in range(number * size):
        others = np.arange(number * size) != a
        log_p = exponent[a] - np.log(np.exp(exponent[a])[others].sum())
        positives = others & (np.arange(number * size) % size == a % size)
        total -= log_p[positives].mean() / (number * size)
    return total


class Rmt(reference.Method):
    names = NAMES
    decay, source_weight = 0.9, 0.7

    def __init__(self, params, optimizer, prototypes, projector):
        super().__init__(params, optimizer)
        self.prototypes, self.shape = prototypes, projector
        self.size = self.theta.size
        self.theta = np.concatenate([self.theta, tiny.flat(projector, HEAD)])
        self.teacher = self.theta0.copy()

    def found(self, theta, x, mask):
        logits, cache = tiny.forward(self.params(theta[: self.size]), x, mask)
        return logits, cache["features"]

    def project(self, theta, x):
        head = tiny.with_flat(self.shape, theta[self.size :], HEAD)
        hidden = np.maximum(x @ head["linear1"]["kernel"] + head["linear1"]["bias"], 0)
        z = hidden @ head["linear2"]["kernel"] + head["linear2"]["bias"]
        return z / np.linalg.norm(z, axis=-1, keepdims=True)

    def loss(self, theta, x, changed, mask, target, nearest, source):
        z, h = self.found(theta, x, mask)
        again, h_again = self.found(theta, changed, mask)
        value = (0.5 * (sce(z, target) + sce(again, target)))[mask].mean()
        views = [self.project(theta, v[mask]) for v in (nearest, h, h_again)]
        value += contrast(np.stack(views))
        logits = self.found(theta, source[0], np.ones(len(x), bool))[0]
        log_p = tiny.log_softmax(logits)[np.arange(len(x)), source[1]]
        return value - self.source_weight * log_p.mean()

    def step(self, x, mask, changed, source):
        z, h = self.found(self.theta, x, mask)
        target = tiny.forward(self.params(self.teacher), x, mask)[0]
        if mask.any():
            length = lambda v: np.linalg.norm(v, axis=-1, keepdims=True)
            cosine = (h / length(h)) @ (self.prototypes / length(self.prototypes)).T
            given = (x, changed, mask, target, self.prototypes[cosine.argmax(-1)], source)
            gradient = slope(lambda theta: self.loss(theta, *given), self.theta)
            self.theta = self.optimizer.step(self.theta, gradient)
            self.teacher = self.decay * self.teacher + (1 - self.decay) * self.theta[: self.size]
        return z + target


def known(width=4):
    params, stats = tiny.variables()
    prototypes = np.random.default_rng(3).uniform(size=(tiny.CLASSES, tiny.FEATURES))
    projector = new_projector(jax.random.key(5), tiny.FEATURES, width, np.float64)
    return params, prototypes, projector


def test_rmt():
    params, prototypes, projector = known()
    x, valid = tiny.batches(4, 6), masks(4, 6)
    valid[1, 4:] = False
    images, labels = DATA[0].reshape(20, 2, 4, 3), DATA[1].reshape(20)
    core = rmt(
        APPLY,
        optax.sgd(0.01, momentum=0.9),
        source_weight=0.7,
        teacher_decay=0.9,
        augmentation=jitter,
    )
    given = Known(prototypes, Labelled(images, labels), projector=projector)
    found = run(core, (*tiny.variables(), given), x, valid)
    method, other = (
        Rmt(params, tiny.Sgd(), prototypes, jax.tree.map(np.asarray, projector)) for _ in range(2)
    )
    for i in range(4):
        drawn = rmt_draws(jax.random.fold_in(jax.random.key(0), i), 20, 6)
        changed = np.asarray(jitter(jnp.asarray(x[i]), *drawn.augmentation))
        place = np.asarray(drawn.replayed)
        source = images[place], labels[place]
        scored = method.step(x[i], valid[i], changed, source)
        np.testing.assert_allclose(found.outputs.logits[i][valid[i]], scored[valid[i]], **NEAR)
        np.testing.assert_array_equal(found.outputs.selected[i], valid[i])
        theta = tiny.flat(jax.tree.map(lambda v, i=i: v[i], found.params), NAMES)
        np.testing.assert_allclose(theta, method.theta[: method.size], **NEAR)
    assert np.abs(method.theta[: method.size] - method.theta0).max() > 1e-3
    # The control: a loop whose source images are others is told apart.
    for i in range(4):
        other.step(x[i], valid[i], x[i], (images[:6], labels[:6]))
    assert np.abs(other.theta - method.theta).max() > 1e-4


def test_warm_up_and_start():
    params, prototypes, _ = known()
    optimizer, batches = optax.adam(0.01), tiny.batches(3, 5, seed=4)
    args = tiny.as_jax(tiny.variables())
    warm = jax.jit(functools.partial(warm_up, APPLY, optimizer, teacher_decay=0.9))(*args, batches)
    theta = teacher = tiny.flat(params, NAMES)
    adam = tiny.Adam()
    logits = lambda theta, x: tiny.forward(tiny.with_flat(params, theta, NAMES), x)[0]
    for i, x in enumerate(batches):
        target = logits(teacher, x)
        gradient = slope(lambda t, x=x, y=target: sce(y, logits(t, x)).mean(), theta)
        adam.rate = 0.01 * (i + 1) / 3
        theta = adam.step(theta, gradient)
        teacher = 0.9 * teacher + 0.1 * theta
    np.testing.assert_allclose(tiny.flat(warm.params, NAMES), theta, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(tiny.flat(warm.teacher, NAMES), teacher, rtol=1e-4, atol=1e-6)

    state = rmt(APPLY, optimizer).init(*args, Known(prototypes, warm=warm))
    jax.tree.map(np.testing.assert_array_equal, state.params, warm.params)
    jax.tree.map(np.testing.assert_array_equal, state.memory.teacher, warm.teacher)
    assert optax.tree.get(state.opt_state, "count") == 3
    assert optax.tree.get(state.memory.projector_opt_state, "count") == 0
    assert trees.size(state.memory.projector) == (tiny.FEATURES + 1 + 129) * 128


def test_prototypes():
    params, stats = tiny.variables()
    images, labels = DATA
    found = class_prototypes(APPLY, *tiny.as_jax((params, stats)), images, labels, 4)
    features = np.concatenate([tiny.forward(params, x)[1]["features"] for x in images])
    for c in range(3):
        np.testing.assert_allclose(found[c], features[labels.reshape(-1) == c].mean(0), **CLOSE)
    assert (found[3] == 0).all(), "no image is of the last class"
    near = nearest_prototypes(found, -jnp.asarray(features))
    assert (np.abs(near) > 0).any(1).all(), "an empty class is never the nearest"


def test_contrast_of_one_row_and_of_none():
    views = np.random.default_rng(0).normal(size=(3, 4, 5))
    views /= np.linalg.norm(views, axis=-1, keepdims=True)
    one = np.arange(4) == 2
    loss = jax.jit(jax.value_and_grad(contrastive_loss))
    found = loss(jnp.asarray(views), jnp.asarray(one))
    np.testing.assert_allclose(found[0], contrast(views[:, one]), **CLOSE)
    none = loss(jnp.asarray(views), jnp.zeros(4, bool))
    assert none[0] == 0 and (none[1] == 0).all()


def test_errors():
    args = tiny.as_jax(tiny.variables())
    with pytest.raises(ValueError, match="loss is 'mse'"):
        rmt(APPLY, optax.sgd(0.1), loss="mse")
    with pytest.raises(ValueError, match="one feature vector per class"):
        rmt(APPLY, optax.sgd(0.1)).init(*args, Known(jnp.ones(4)))
    bare = lambda *a, **k: (APPLY(*a, **k)[0]._replace(features=()), {})
    core = rmt(bare, optax.sgd(0.1), augmentation=jitter)
    with pytest.raises(ValueError, match="network returns none"):
        state = core.init(*args, Known(jnp.ones((4, 6))))
        batch = {"inputs": tiny.batches()[0]}
        jax.eval_shape(core.update, state, batch, jax.random.key(0))
