"""ViDA step by step against NumPy in float64, its adapters, and a vision transformer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import Core, nets
from jaxtta.images.vida import Adapter, Pair, new_adapters, pretrain, vida, with_adapters
from tests.jaxtta.images import tiny
from tests.jaxtta.images.test_entropy import CLOSE, float64, masks, run  # noqa: F401
from tests.jaxtta.images.test_mean_teacher import APPLY, draw_of, jitter

LAYERS = ("dense1", "dense2")


def dense_kernels(path):
    return path[0] in LAYERS and path[-1] == "kernel"


def adapters(seed=0):
    """Trained ones: `up` is not 0."""
    new = new_adapters(
        jax.random.key(seed), tiny.variables()[0], low_rank=1, high_rank=3, where=dense_kernels
    )
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.asarray(x) + 0.3 * rng.normal(size=x.shape), new)


def moved(tree):
    """Other numbers: a student that equals its teacher has a gradient of 0."""
    return jax.tree.map(lambda x: x + 0.3 * np.cos(np.arange(x.size)).reshape(x.shape), tree)


class Vida:
    """Trees of NumPy arrays; every group has its own rate of plain descent and of averaging."""

    rates, decays = (0.02, 0.1), (0.9, 0.6)
    threshold, probability, released = 0.02, 0.2, False

    def __init__(self):
        self.source = self.teacher = (tiny.variables()[0], adapters())
        self.student = moved(self.source)
        self.low = self.high = 1.0

    def whole(self, part):
        params, extra = part
        new = {a: dict(b) for a, b in params.items()}
        for layer in LAYERS:
            (d1, u1), (d2, u2) = extra[f"{layer}/kernel"]
            new[layer]["kernel"] = (
                params[layer]["kernel"] + self.low * d1 @ u1 + self.high * d2 @ u2
            )
        return new

    def gradient(self, x, mask, target):
        whole = self.whole(self.student)
        logits, cache = tiny.forward(whole, x, mask)
        d = (tiny.softmax(logits) - tiny.softmax(target)) * mask[:, None] / mask.sum()
        grads, extra = tiny.backward(whole, cache, d), {}
        for name, pairs in self.student[1].items():
            g = grads[name.split("/")[0]]["kernel"]
            extra[name] = Adapter(
                *(
                    Pair(s * g @ p.up.T, s * p.down.T @ g)
                    for s, p in zip((self.low, self.high), pairs, strict=True)
                )
            )
        return grads, extra

    def step(self, x, mask, key):
        named = lambda part: {"network": part[0], "adapters": part[1]}
        drawn = draw_of(key, tiny.as_jax(named(self.student)), len(x))
        seen = []
        for i in range(3):
            shared, rows = jax.tree.map(lambda v, i=i: v[i], drawn.augmentations)
            changed = jitter(jnp.asarray(x), shared, rows)
            seen.append(tiny.forward(self.whole(self.teacher), np.asarray(changed), mask)[0])
        kept = (self.low, self.high)
        self.unsure = 0.1 * np.var(seen, axis=0, ddof=1)[mask].mean() if mask.any() else 0.0
        more = self.unsure >= self.threshold
        self.low = 1 - self.unsure if more else 1 + self.unsure
        self.high = 1.0 if self.released else 2 - self.low
        target = tiny.forward(self.whole(self.teacher), x, mask)[0]
        if not mask.any():
            self.low, self.high = kept
            return target
        grads = self.gradient(x, mask, target)
        moved, teacher = [], []
        for i, (rate, decay) in enumerate(zip(self.rates, self.decays, strict=True)):
            descend = lambda x, g, rate=rate: x - rate * g
            moved.append(jax.tree.map(descend, self.student[i], grads[i]))
            average = lambda t, x, decay=decay: decay * t + (1 - decay) * x
            teacher.append(jax.tree.map(average, self.teacher[i], moved[i]))
        self.teacher = tuple(teacher)
        back = jax.tree.map(np.where, drawn.returning, named(self.source), named(moved))
        self.student = (back["network"], back["adapters"])
        return target


@pytest.mark.parametrize("released", [False, pytest.param(True, marks=pytest.mark.ci)])
def test_vida(released):
    core = vida(
        APPLY,
        optax.sgd(0.02),
        optax.sgd(0.1),
        num_augmentations=3,
        threshold=0.025,
        teacher_decay=0.9,
        adapter_decay=0.6,
        restore_probability=0.2,
        released_behaviour=released,
        augmentation=jitter,
    )
    x, valid = tiny.batches(4), masks(4)
    x[3] = 0.5 + 0.2 * x[3]  # a batch that augmentations change less
    start = lambda *args: core.init(*args)._replace(params=moved(core.init(*args).params))
    found = run(Core(start, core.update), (*tiny.variables(), adapters()), x, valid)
    method = Vida()
    method.released, method.threshold = released, 0.025
    above = []
    for i in range(4):
        target = method.step(x[i], valid[i], jax.random.fold_in(jax.random.key(0), i))
        np.testing.assert_allclose(found.outputs.logits[i][valid[i]], target[valid[i]], **CLOSE)
        for name, part in zip(("network", "adapters"), method.student, strict=True):
            now = jax.tree.map(lambda v, i=i: v[i], found.params[name])
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), now, part)
        np.testing.assert_allclose(found.metrics["low"][i], method.low, rtol=1e-6)
        np.testing.assert_allclose(found.metrics["high"][i], method.high, rtol=1e-6)
        above.append(method.unsure >= method.threshold)
    assert set(above) == {True, False}, method.unsure


@pytest.mark.ci
def test_adapters_of_a_vision_transformer():
    network = nets.ViT(num_classes=3, patch=4, width=8, depth=2, num_heads=2)
    x = jax.random.uniform(jax.random.key(0), (5, 8, 8, 3), jnp.float32)
    params = jax.jit(network.init)(jax.random.key(1), x)["params"]
    new = new_adapters(jax.random.key(2), params, low_rank=1, high_rank=4)
    assert set(new) == {f"block{i}/attention/{n}/kernel" for i in (0, 1) for n in ("qkv", "proj")}
    apply = jax.jit(with_adapters(nets.classifier(network)))
    plain = jax.jit(nets.classifier(network))(params, {}, x)[0].logits
    np.testing.assert_array_equal(apply({"network": params, "adapters": new}, {}, x)[0][0], plain)
    images, labels = jnp.stack([x] * 8), jnp.tile(jnp.arange(5) % 3, (8, 1))
    source = jax.jit(
        lambda *given: pretrain(nets.classifier(network), optax.adam(0.01), params, {}, *given)
    )(new, images, labels)
    trained = {"network": source.params, "adapters": source.adapters}
    loss = lambda z: optax.softmax_cross_entropy_with_integer_labels(z, labels[0]).mean()
    assert loss(apply(trained, {}, x)[0].logits) < loss(plain) - 0.1
    assert all(np.abs(pair.up).max() > 0 for a in source.adapters.values() for pair in a)


def test_new_adapters_change_nothing_and_draw_less_with_a_higher_rank():
    params = {"attention": {"kernel": jnp.ones((300, 5))}}
    new = new_adapters(jax.random.key(0), params, low_rank=2, high_rank=4)["attention/kernel"]
    for (down, up), rank in zip(new, (2, 4), strict=True):
        assert down.shape == (300, rank) and up.shape == (rank, 5) and not up.any()
        np.testing.assert_allclose(np.std(down), 1 / rank**2, rtol=0.1)


def test_errors():
    with pytest.raises(ValueError, match="0 weights are chosen"):
        new_adapters(jax.random.key(0), tiny.variables()[0])
    with pytest.raises(ValueError, match="num_augmentations is 1"):
        vida(APPLY, optax.sgd(1.0), optax.sgd(1.0), num_augmentations=1)
