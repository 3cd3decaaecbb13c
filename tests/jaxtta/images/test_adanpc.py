"""AdaNPC step by step against a NumPy loop, its ring, its limits, and what growth is good for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.nets import Classified
from jaxtta.images.adanpc import adanpc
from jaxtta.images.source_features import extracted
from tests.jaxtta.images import tiny
from tests.jaxtta.images.test_entropy import CLOSE, float64, masks, run  # noqa: F401

C = tiny.CLASSES


def source(number=14):
    """Source features and labels of the tiny network, from `extracted` on two batches."""
    params, stats = tiny.variables()
    batches = tiny.batches(2, number // 2, seed=8)
    found = extracted(tiny.network(), *tiny.as_jax((params, stats)), jnp.asarray(batches))
    flat = batches.reshape(-1, *batches.shape[2:])
    logits, cache = tiny.forward(params, flat, stats=stats["batch_stats"])
    np.testing.assert_allclose(found.logits, logits, **CLOSE)
    np.testing.assert_allclose(found.features, cache["features"], **CLOSE)
    return cache["features"], np.random.default_rng(0).integers(0, C, number)


class AdaNpc:
    k, temperature, beta, growth, radius = 4, 0.001, 0.36, 30, None

    def __init__(self, features, labels):
        self.source = [(f / np.linalg.norm(f), y) for f, y in zip(features, labels, strict=True)]
        self.added = []

    def step(self, x, mask):
        params, stats = tiny.variables()
        _, cache = tiny.forward(params, x, stats=stats["batch_stats"])
        memory = self.source + self.added[-self.growth :]
        all_v = [f / np.linalg.norm(f) for f in cache["features"]]
        cosines = [np.array([v @ u for u, _ in memory]) for v in all_v]
        balls = self.radius is not None and all(
            (cosines[i] >= self.radius).any() for i in np.flatnonzero(mask)
        )
        scored, joined = np.zeros((len(x), C)), np.zeros(len(x), bool)
        for i in np.flatnonzero(mask):
            near = np.argsort(-cosines[i], kind="stable")[: self.k]
            if balls:
                near = np.flatnonzero(cosines[i] >= self.radius)
            weights = np.exp((cosines[i][near] - cosines[i].max()) / self.temperature)
            s = np.zeros(C)
            for j, w in zip(near, weights / weights.sum(), strict=True):
                s[memory[j][1]] += w
            s = np.minimum(s + 1e-5, 1)
            scored[i] = np.log(s)
            joined[i] = tiny.softmax(s).max() >= self.beta
            if joined[i]:
                self.added.append((all_v[i], s.argmax()))
        self.balls = balls
        return scored, joined


@pytest.mark.parametrize(
    "radius, growth",
    [
        (None, 13),
        (0.9965, 30),
        (None, 30),
        (0.9992, 30),
    ],
)
def test_adanpc(radius, growth):
    method = AdaNpc(*source())
    method.radius, method.growth = radius, growth
    core = adanpc(
        tiny.network(),
        C,
        num_neighbors=4,
        temperature=0.001,
        min_confidence=0.36,
        radius=radius,
        growth=growth,
    )
    x, valid = tiny.batches(5), masks(5)
    args = (*tiny.variables(), *source())
    replayed = run(core, args, x, valid)
    with_balls = []
    for i in range(5):
        scored, joined = method.step(x[i], valid[i])
        with_balls.append(method.balls)
        np.testing.assert_allclose(replayed.outputs.logits[i][valid[i]], scored[valid[i]], **CLOSE)
        np.testing.assert_array_equal(replayed.outputs.selected[i], joined)
        assert replayed.metrics["num_selected"][i] == joined.sum()
        size = 14 + min(len(method.added), growth)
        assert replayed.metrics["memory_size"][i] == size
        assert replayed.metrics["num_overwritten"][i] == max(len(method.added) - growth, 0)
    assert 0 < len(method.added) < valid.sum(), "beta must decide something"
    if growth == 13:
        assert len(method.added) > 13, "the ring must have gone round"
    # Whatever their order in the ring, the test entries are the last ones of the loop.
    given = {"inputs": jnp.asarray(x), "mask": jnp.asarray(valid)}
    step = lambda state, batch: (core.update(state, batch, jax.random.key(0))[0], None)
    initial = core.init(*tiny.as_jax(args))
    final = jax.jit(lambda *args: jax.lax.scan(step, *args)[0].ring.features)(initial, given)
    final = np.asarray(final)[: min(len(method.added), growth)]
    expected = np.stack([v for v, _ in method.added[-growth:]])
    key = lambda a: a[np.lexsort(a.T)]
    np.testing.assert_allclose(key(final), key(expected), **CLOSE)
    if radius is not None:
        assert (radius == 0.9965) == with_balls[0]


def test_limits():
    args = (*tiny.variables(), *source())
    x, valid = tiny.batches(3), masks(3)
    fixed = run(adanpc(tiny.network(), C, growth=0), args, x, valid)
    never = adanpc(tiny.network(), C, growth=12, min_confidence=1.1)
    strict = run(never, args, x, valid)
    np.testing.assert_allclose(fixed.outputs.logits, strict.outputs.logits, **CLOSE)
    assert not strict.outputs.selected.any() and (strict.metrics["memory_size"] == 14).all()
    grown = run(adanpc(tiny.network(), C, growth=40), args, x, valid)
    np.testing.assert_array_equal(grown.outputs.selected, valid)
    assert np.abs(grown.outputs.logits[1] - fixed.outputs.logits[1]).max() > 1e-2
    # One neighbour: the class of the nearest entry, for sure.
    one = run(adanpc(tiny.network(), C, growth=0, num_neighbors=1), args, x, valid)
    np.testing.assert_allclose(np.exp(one.outputs.logits).max(-1), 1)


def test_a_growing_memory_follows_a_drift_that_a_fixed_one_does_not():
    """Two classes whose features turn by 60 degrees per domain until they have changed sides."""
    apply_fn = lambda params, state, x, **_: (Classified(x[:, 0, 0, :2], x[:, 0, 0]), state)
    rng = np.random.default_rng(0)

    def draw(turn, number):
        y = rng.integers(0, 2, number)
        angle = np.pi * y + turn + 0.25 * rng.normal(size=number)
        return np.stack([np.cos(angle), np.sin(angle)], 1), y

    features, labels = draw(0.0, 60)
    turns = np.linspace(0, np.pi, 13)[1:]
    x, y = map(np.stack, zip(*[draw(t, 30) for t in turns], strict=True))
    error = {}
    for growth in (0, 30):
        core = adanpc(apply_fn, 2, num_neighbors=9, growth=growth)
        args = ({"w": np.zeros(1)}, {}, features, labels)
        replayed = run(core, args, x[:, :, None, None], np.ones((12, 30), bool))
        error[growth] = (replayed.outputs.logits.argmax(-1) != y)[:8].mean()
    assert error[0] > 0.2 and error[30] < error[0] - 0.1


def test_errors():
    features, labels = source()
    with pytest.raises(ValueError, match="14 source features and 3 labels"):
        adanpc(tiny.network(), C).init({}, {}, features, labels[:3])
    core = adanpc(tiny.network(), C, growth=5)
    state = core.init(*tiny.as_jax(tiny.variables()), features, labels)
    with pytest.raises(ValueError, match="growth=5 places for test rows but a batch has 12"):
        core.update(state, {"inputs": jnp.asarray(tiny.batches()[0])}, jax.random.key(0))
    bare = lambda params, state, x, **_: (Classified(jnp.zeros((2, C))), state)
    core = adanpc(bare, C)
    with pytest.raises(ValueError, match="AdaNPC looks at features"):
        core.update(
            core.init({}, {}, features, labels),
            {"inputs": jnp.zeros((2, 1, 1, 3))},
            jax.random.key(0),
        )
