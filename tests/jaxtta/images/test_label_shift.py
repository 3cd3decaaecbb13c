"""The label-shift adapter: both phases step by step against NumPy, and the shift it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta.images import batch_statistics, entropy, label_shift
from tests.jaxtta.images import reference, tiny
from tests.jaxtta.images.test_entropy import CLOSE, float64, masks, run, thetas  # noqa: F401

D, C, WIDTH = tiny.FEATURES, tiny.CLASSES, 5
PRIOR = np.array([0.5, 0.1, 0.3, 0.1])


def random_adapter(seed=3):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: 0.3 * rng.normal(size=shape)
    size = 2 * D + D * C + C
    return label_shift.Adapter(PRIOR, (draw(WIDTH), draw(WIDTH)), (draw(WIDTH, size), draw(size)))


def degree(distribution):
    lean = np.log(PRIOR) - np.mean(np.log(PRIOR))
    return np.clip(lean @ distribution / (lean @ PRIOR), -1, 1)


def changed_head(adapter, distribution, head):
    """One linear layer equal to the changed head."""
    hidden = np.maximum(degree(distribution) * adapter.hidden[0] + adapter.hidden[1], 0)
    found = hidden @ adapter.output[0] + adapter.output[1]
    gamma, beta = 1 + found[:D], found[D : 2 * D]
    kernel = head["kernel"] + found[2 * D : 2 * D + D * C].reshape(D, C)
    bias = head["bias"] + found[2 * D + D * C :]
    return {"kernel": gamma[:, None] * kernel, "bias": beta @ kernel + bias}


class Shifted(reference.Tent):
    """TENT under a head that follows the estimate."""

    decay, first = 0.6, True

    def __init__(self, params, optimizer, adapter):
        super().__init__(params, optimizer)
        self.adapter, self.estimate, self.head = adapter, np.full(C, 1 / C), params["head"]

    def params(self, theta=None):
        head = changed_head(self.adapter, self.estimate, self.head)
        return {**super().params(theta), "head": head}

    def step(self, x, mask):
        follow = lambda z: self.decay * self.estimate + (1 - self.decay) * z[mask].mean(0)
        if self.first and mask.any():
            self.estimate = follow(tiny.softmax(self.forward(x, mask)[0]))
        logits, rows = super().step(x, mask)
        if not self.first and mask.any():
            self.estimate = follow(tiny.softmax(logits))
        return logits, rows


def shifted_tent(**options):
    apply_fn = label_shift.with_adapter(tiny.network())
    core = entropy.tent(apply_fn, optax.adam(0.01))
    return label_shift.following(core, apply_fn, C, **options)


@pytest.mark.parametrize("first", [True, False])
def test_following(first):
    method = Shifted(tiny.variables()[0], tiny.Adam(), random_adapter())
    method.first = first
    x, valid = tiny.batches(), masks()
    core = shifted_tent(decay=0.6, estimate_first=first)
    replayed = run(core, (*tiny.variables(), random_adapter()), x, valid)
    found, leaned = thetas(replayed), []
    for i in range(4):
        logits, _ = method.step(x[i], valid[i])
        np.testing.assert_allclose(replayed.outputs.logits[i][valid[i]], logits[valid[i]], **CLOSE)
        np.testing.assert_allclose(found[i], method.theta, **CLOSE)
        np.testing.assert_allclose(
            replayed.metrics["largest_share"][i], method.estimate.max(), rtol=1e-6
        )
        leaned.append(degree(method.estimate))
    assert np.abs(found[-1] - method.theta0).max() > 1e-3
    assert leaned[0] != leaned[-1] and leaned[1] == leaned[2]


def test_an_untrained_adapter_changes_nothing():
    head = label_shift.Head(*map(jnp.asarray, (np.ones((D, C)), np.zeros(C))))
    adapter = label_shift.identity(jnp.asarray(PRIOR), head, jnp.linspace(-1.0, 1.0, WIDTH))
    x, valid = tiny.batches(), masks()
    one = run(shifted_tent(), (*tiny.variables(), adapter), x, valid)
    two = run(entropy.tent(tiny.network(), optax.adam(0.01)), tiny.variables(), x, valid)
    np.testing.assert_allclose(one.outputs.logits, two.outputs.logits, **CLOSE)
    # The wrapped network by itself, without an estimate, is the network.
    bare = label_shift.with_adapter(tiny.network())
    found = run(
        batch_statistics.batch_norm(bare), tiny.variables(), x[:1], valid[:1]
    ).outputs.logits[0]
    np.testing.assert_allclose(found, tiny.forward(tiny.variables()[0], x[0])[0], **CLOSE)


def test_degree_and_targets():
    prior = jnp.asarray(PRIOR)
    targets = [label_shift.target_prior(prior, t) for t in (1.0, 0.0, -1.0)]
    np.testing.assert_allclose(targets[0], PRIOR, **CLOSE)
    np.testing.assert_allclose(targets[1], 0.25, **CLOSE)
    np.testing.assert_allclose(targets[2], (1 / PRIOR) / (1 / PRIOR).sum(), **CLOSE)
    found = [float(label_shift.degree(t, prior)) for t in targets]
    np.testing.assert_allclose(found[:2], [1, 0], atol=1e-12)
    assert found[2] < -0.4
    uniform = jnp.full(C, 0.25)
    assert label_shift.degree(prior, uniform) == 0
    # A distribution with an empty class.
    assert np.isfinite(label_shift.degree(jnp.eye(C)[1], prior))


def drawn_from(key):
    """The documented draws of a key for three steps: first layer, examples and exponents."""
    weight = jax.random.normal(jax.random.fold_in(key, 0), (WIDTH,), jnp.float64)
    index, exponents = [], []
    for i in range(3):
        key_index, key_kind, key_u = jax.random.split(jax.random.fold_in(key, i + 1), 3)
        index.append(jax.random.randint(key_index, (8,), 0, 30))
        sign = 1 - int(jax.random.randint(key_kind, (), 0, 3))
        exponents.append(sign * jax.random.uniform(key_u, (), jnp.float64))
    return label_shift.AdapterDraws(weight, jnp.stack(index), jnp.stack(exponents))


@pytest.mark.parametrize("by_hand", [False, True])
def test_fit_follows_the_equations(by_hand):
    """Three steps of SGD on central differences of the loss written out in NumPy."""
    rng = np.random.default_rng(0)
    head = {"kernel": rng.normal(size=(D, C)), "bias": rng.normal(size=C)}
    features, labels = rng.normal(size=(30, D)), rng.choice(C, 30, p=PRIOR)
    given, rate = jax.random.key(7), 0.5
    drawn = drawn_from(given)
    if by_hand:
        given = drawn = label_shift.AdapterDraws(
            jnp.asarray(rng.normal(size=WIDTH)),
            jnp.asarray(rng.integers(0, 30, (3, 8))),
            jnp.array([0.5, 0.3, -0.9]),
        )
    adapter, losses = label_shift.train_adapter(
        label_shift.Head(*map(jnp.asarray, (head["kernel"], head["bias"]))),
        jnp.asarray(PRIOR),
        jnp.asarray(features),
        jnp.asarray(labels),
        given,
        optimizer=optax.sgd(rate),
        **({} if by_hand else dict(num_steps=3, batch_size=8, width=WIDTH)),
    )
    size = 2 * D + D * C + C
    shapes = [(WIDTH,), (WIDTH,), (WIDTH, size), (size,)]
    cuts = np.cumsum([np.prod(s) for s in shapes])
    flat = np.concatenate([drawn.weight, np.zeros(cuts[-1] - WIDTH)])

    def loss(flat, index, t):
        a, b, c, d = (p.reshape(s) for p, s in zip(np.split(flat, cuts[:-1]), shapes, strict=True))
        target = PRIOR**t / (PRIOR**t).sum()
        layer = changed_head(label_shift.Adapter(PRIOR, (a, b), (c, d)), target, head)
        z = features[index] @ layer["kernel"] + layer["bias"] + np.log(PRIOR / target)
        return -tiny.log_softmax(z)[np.arange(len(index)), labels[index]].mean()

    for i in range(3):
        index, t = np.asarray(drawn.rows[i]), float(drawn.exponent[i])
        np.testing.assert_allclose(losses[i], loss(flat, index, t), **CLOSE)
        basis = 1e-6 * np.eye(len(flat))
        both = [(loss(flat + h, index, t), loss(flat - h, index, t)) for h in basis]
        flat = flat - rate * np.array([(a - b) / 2e-6 for a, b in both])
    found = np.concatenate([np.ravel(x) for x in (*adapter.hidden, *adapter.output)])
    np.testing.assert_allclose(found, flat, rtol=1e-5, atol=1e-7)
    assert len(set(np.asarray(drawn.exponent))) > 1 and np.abs(found[-C:]).max() > 1e-2


def test_it_helps_on_a_reversed_distribution_and_only_with_the_right_estimate():
    """Three classes of Gaussian features; the head is the Bayes rule of a long-tailed source."""
    rng = np.random.default_rng(0)
    prior, centres = np.array([0.8, 0.15, 0.05]), rng.normal(size=(3, 4))

    def draw(p, number):
        y = rng.choice(3, number, p=p)
        return jnp.asarray(centres[y] + rng.normal(size=(number, 4))), jnp.asarray(y)

    bias = np.log(prior) - (centres**2).sum(1) / 2
    head = label_shift.Head(jnp.asarray(centres.T), jnp.asarray(bias))
    x, y = draw(prior, 2000)
    fit = jax.jit(
        lambda *args: label_shift.train_adapter(*args, optimizer=optax.adam(1e-2), num_steps=500)
    )
    adapter, losses = fit(head, jnp.asarray(prior), x, y, jax.random.key(0))
    assert losses[-50:].mean() < losses[:50].mean()
    x, y = draw(prior[::-1], 2000)
    error = lambda z: float((z.argmax(-1) != y).mean())
    plain = error(x @ head.kernel + head.bias[None])
    under = lambda p: error(label_shift.changed_logits(adapter, jnp.asarray(p), head, x))
    assert under(prior[::-1]) < plain - 0.1
    assert under(prior) > plain - 0.03, "the control: an estimate like the source repairs nothing"


def test_errors():
    with pytest.raises(ValueError, match="0 to 2 examples per class"):
        label_shift.prior_of(np.array([0, 0, 1]), 3)
    with pytest.raises(ValueError, match="2 to 2 examples per class"):
        label_shift.prior_of(np.array([0, 0, 1, 1]), 2)
    with pytest.raises(ValueError, match="linear layer 'head'"):
        label_shift.head_of({"norm": {"scale": jnp.ones(2)}})
