"""SDA against NumPy, its independence of the stream, DDA's projection step by step, tuning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta.adaptation import row_keys
from jaxtta.images import entropy
from jaxtta.images.denoising import respaced, sampled
from jaxtta.images.sda import (
    COMBINATIONS,
    SyntheticDraws,
    TuningDraws,
    combined,
    diffusion_projection,
    low_pass,
    sda,
    synthetic,
)
from jaxtta.images.sda import tuned as sd_tuned
from tests.jaxtta.images import tiny
from tests.jaxtta.images.test_entropy import CLOSE, float64, masks, run  # noqa: F401

KINDS = COMBINATIONS


def project(_, images, keys):
    """Darker, with noise of each row's own."""
    noise = jax.vmap(lambda k: jax.random.normal(k, images.shape[1:], images.dtype))(keys)
    return 0.5 * images + 0.1 * noise


def ensemble(z1, z2, kind):
    e1, e2 = tiny.entropy(z1), tiny.entropy(z2)
    c1, c2 = tiny.softmax(z1).max(-1), tiny.softmax(z2).max(-1)
    rows = {
        "sum": lambda i: z1[i] + z2[i],
        "entropy_sum": lambda i: z1[i] * e2[i] + z2[i] * e1[i],
        "confidence_sum": lambda i: z1[i] * c1[i] + z2[i] * c2[i],
        "entropy": lambda i: z2[i] if e2[i] <= e1[i] else z1[i],
        "confidence": lambda i: z2[i] if c2[i] >= c1[i] else z1[i],
        "second": lambda i: z2[i],
    }
    return np.stack([rows[kind](i) for i in range(len(z1))])


def test_every_combination():
    z1, z2 = (tiny.variables(seed=i, scale=3.0)[0]["head"]["kernel"] for i in (0, 1))
    found = {kind: np.asarray(combined(*map(jnp.asarray, (z1, z2)), kind)) for kind in KINDS}
    for kind, logits in found.items():
        np.testing.assert_allclose(logits, ensemble(z1, z2, kind), **CLOSE)
        assert kind == "sum" or np.abs(logits - found["sum"]).max() > 1e-3
    for kind in ("entropy", "confidence"):
        first = (found[kind] == z1).all(-1)
        assert first.any() and not first.all(), "one row of each model must be taken"


@pytest.mark.parametrize("kind", ["sum", "entropy_sum"])
def test_sda(kind):
    (params, stats), tuned = tiny.variables(), tiny.variables(seed=4, scale=9.0)
    x, valid = tiny.batches(2), masks(2)
    core = sda(tiny.network(), project, combination=kind)
    found = run(core, (params, stats, (), tuned), x, valid)
    for i in range(2):
        keys = row_keys(jax.random.fold_in(jax.random.key(0), i), 12, None)
        changed = np.asarray(project((), jnp.asarray(x[i]), keys))
        z1, _ = tiny.forward(params, x[i], stats=stats["batch_stats"])
        z2, _ = tiny.forward(tuned[0], changed, stats=tuned[1]["batch_stats"])
        rows, expected = valid[i], ensemble(z1, z2, kind)
        np.testing.assert_allclose(found.outputs.logits[i][rows], expected[rows], **CLOSE)
        share = (expected.argmax(-1) != z1.argmax(-1))[rows].mean()
        np.testing.assert_allclose(found.metrics["changed"][i], share, rtol=1e-6)
    assert kind != "sum" or found.metrics["changed"].any(), "the second model must matter"


def own_noise(predict_noise):
    """DDA's projection with a key of each image's own, made from its pixels, whatever its place."""
    projection = diffusion_projection(
        predict_noise, diffusion=respaced(8), start=4, factor=2, strength=0.5
    )

    def project(strength, images, keys):
        del keys
        number = (images.sum((1, 2, 3)) * 1e6).astype(jnp.int32)
        return projection(strength, images, jax.vmap(jax.random.key)(number))

    return project


def test_rows_depend_neither_on_order_nor_on_batch_size():
    """24 images in batches of 12, 6 and 1 and in another order, with noise; TENT is the control."""
    x = tiny.batches(2).reshape(24, *tiny.batches().shape[2:])
    predict = lambda p, x, t: p * jnp.tanh(x) * (1 + t[:, None, None, None] / 1000)
    core = sda(tiny.network(), own_noise(predict))
    known = (np.float64(0.4), tiny.variables(seed=4))

    def outputs(core, order, size, known=known):
        given = x[order].reshape(-1, size, *x.shape[1:])
        args = (*tiny.variables(), *known)
        found = run(core, args, given, np.ones(given.shape[:2], bool)).outputs.logits
        return found.reshape(24, -1)[np.argsort(order)]

    order = np.random.default_rng(0).permutation(24)
    expected = outputs(core, np.arange(24), 12)
    source, _ = tiny.forward(tiny.variables()[0], x, stats=tiny.variables()[1]["batch_stats"])
    assert np.abs(expected - source).max() > 0.1
    for other in (outputs(core, order, 12), outputs(core, order, 6), outputs(core, order, 1)):
        np.testing.assert_allclose(other, expected, **CLOSE)
    tent = entropy.tent(tiny.network(), optax.sgd(0.1))
    first = outputs(tent, np.arange(24), 6, ())
    for other in (outputs(tent, order, 6, ()), outputs(tent, np.arange(24), 1, ())):
        assert np.abs(other - first).max() > 0.1


