"""VDP step by step against NumPy in float64, its detector and its anchor."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta.adaptation import replay, row_keys
from jaxtta.images.vdp import Importance, border, close_domain, vdp
from tests.jaxtta.images import tiny
from tests.jaxtta.images.test_entropy import CLOSE, float64, masks, run  # noqa: F401
from tests.jaxtta.images.test_mean_teacher import APPLY, jitter

SHAPE = (2, 4, 3)
NEAR = {"rtol": 1e-6, "atol": 1e-8}
PARAMS, STATS = tiny.variables()


def logits_of(x):
    return tiny.forward(PARAMS, x, stats=STATS["batch_stats"])[0]


class Vdp:
    weight, damping, threshold, decay, fresh = 0.1, 1e-3, 0.03, 0.8, False

    def __init__(self, region):
        self.region, self.sgd = region, tiny.Sgd(0.2)
        self.psi, self.omega = np.zeros(SHAPE), np.zeros(SHAPE)
        self.teacher = [np.zeros(SHAPE), np.zeros(SHAPE)]
        self.total, self.path = np.zeros(SHAPE), np.zeros(SHAPE)
        self.start = self.anchor = np.zeros(SHAPE)
        self.confidence, self.closed = None, 0

    def step(self, x, mask, changed):
        if mask.any():
            confidence = tiny.softmax(logits_of(x))[mask].max(-1).mean()
            if self.confidence is not None and abs(confidence - self.confidence) > self.threshold:
                moved = self.omega - self.start
                self.total = self.total + np.maximum(self.path, 0) / (moved**2 + self.damping)
                self.path, self.start, self.anchor = np.zeros(SHAPE), self.omega, self.omega
                self.closed += 1
                if self.fresh:
                    self.psi, self.teacher[0] = np.zeros(SHAPE), np.zeros(SHAPE)
            self.confidence = confidence
        target = logits_of(x + self.region * sum(self.teacher))
        if not mask.any():
            return target
        t = tiny.softmax(target)

        def loss(flat):
            z = logits_of(changed + self.region * flat.reshape(SHAPE))
            return -(t * tiny.log_softmax(z)).sum(-1)[mask].mean()

        here = (self.psi + self.omega).ravel()
        basis = 1e-5 * np.eye(here.size)
        slope = [(loss(here + h) - loss(here - h)) / 2e-5 for h in basis]
        g = np.array(slope).reshape(SHAPE)
        drawn = 2 * self.weight * self.total * (self.omega - self.anchor)
        now = self.sgd.step(np.stack([self.psi, self.omega]), np.stack([g, g + drawn]))
        self.path = self.path - g * (now[1] - self.omega)
        self.psi, self.omega = now
        self.teacher = [
            self.decay * t + (1 - self.decay) * s for t, s in zip(self.teacher, now, strict=True)
        ]
        return target


def stream(number=7, size=8):
    """Two domains with different brightness, then the first again."""
    x = tiny.batches(number, size)
    x[2:5] = 3 * x[2:5] - 1
    return x


@pytest.mark.parametrize("fresh", [False, True])
def test_vdp(fresh):
    region = np.asarray(border((2, 4, 3), 1)).astype(float)
    region[0, 1:3] = 0.0
    core = vdp(
        APPLY,
        optax.sgd(0.2, momentum=0.9),
        SHAPE,
        region=jnp.asarray(region),
        weight=0.1,
        detection_threshold=0.03,
        reset_specific=fresh,
        teacher_decay=0.8,
        augmentation=jitter,
    )
    x, valid = stream(), masks(7, 8)
    valid[1, 5:], valid[3] = False, False
    valid[2] = True
    found = run(core, (PARAMS, STATS), x, valid)
    method = Vdp(region)
    method.fresh = fresh
    for i in range(7):
        key_draw, key_rows = jax.random.split(jax.random.fold_in(jax.random.key(0), i))
        changed = np.asarray(jitter(jnp.asarray(x[i]), key_draw, row_keys(key_rows, 8, None)))
        before = method.closed
        target = method.step(x[i], valid[i], changed)
        np.testing.assert_allclose(found.outputs.logits[i][valid[i]], target[valid[i]], **NEAR)
        np.testing.assert_allclose(found.params.specific[i], method.psi, **NEAR)
        np.testing.assert_allclose(found.params.agnostic[i], method.omega, **NEAR)
        assert found.metrics["domain_changed"][i] == method.closed - before
    assert 2 <= method.closed < 5, "the test must see changes and batches without one"
    assert method.total.max() > 1e-3 and np.abs(method.omega - method.anchor).max() > 1e-4
    assert (found.params.agnostic[-1][region == 0] == 0).all(), "nothing is learned outside"


def test_without_prompts_it_is_the_source_and_importance_holds_omega():
    x = np.concatenate([tiny.batches(4, 8) + 5, tiny.batches(6, 8, seed=2) - 2])
    keys = jax.random.split(jax.random.key(0), 10)

    @jax.jit
    @jax.vmap
    def replayed(rate, weight):
        core = vdp(
            APPLY,
            optax.sgd(rate),
            SHAPE,
            weight=weight,
            augmentation=jitter,
            detection_threshold=0.2,
            teacher_decay=0.0,
        )
        args = tiny.as_jax((PARAMS, STATS))
        return replay(core, args, {"inputs": jnp.asarray(x)}, keys)

    found = replayed(jnp.array([0.0, 0.2, 0.2]), jnp.array([1.0, 0.0, 0.3]))
    for i in range(10):
        np.testing.assert_allclose(found.outputs.logits[0, i], logits_of(x[i]), **CLOSE)
    changes = found.metrics["domain_changed"]
    np.testing.assert_array_equal(changes[0], np.arange(10) == 4)
    free, held = found.metrics["drift"][1:, -1]
    assert held < 0.8 * free, "importance must keep omega near its anchor"


def test_a_domain_that_made_the_loss_worse_adds_no_importance():
    path, start = jnp.array([0.5, -0.5]), jnp.array([1.0, 1.0])
    before = Importance(jnp.array([2.0, 2.0]), path, start, start)
    after = close_domain(before, jnp.array([3.0, 3.0]), damping=1.0)
    np.testing.assert_allclose(after.total, [2 + 0.5 / (4 + 1), 2], rtol=1e-6)
    np.testing.assert_array_equal(after.path, [0, 0])
    np.testing.assert_array_equal(after.anchor, [3, 3])


def test_errors():
    with pytest.raises(ValueError, match="region of the prompts"):
        vdp(APPLY, optax.sgd(0.1), SHAPE, region=jnp.ones((4, 4, 3)))
    core = vdp(APPLY, optax.sgd(0.1), (4, 4, 3))
    state = core.init(*tiny.as_jax((PARAMS, STATS)))
    with pytest.raises(ValueError, match="made for images of shape"):
        core.update(state, {"inputs": tiny.batches()[0]}, jax.random.key(0))
