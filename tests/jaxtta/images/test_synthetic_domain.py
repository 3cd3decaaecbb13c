"""SDA's ensemble against NumPy, its independence of the stream, DDA's projection step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta import synthetic_domain as sd
from jaxtta.adaptation import row_keys
from jaxtta.denoising import respaced
from tests.jaxtta.images import tiny
from tests.jaxtta.images.test_entropy import CLOSE, float64, masks, run  # noqa: F401

KINDS = sd.COMBINATIONS


def project(images, keys):
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
    found = {kind: np.asarray(sd.combined(*map(jnp.asarray, (z1, z2)), kind)) for kind in KINDS}
    for kind, logits in found.items():
        np.testing.assert_allclose(logits, ensemble(z1, z2, kind), **CLOSE)
        assert kind == "sum" or np.abs(logits - found["sum"]).max() > 1e-3
    for kind in ("entropy", "confidence"):
        first = (found[kind] == z1).all(-1)
        assert first.any() and not first.all(), "one row of each model must be taken"


@pytest.mark.parametrize("kind", ["sum", pytest.param("entropy_sum", marks=pytest.mark.slow)])
def test_sda(kind):
    (params, stats), tuned = tiny.variables(), tiny.variables(seed=4, scale=9.0)
    x, valid = tiny.batches(2), masks(2)
    core = sd.sda(tiny.network(), project, tuned, combination=kind)
    found = run(core, (params, stats), x, valid)
    for i in range(2):
        keys = row_keys(jax.random.fold_in(jax.random.key(0), i), 12, None)
        changed = np.asarray(project(jnp.asarray(x[i]), keys))
        z1, _ = tiny.forward(params, x[i], stats=stats["batch_stats"])
        z2, _ = tiny.forward(tuned[0], changed, stats=tuned[1]["batch_stats"])
        rows, expected = valid[i], ensemble(z1, z2, kind)
        np.testing.assert_allclose(found.outputs.logits[i][rows], expected[rows], **CLOSE)
        share = (expected.argmax(-1) != z1.argmax(-1))[rows].mean()
        np.testing.assert_allclose(found.metrics["changed"][i], share, rtol=1e-6)
    assert kind != "sum" or found.metrics["changed"].any(), "the second model must matter"


def test_rows_do_not_depend_on_the_rest_of_the_batch():
    x = tiny.batches(1)[0]
    core = sd.sda(tiny.network(), lambda images, keys: 0.5 * images, tiny.variables(seed=4))
    whole = run(core, tiny.variables(), x[None], np.ones((1, 12), bool)).outputs.logits[0]
    alone = run(core, tiny.variables(), x[:, None], np.ones((12, 1), bool)).outputs.logits[:, 0]
    np.testing.assert_allclose(alone, whole, **CLOSE)


def test_projection_follows_the_equations():
    """Three steps with a made-up denoiser; the guidance by central differences."""
    process = respaced(10, 20)
    kept = np.cumprod(1 - np.linspace(0.005, 1.0, 20))  # 1000 / 20 times 1e-4 and 0.02
    a = kept[process.times]
    np.testing.assert_allclose(np.cumprod(1 - process.betas)[:9], a[:9], rtol=1e-9)
    rng = np.random.default_rng(0)
    x0, keys = rng.uniform(size=(2, 6, 6, 1)), jax.random.split(jax.random.key(3), 2)
    denoise = lambda x, t: 0.4 * jnp.tanh(x) * (1 + t[:, None, None, None] / 50)
    projection = sd.diffusion_projection(
        denoise, diffusion=process, start=3, factor=2, strength=0.7
    )
    found = jax.jit(projection)(jnp.asarray(x0), keys)
    basis = jnp.eye(36).reshape(36, 6, 6, 1)
    matrix = np.asarray(sd.low_pass(basis, 2)).reshape(36, 36).T
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
    one = jax.jit(projection)(jnp.asarray(x0[1:]), keys[1:])
    np.testing.assert_allclose(one[0], found[1], **CLOSE)


def test_a_model_of_one_image_projects_everything_to_it():
    """The exact denoiser of a distribution with a single image, over all 50 steps."""
    process = respaced()
    products = np.cumprod(1 - process.betas)
    at = np.ones(1000)
    at[process.times] = products
    target = np.random.default_rng(0).uniform(-0.9, 0.9, (4, 4, 1))

    def exact(x, t):
        a = jnp.asarray(at)[t][:, None, None, None]
        return (x - jnp.sqrt(a) * jnp.asarray(target)[None]) / jnp.sqrt(1 - a)

    x = np.random.default_rng(1).uniform(size=(3, 4, 4, 1))
    keys = jax.random.split(jax.random.key(0), 3)
    found = jax.jit(sd.diffusion_projection(exact, start=50, factor=2))(jnp.asarray(x), keys)
    np.testing.assert_allclose(found, np.tile((target + 1) / 2, (3, 1, 1, 1)), atol=1e-8)


def test_low_pass_and_errors():
    flat, checks = np.full((1, 8, 8, 1), 0.3), np.indices((8, 8)).sum(0) % 2 - 0.5
    np.testing.assert_allclose(sd.low_pass(jnp.asarray(flat), 4), flat, rtol=1e-6)
    assert np.abs(sd.low_pass(jnp.asarray(checks)[None, :, :, None], 4)).max() < 0.1
    with pytest.raises(ValueError, match="combination is 'mean'"):
        sd.sda(tiny.network(), project, combination="mean")
    with pytest.raises(ValueError, match="num_steps=1"):
        respaced(1)
    with pytest.raises(ValueError, match="start=100 must be 1 to 99"):
        sd.diffusion_projection(lambda x, t: x, start=100)
    core = sd.sda(tiny.network(), lambda x, keys: x[:, :1])
    with pytest.raises(ValueError, match="must keep their shape"):
        core.update(
            core.init(*tiny.as_jax(tiny.variables())),
            {"inputs": jnp.asarray(tiny.batches()[0])},
            jax.random.key(0),
        )
