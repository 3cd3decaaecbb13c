"""LAME against a NumPy loop, its limits, and the streams on which it wins and loses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.nets import Classified
from jaxtta.images.lame import adjusted, affinity, lame
from tests.jaxtta.images import tiny
from tests.jaxtta.images.test_entropy import CLOSE, float64, masks, run  # noqa: F401

APPLY = tiny.network()


def reference_affinity(features, kind, k):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    if kind == "cosine":
        return unit @ unit.T
    n = len(unit)
    distance = np.array([[np.linalg.norm(a - b) for b in unit] for a in unit])
    found = np.zeros((n, n))
    if kind == "knn":
        for i in range(n):
            others = [j for j in np.argsort(distance[i], kind="stable") if j != i]
            found[i, others[:k]] = 1
        return found
    width = np.mean([np.sort(distance[i])[min(k, n) - 1] for i in range(n)])
    return np.exp(-(distance**2) / (2 * width**2))


def reference(p, weights, strength):
    unary = -np.log(p + 1e-10)
    y, before = tiny.softmax(-unary), np.inf
    for step in range(100):
        pairwise = strength * weights @ y
        y = tiny.softmax(pairwise - unary)
        energy = (unary * y - pairwise * y + y * np.log(np.maximum(y, 1e-20))).sum()
        if step > 1 and abs(energy - before) <= 1e-8 * abs(before):
            break
        before = energy
    return y, step


@pytest.mark.parametrize("kind", ["rbf", "knn", "cosine"])
def test_lame_equals_the_loop(kind):
    params, stats = tiny.variables(scale=0.5)
    x, valid = tiny.batches(2), masks(2)
    found = run(lame(APPLY, kind=kind, strength=0.7), (params, stats), x, valid).outputs
    for i in range(2):
        logits, cache = tiny.forward(params, x[i], stats=stats["batch_stats"])
        features = cache["features"][valid[i]]
        weights = reference_affinity(features, kind, 5)
        y, steps = reference(tiny.softmax(logits[valid[i]]), weights, 0.7)
        np.testing.assert_allclose(np.exp(found.logits[i][valid[i]]), y, rtol=1e-7, atol=1e-12)
        assert 2 < steps < 99
        assert np.abs(y - tiny.softmax(logits[valid[i]])).max() > 0.05


@pytest.mark.parametrize("kind", ["rbf", "knn"])
def test_affinity_of_few_rows(kind):
    features = np.random.default_rng(0).normal(size=(6, 3))
    mask = np.array([1, 1, 1, 0, 0, 0], bool)
    found = np.asarray(affinity(jnp.asarray(features), jnp.asarray(mask), kind, 5))
    np.testing.assert_allclose(found[:3, :3], reference_affinity(features[:3], kind, 5), **CLOSE)
    assert not found[3:].any() and not found[:, 3:].any()
    one = affinity(jnp.asarray(features), jnp.arange(6) == 0, kind, 5)
    assert np.isfinite(one).all()


def test_without_strength_it_is_the_model():
    x, args = tiny.batches(1), tiny.variables()
    found = run(lame(APPLY, strength=0.0), args, x, np.ones((1, 12), bool)).outputs.logits[0]
    logits, _ = tiny.forward(args[0], x[0], stats=args[1]["batch_stats"])
    np.testing.assert_allclose(np.exp(found), tiny.softmax(logits), rtol=1e-6, atol=1e-9)


def test_wins_on_sorted_batches_and_loses_on_mixed_ones():
    """Features say little about the class; in a sorted batch the neighbours do."""
    rng = np.random.default_rng(0)
    error = {}
    every = jnp.ones(32, bool)
    adjust = jax.jit(lambda z, f: adjusted(jax.nn.softmax(z), affinity(f, every), every))
    for kind in ("sorted", "mixed"):
        before = after = 0.0
        for _ in range(20):
            y = np.full(32, rng.integers(4)) if kind == "sorted" else rng.integers(0, 4, 32)
            logits = 1.2 * np.eye(4)[y] + rng.normal(size=(32, 4))
            new = adjust(logits, rng.normal(size=(32, 8)) + 3)
            before += (logits.argmax(1) != y).mean() / 20
            after += (np.asarray(new).argmax(1) != y).mean() / 20
        error[kind] = after - before
    assert error["sorted"] < -0.2 and error["mixed"] > 0.1


def test_errors():
    bare = lambda *args, **kwargs: (Classified(jnp.zeros((2, 4))), {})
    core = lame(bare)
    with pytest.raises(ValueError, match="the network returns none"):
        core.update(core.init({}, {}), {"inputs": jnp.zeros((2, 1, 1, 3))}, jax.random.key(0))
    with pytest.raises(ValueError, match="unknown affinity 'near'"):
        affinity(jnp.ones((2, 2)), jnp.ones(2, bool), "near")
