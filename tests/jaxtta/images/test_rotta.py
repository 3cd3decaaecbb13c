"""RoTTA against a loop over lists in NumPy, gradients by central differences, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta.images.rotta import Sample, empty_bank, insert, rotta
from tests.jaxtta.images import reference, tiny
from tests.jaxtta.images.test_entropy import float64, masks, run  # noqa: F401
from tests.jaxtta.images.test_mean_teacher import jitter

APPLY = tiny.network()
NEAR = {"rtol": 1e-6, "atol": 1e-7}


class ListBank:
    """One list of items per class, and the slot of each item, which its noise belongs to."""

    def __init__(self, capacity, num_classes):
        self.capacity, self.lists = capacity, [[] for _ in range(num_classes)]
        self.evictions = {"own": 0, "largest": 0, "dropped": 0}

    def score(self, age, u):
        return 1 / (1 + np.exp(-age / self.capacity)) + u / np.log(len(self.lists))

    def items(self):
        return sorted((item for one in self.lists for item in one), key=lambda item: item["slot"])

    def evict(self, classes, limit, kind):
        candidates = [item for c in classes for item in self.lists[c]]
        worst = max(candidates, key=lambda item: self.score(item["age"], item["u"]))
        if self.score(worst["age"], worst["u"]) <= limit:
            self.evictions["dropped"] += 1
            return None
        self.evictions[kind] += 1
        for one in self.lists:
            one[:] = [item for item in one if item is not worst]
        return worst["slot"]

    def add(self, image, label, u):
        taken = {item["slot"] for item in self.items()}
        slot, limit = None, self.score(0, u)
        if len(self.lists[label]) < self.capacity / len(self.lists):
            if len(taken) < self.capacity:
                slot = min(set(range(self.capacity)) - taken)
            else:
                most = max(map(len, self.lists))
                largest = [c for c, one in enumerate(self.lists) if len(one) == most]
                slot = self.evict(largest, limit, "largest")
        else:
            slot = self.evict([label], limit, "own")
        if slot is not None:
            self.lists[label].append({"image": image, "u": u, "age": 0, "slot": slot})
        for item in self.items():
            item["age"] += 1


class Rotta(reference.Method):
    every, decay, momentum = 4, 0.9, 0.2

    def __init__(self, params, stats, optimizer):
        super().__init__(params, optimizer)
        self.stats, self.teacher_stats = stats, stats
        self.teacher, self.bank, self.seen = self.theta.copy(), ListBank(7, tiny.CLASSES), 0

    def robust(self, theta, x, stats):
        """Logits normalised with the moved statistics, and these."""
        params, moved = self.params(theta), {}
        for i in (1, 2):
            a, old = x @ params[f"dense{i}"]["kernel"], stats[f"norm{i}"]
            new = {"mean": a.mean((0, 1, 2)), "var": a.var((0, 1, 2))}
            now = {k: (1 - self.momentum) * old[k] + self.momentum * new[k] for k in old}
            y = (a - now["mean"]) / np.sqrt(now["var"] + 1e-5)
            x = np.maximum(y * params[f"norm{i}"]["scale"] + params[f"norm{i}"]["bias"], 0)
            moved[f"norm{i}"] = now
        return x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"], moved

    def learn(self, key):
        items = self.bank.items()
        images = np.zeros((self.bank.capacity, *items[0]["image"].shape))
        slots = [item["slot"] for item in items]
        images[slots] = [item["image"] for item in items]
        key_draw, key_rows = jax.random.split(key)
        keys = jax.random.split(key_rows, self.bank.capacity)
        changed = np.asarray(jitter(jnp.asarray(images), key_draw, keys))[slots]
        target, self.teacher_stats = self.robust(self.teacher, images[slots], self.teacher_stats)
        fresh = np.exp(-np.array([item["age"] for item in items]) / self.bank.capacity)

        def loss(theta):
            log_q = tiny.log_softmax(self.robust(theta, changed, self.stats)[0])
            each = -(tiny.softmax(target) * log_q).sum(-1)
            return (fresh / (1 + fresh) * each).mean()

        basis = 1e-5 * np.eye(len(self.theta))
        gradient = [(loss(self.theta + h) - loss(self.theta - h)) / 2e-5 for h in basis]
        moved = self.robust(self.theta, changed, self.stats)[1]
        self.theta = self.optimizer.step(self.theta, np.array(gradient))
        self.stats = moved
        self.teacher = self.decay * self.teacher + (1 - self.decay) * self.theta

    def step(self, x, mask, key):
        logits = tiny.forward(self.params(self.teacher), x, stats=self.teacher_stats)[0]
        p = tiny.softmax(logits)
        started = self.seen // self.every
        for i in np.flatnonzero(mask):
            self.bank.add(x[i], int(p[i].argmax()), -(p[i] * np.log(p[i] + 1e-6)).sum())
            self.seen += 1
            if self.seen % self.every == 0:
                self.learn(jax.random.fold_in(key, (self.seen - 1) // self.every - started))
        return logits


def test_rotta():
    params, stats = tiny.variables()
    core = rotta(
        APPLY,
        optax.sgd(0.05, momentum=0.9),
        tiny.CLASSES,
        (2, 4, 3),
        capacity=7,
        update_every=4,
        momentum=0.2,
        teacher_decay=0.9,
        augmentation=jitter,
    )
    x, valid = tiny.batches(7, 6), masks(7, 6)
    valid[1, [1, 4]] = False
    method = Rotta(params, stats["batch_stats"], tiny.Sgd(0.05))
    found = run(core, (params, stats), x, valid)
    updates = []
    for i in range(7):
        before = method.seen // 4
        logits = method.step(x[i], valid[i], jax.random.fold_in(jax.random.key(0), i))
        np.testing.assert_allclose(found.outputs.logits[i][valid[i]], logits[valid[i]], **NEAR)
        theta = tiny.flat(jax.tree.map(lambda v, i=i: v[i], found.params))
        np.testing.assert_allclose(theta, method.theta, **NEAR)
        updates.append(method.seen // 4 - before)
        assert found.metrics["num_updates"][i] == updates[-1]
        assert found.metrics["num_remembered"][i] == len(method.bank.items())
    assert {0, 1, 2} == set(updates), "batches must see none, one and two updates"
    assert method.bank.evictions["own"] and method.bank.evictions["dropped"]
    assert np.abs(method.teacher - method.theta0).max() > 1e-3


def test_the_bank_stays_balanced_and_keeps_sure_images():
    bank, rng = empty_bank(8, (1, 1, 1)), np.random.default_rng(0)
    offer = jax.jit(lambda bank, *given: insert(bank, Sample(*given), 4))
    image = lambda v: jnp.full((1, 1, 1), float(v))
    for i in range(20):  # a sorted stream: one class after the other
        bank = offer(bank, image(i), jnp.int32(0), jnp.asarray(rng.uniform(0.1, 1)))
    assert bank.used.sum() == 2 and (bank.label[bank.used] == 0).all()
    for c in (1, 2, 3):
        for i in range(3):
            bank = offer(bank, image(100 * c + i), jnp.int32(c), jnp.asarray(0.5))
    np.testing.assert_array_equal(np.bincount(bank.label), [2, 2, 2, 2])
    unsure = offer(bank, image(-1), jnp.int32(3), jnp.asarray(1.3))
    np.testing.assert_array_equal(unsure.images, bank.images)
    np.testing.assert_array_equal(unsure.age, bank.age + 1)
    sure = offer(bank, image(-2), jnp.int32(3), jnp.asarray(0.0))
    assert (sure.images == -2).sum() == 1


def test_the_bank_is_that_of_lists():
    """A quota that is not whole lets classes grow until the largest one must give way."""
    rng, expected, bank = np.random.default_rng(1), ListBank(7, 4), empty_bank(7, (1, 1, 1))
    offer = jax.jit(lambda bank, *given: insert(bank, Sample(*given), 4))
    for i in range(80):
        label, u = int(rng.integers(4)), rng.uniform(0, 1.3)
        expected.add(np.full((1, 1, 1), i), label, u)
        bank = offer(bank, jnp.full((1, 1, 1), float(i)), jnp.int32(label), jnp.asarray(u))
        items = expected.items()
        slots = [item["slot"] for item in items]
        np.testing.assert_array_equal(np.flatnonzero(bank.used), slots)
        for name, values in (("images", "image"), ("age", "age"), ("uncertainty", "u")):
            np.testing.assert_array_equal(
                getattr(bank, name)[np.array(slots)], [item[values] for item in items]
            )
    assert min(expected.evictions.values()) > 0, expected.evictions


def test_errors():
    build = lambda **options: rotta(
        APPLY, optax.sgd(0.1), 4, (2, 4, 3), augmentation=jitter, **options
    )
    with pytest.raises(ValueError, match="capacity=0"):
        build(capacity=0)
    core = build()
    state = core.init(*tiny.as_jax(tiny.variables()))
    with pytest.raises(ValueError, match="made for images of shape"):
        core.update(state, {"inputs": jnp.zeros((3, 4, 4, 3))}, jax.random.key(0))