def test_projection_follows_the_equations():
    """Three steps with a made-up denoiser; the guidance by central differences."""
    process = respaced(10, 20)
    kept = np.cumprod(1 - np.linspace(0.005, 1.0, 20))  # 1000 / 20 times 1e-4 and 0.02
    a = kept[process.times]
    np.testing.assert_allclose(np.cumprod(1 - process.betas)[:9], a[:9], rtol=1e-9)
    rng = np.random.default_rng(0)
    x0, keys = rng.uniform(size=(2, 6, 6, 1)), jax.random.split(jax.random.key(3), 2)
    denoise = lambda p, x, t: p * jnp.tanh(x) * (1 + t[:, None, None, None] / 50)
    projection = diffusion_projection(denoise, diffusion=process, start=3, factor=2, strength=0.7)
    found = jax.jit(projection)(0.4, jnp.asarray(x0), keys)
    basis = jnp.eye(36).reshape(36, 6, 6, 1)
    matrix = np.asarray(low_pass(basis, 2)).reshape(36, 36).T
    for row in range(2):
        noise = lambda step, k=keys[row]: np.ravel(
            jax.random.normal(jax.random.fold_in(k, step), (6, 6, 1), jnp.float64)
        )
        image = 2 * x0[row].ravel() - 1
        x = np.sqrt(a[3]) * image + np.sqrt(1 - a[3]) * noise(3)
        for i in (2, 1, 0):
            t = process.times[i]

            def clean(x, i=i, t=t):
                eps = 0.4 * np.tanh(x) * (1 + t / 50)
                return np.clip((x - np.sqrt(1 - a[i]) * eps) / np.sqrt(a[i]), -1, 1)

            apart = lambda x, clean=clean, image=image: np.linalg.norm(matrix @ (image - clean(x)))
            steps = 1e-6 * np.eye(36)
            pull = np.array([(apart(x + h) - apart(x - h)) / 2e-6 for h in steps])
            before = a[i - 1] if i else 1.0
            beta = 1 - a[i] / before
            mean = np.sqrt(before) * beta / (1 - a[i]) * clean(x)
            mean = mean + np.sqrt(1 - beta) * (1 - before) / (1 - a[i]) * x
            spread = np.sqrt(beta * (1 - before) / (1 - a[i]))
            assert np.abs(pull).max() > 1e-2
            x = mean + spread * noise(i) - 0.7 * pull
        expected = np.clip((x + 1) / 2, 0, 1).reshape(6, 6, 1)
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-6)
    one = jax.jit(projection)(0.4, jnp.asarray(x0[1:]), keys[1:])
    np.testing.assert_allclose(one[0], found[1], **CLOSE)


def test_a_model_of_one_image_projects_everything_to_it():
    """The exact denoiser of a distribution with a single image, over all 50 steps."""
    process = respaced()
    products = np.cumprod(1 - process.betas)
    at = np.ones(1000)
    at[process.times] = products
    target = np.random.default_rng(0).uniform(-0.9, 0.9, (4, 4, 1))

    def exact(_, x, t):
        a = jnp.asarray(at)[t][:, None, None, None]
        return (x - jnp.sqrt(a) * jnp.asarray(target)[None]) / jnp.sqrt(1 - a)

    x = np.random.default_rng(1).uniform(size=(3, 4, 4, 1))
    keys = jax.random.split(jax.random.key(0), 3)
    found = jax.jit(diffusion_projection(exact, start=50, factor=2))((), jnp.asarray(x), keys)
    np.testing.assert_allclose(found, np.tile((target + 1) / 2, (3, 1, 1, 1)), atol=1e-8)


# --- Before deployment ----------------------------------------------------------------------------


