"""CAFA step by step against NumPy, its Gaussians, and what its classes are good for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta.images.batch_statistics import batch_norm
from jaxtta.images.cafa import ClassGaussians, cafa, class_gaussians, distances
from tests.jaxtta.images import reference, tiny
from tests.jaxtta.images.test_entropy import (  # noqa: F401
    ADAM,
    CLOSE,
    compare,
    float64,
    masks,
    run,
)

C, D = tiny.CLASSES, tiny.FEATURES
FAST = (optax.sgd(0.1, momentum=0.9), lambda: tiny.Sgd(0.1))


def source_features(number=60):
    params, stats = tiny.variables()
    x = tiny.batches(1, number, seed=8)[0]
    logits, cache = tiny.forward(params, x, stats=stats["batch_stats"])
    return cache["features"], np.arange(number) % C


def covariances(features, labels, ridge, tied):
    means = np.stack([features[labels == c].mean(0) for c in range(C)])
    away = features - means[labels]
    outer = [a[:, None] * a[None] for a in away]
    damp = ridge * np.eye(D)
    if tied:
        return means, np.stack([np.mean(outer, 0) + damp] * C)
    groups = [[o for o, y in zip(outer, labels, strict=True) if y == c] for c in range(C)]
    return means, np.stack([np.mean(g, 0) + damp for g in groups])


class Cafa(reference.Method):
    means, covs, log = None, None, True

    def step(self, x, mask):
        logits, cache = self.forward(x, mask)
        if mask.any():
            dfeatures = np.zeros_like(cache["features"])
            for i in np.flatnonzero(mask):
                away = cache["features"][i] - self.means
                solved = np.stack(
                    [np.linalg.solve(s, a) for s, a in zip(self.covs, away, strict=True)]
                )
                far, y = (away * solved).sum(1), logits[i].argmax()
                others = np.arange(C) != y
                inter, dinter = far[others].mean(), 2 * solved[others].mean(0)
                gradient = 2 * solved[y] / far[y] - dinter / inter
                if not self.log:
                    gradient = gradient * far[y] / inter
                dfeatures[i] = gradient / mask.sum()
            # `backward` starts at logits; with an identity head these are the features.
            params = {**self.params(), "head": {"kernel": np.eye(D)}}
            gradient = tiny.flat(tiny.backward(params, cache, dfeatures))
            self.theta = self.optimizer.step(self.theta, gradient)
        return logits, mask


@pytest.mark.parametrize(
    "optimizer, form, tied", [(ADAM, "log_ratio", False), (FAST, "ratio", True)]
)
def test_cafa(optimizer, form, tied):
    features, labels = source_features()
    gaussians = class_gaussians(
        jnp.asarray(features), jnp.asarray(labels), C, ridge=0.05, tied=tied
    )
    method = Cafa(tiny.variables()[0], optimizer[1]())
    method.means, method.covs = covariances(features, labels, 0.05, tied)
    method.log = form == "log_ratio"
    np.testing.assert_allclose(gaussians.means, method.means, **CLOSE)
    factors = np.asarray(gaussians.factors)
    found = factors @ factors.swapaxes(1, 2)
    np.testing.assert_allclose(np.broadcast_to(found, (C, D, D)), method.covs, **CLOSE)
    assert len(factors) == (1 if tied else C)
    core = cafa(tiny.network(), optimizer[0], form=form)
    compare(core, method, tiny.batches(), masks(), known=(gaussians,))


def test_without_a_step_it_is_batch_norm():
    gaussians = class_gaussians(*map(jnp.asarray, source_features()), C)
    x, valid = tiny.batches(2), masks(2)
    args = (*tiny.variables(), gaussians)
    still = run(cafa(tiny.network(), optax.sgd(0.0)), args, x, valid)
    plain = run(batch_norm(tiny.network()), tiny.variables(), x, valid)
    np.testing.assert_allclose(still.outputs.logits, plain.outputs.logits, **CLOSE)
    # A batch of one, and features that lie on a mean: finite.
    one = run(cafa(tiny.network(), optax.adam(0.1)), args, x[:, :1], valid[:, :1])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one.params))


def test_few_or_no_examples_of_a_class():
    features = jnp.asarray(np.random.default_rng(0).normal(size=(3, D)))
    gaussians = class_gaussians(features, jnp.array([0, 0, 2]), C)
    far = distances(features, gaussians)
    assert np.isfinite(far).all() and far.shape == (3, C)
    np.testing.assert_allclose(gaussians.means[1], 0)
    np.testing.assert_allclose(far[2, 2], 0, atol=1e-20)


def test_the_loss_falls_and_only_towards_the_right_classes():
    """A few steps on shifted features; with the class means permuted the accuracy does not rise."""
    rng = np.random.default_rng(0)
    means = np.array([[2.0, 0.0], [-2.0, 0.0]])
    y = rng.integers(0, 2, 200)
    shifted = means[y] + 0.5 * rng.normal(size=(200, 2)) + np.array([[1.7, 0.0]])

    def apply_fn(params, state, x, **_):
        from jaxtrain.nets import Classified

        features = x[:, 0, 0, :2] + params["norm"]["bias"][None]
        return Classified(features @ jnp.array([[1.0, -1.0], [0.0, 0.0]]), features), state

    def error(centres):
        gaussians = ClassGaussians(jnp.asarray(centres), 0.5 * jnp.eye(2)[None])
        core = cafa(apply_fn, optax.sgd(0.3))
        x = np.repeat(shifted[None, :, None, None], 20, 0)
        args = ({"norm": {"bias": np.zeros(2)}}, {}, gaussians)
        replayed = run(core, args, x, np.ones((20, 200), bool))
        wrong = replayed.outputs.logits.argmax(-1) != y
        return wrong.mean(1), replayed.metrics["loss"]

    wrong, losses = error(means)
    assert losses[-1] < losses[0] and wrong[-1] < wrong[0] - 0.1
    assert error(means[::-1])[0][-1] > wrong[0] - 0.05


def test_errors():
    with pytest.raises(ValueError, match="form='square'; the forms are log_ratio and ratio"):
        cafa(tiny.network(), optax.sgd(0.1), form="square")
    core, args = cafa(tiny.network(), optax.sgd(0.1)), tiny.as_jax(tiny.variables())
    with pytest.raises(ValueError, match="got 1 class; another one is needed"):
        core.init(*args, ClassGaussians(jnp.zeros((1, D)), jnp.eye(D)[None]))
    short = ClassGaussians(jnp.zeros((C, 3)), jnp.eye(3)[None])
    with pytest.raises(ValueError, match="length 3 but the network's have length 6"):
        core.update(
            core.init(*args, short),
            {"inputs": jnp.asarray(tiny.batches()[0])},
            jax.random.key(0),
        )