def test_synthetic_images_are_drawn_and_projected_batch_by_batch():
    predict = lambda x, times, labels: 0.2 * x + 0.3 * labels[:, None, None, None]
    labels = jnp.array([[0, 2, 1], [1, 1, 0]])
    move = functools.partial(project, ())
    make = lambda key: synthetic(predict, move, labels, key, (3, 2, 1), diffusion=respaced(5))
    found = jax.jit(make)(jax.random.key(7))
    for i in range(2):
        draw, moving = jax.random.split(jax.random.fold_in(jax.random.key(7), i))
        drawn = sampled(
            lambda x, t, y=labels[i]: predict(x, t, y),
            row_keys(draw, 3, None),
            (3, 2, 1),
            diffusion=respaced(5),
        )
        np.testing.assert_allclose(
            found[i], move(drawn, row_keys(moving, 3, None)), rtol=1e-5, atol=1e-6
        )
    assert np.abs(found[0, 0] - found[0, 2]).max() > 0.05
    # By hand, without any key: numbers for the sampling, and what this projection adds.
    noise = np.random.default_rng(0).normal(size=(2, 3, 6, 3, 2, 1))
    move = lambda images, added: images + added[:, None, None, None]
    given = SyntheticDraws(jnp.asarray(noise), jnp.arange(6.0).reshape(2, 3))
    found = synthetic(predict, move, labels, given, (3, 2, 1), diffusion=respaced(5))
    for i in range(2):
        of = lambda x, t, y=labels[i]: predict(x, t, y)
        drawn = sampled(of, given.sampled[i], (3, 2, 1), diffusion=respaced(5))
        expected = drawn + given.moved[i][:, None, None, None]
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("by_hand", [False, True])
def test_tuning(by_hand):
    """Three steps of the published SGD: momentum 0.9, weight decay in the gradient, batch norm."""
    params, stats = tiny.variables()
    x, y = tiny.batches(1, size=30)[0], np.random.default_rng(2).integers(0, tiny.CLASSES, 30)
    sizes = {} if by_hand else {"num_steps": 3, "batch_size": 8}
    tune = lambda *given: sd_tuned(tiny.network(), *given, **sizes)
    key = jax.random.key(3)
    rows = np.stack([jax.random.randint(jax.random.fold_in(key, i), (8,), 0, 30) for i in range(3)])
    if by_hand:
        rows = np.random.default_rng(5).integers(0, 30, (3, 8))
        key = TuningDraws(jnp.asarray(rows))
    (found, state), losses = jax.jit(tune)(
        *tiny.as_jax((params, stats)), jnp.asarray(x), jnp.asarray(y), key
    )
    stored, velocity = stats["batch_stats"], jax.tree.map(np.zeros_like, params)
    start = params
    for i, index in enumerate(rows):
        logits, cache = tiny.forward(params, x[index])
        np.testing.assert_allclose(
            losses[i], -tiny.log_softmax(logits)[np.arange(8), y[index]].mean(), rtol=1e-6
        )
        grads = tiny.backward(
            params, cache, (tiny.softmax(logits) - np.eye(tiny.CLASSES)[y[index]]) / 8
        )
        update = lambda v, g, p: 0.9 * v + g + 1e-4 * p
        velocity = jax.tree.map(update, velocity, grads, params)
        for name in stored:
            before = cache[f"in{name[-1]}"] @ params[f"dense{name[-1]}"]["kernel"]
            new = {"mean": before.mean((0, 1, 2)), "var": before.var((0, 1, 2), ddof=1)}
            mixed = {k: 0.9 * stored[name][k] + 0.1 * new[k] for k in new}
            stored = {**stored, name: mixed}
        params = jax.tree.map(lambda p, v: p - 5e-4 * v, params, velocity)
    for a, b, c in zip(*map(jax.tree.leaves, (found, params, start)), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)
        assert np.abs(b - c).max() > 1e-5
    for a, b in zip(*map(jax.tree.leaves, (state["batch_stats"], stored)), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


def test_low_pass_and_errors():
    flat, checks = np.full((1, 8, 8, 1), 0.3), np.indices((8, 8)).sum(0) % 2 - 0.5
    np.testing.assert_allclose(low_pass(jnp.asarray(flat), 4), flat, rtol=1e-6)
    assert np.abs(low_pass(jnp.asarray(checks)[None, :, :, None], 4)).max() < 0.1
    with pytest.raises(ValueError, match="combination is 'mean'"):
        sda(tiny.network(), project, combination="mean")
    with pytest.raises(ValueError, match="start=100 must be 1 to 99"):
        diffusion_projection(lambda p, x, t: x, start=100)
    core = sda(tiny.network(), lambda p, x, keys: x[:, :1])
    with pytest.raises(ValueError, match="must keep their shape"):
        core.update(
            core.init(*tiny.as_jax(tiny.variables())),
            {"inputs": jnp.asarray(tiny.batches()[0])},
            jax.random.key(0),
        )
