"""Training and sampling of diffusion models against loops from the equations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import trees, with_ema
from jaxtrain.diffusion import guided
from jaxtrain.nets.unet import UNet
from jaxtta.adaptation import row_keys
from jaxtta.images.denoising import noise_draws, respaced, sampled, training
from tests.jaxtta.images.test_entropy import CLOSE, float64  # noqa: F401

SMALL = {"width": 4, "multipliers": (1,), "num_blocks": 1, "groups": 2, "attention_at": ()}
FULL = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def test_schedule():
    whole = respaced(1000)
    np.testing.assert_allclose(whole.betas, np.linspace(1e-4, 0.02, 1000), rtol=1e-9)
    some = respaced(11)
    assert list(some.times[[0, 1, 10]]) == [0, 100, 999]
    np.testing.assert_allclose(np.cumprod(1 - some.betas), FULL[some.times], rtol=1e-9)
    with pytest.raises(ValueError, match="num_steps=1 must be 2 to 1000"):
        respaced(1)


# --- Training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [pytest.param(0, marks=pytest.mark.ci), 3])
def test_training(num_classes):
    """Three steps of SGD on the squared error of noise that is drawn again here; averages."""
    network = UNet(**SMALL, num_classes=num_classes)
    core = with_ema(training(network, optax.sgd(0.1), drop_labels=0.4), 0.7)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(3, 6, 4, 4, 1)), rng.integers(0, 3, (3, 6))
    batch_of = lambda i: {"inputs": jnp.asarray(x[i]), "labels": jnp.asarray(y[i])}
    state = jax.jit(core.init)(jax.random.key(1), batch_of(0))
    params = ema = jax.tree.map(np.asarray, state.state.params)
    update, dropped = jax.jit(core.update), 0

    draws = jax.jit(lambda k: noise_draws(k, x[0].shape, drop_labels=0.4, dtype=jnp.float64))

    @jax.jit
    def value_and_grad(params, noisy, times, labels, noise):
        loss = lambda p: ((network.apply({"params": p}, noisy, times, labels) - noise) ** 2).mean()
        return jax.value_and_grad(loss)(params)

    for i in range(3):
        key = jax.random.key(10 + i)
        state, out = update(state, batch_of(i), key)
        times, noise, without_label = jax.tree.map(np.asarray, draws(key))
        noisy, labels = np.empty_like(x[i]), y[i].copy()
        for row in range(6):
            a = FULL[times[row]]
            noisy[row] = np.sqrt(a) * (2 * x[i][row] - 1) + np.sqrt(1 - a) * noise[row]
            if without_label[row]:
                labels[row], dropped = 3, dropped + 1
        labels = jnp.asarray(labels) if num_classes else None
        value, grads = value_and_grad(params, noisy, times, labels, noise)
        params = jax.tree.map(lambda p, g: p - 0.1 * np.asarray(g), params, grads)
        ema = jax.tree.map(lambda e, p: 0.7 * e + 0.3 * p, ema, params)
        np.testing.assert_allclose(out.metrics["loss"], value, rtol=1e-6)
    assert 0 < dropped < 18
    for found, expected in ((state.state.params, params), (state.ema, ema)):
        for name, a, b in zip(
            trees.path_names(params), *map(jax.tree.leaves, (found, expected)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8, err_msg=name)


def test_training_needs_labels_where_there_are_classes():
    x = jnp.zeros((2, 4, 4, 1))
    core = training(UNet(**SMALL, num_classes=3), optax.sgd(0.1))
    with pytest.raises(ValueError, match="inputs and labels but got .'inputs'."):
        core.init(jax.random.key(0), {"inputs": x})
    with pytest.raises(ValueError, match="a dict with inputs but got"):
        training(UNet(**SMALL), optax.sgd(0.1)).init(jax.random.key(0), x)


# --- Sampling -------------------------------------------------------------------------------------


def test_sampling_follows_the_equations():
    """Five steps, the posterior as the product of two Gaussians, by rows."""
    process = respaced(5)
    a = FULL[process.times]
    labels = jnp.array([0, 2])

    def with_labels(x, t):
        return 0.6 * jnp.tanh(x + labels[:, None, None, None]) + t[:, None, None, None] / 2000

    without = lambda x, t: 0.3 * x + 0.01
    keys = row_keys(jax.random.key(5), 2, None)
    predict = guided(with_labels, without, 1.5)
    draw = lambda keys: sampled(predict, keys, (3, 2, 1), diffusion=process, dtype=jnp.float64)
    found, clipped = jax.jit(draw)(keys), 0
    for row in range(2):
        noise = lambda i, k=keys[row]: np.asarray(
            jax.random.normal(jax.random.fold_in(k, i), (3, 2, 1), jnp.float64)
        )
        x = noise(5)
        for i in (4, 3, 2, 1, 0):
            t = process.times[i]
            free = 0.3 * x + 0.01
            eps = free + 1.5 * (0.6 * np.tanh(x + labels[row]) + t / 2000 - free)
            clean = (x - np.sqrt(1 - a[i]) * eps) / np.sqrt(a[i])
            clipped += (np.abs(clean) > 1).sum()
            clean = np.clip(clean, -1, 1)
            if i == 0:
                x = clean
                continue
            # x_(i-1) given clean is N(sqrt(a_(i-1)) clean, 1 - a_(i-1)); x_i given x_(i-1) is
            # N(sqrt(s) x_(i-1), 1 - s) with s = a_i / a_(i-1).
            s = a[i] / a[i - 1]
            precision = 1 / (1 - a[i - 1]) + s / (1 - s)
            mean = np.sqrt(a[i - 1]) * clean / (1 - a[i - 1]) + np.sqrt(s) * x / (1 - s)
            x = mean / precision + noise(i) / np.sqrt(precision)
        np.testing.assert_allclose(found[row], (x + 1) / 2, rtol=1e-8)
    assert 0 < clipped < 60, "some images must be clipped, and not all"


@pytest.mark.parametrize("right", [True, False])
def test_gaussian_data(right):
    """Pixels N(m, s^2): the best predictor is linear, and sampling with it gives m and s.

    With x = sqrt(a) x0 + sqrt(1 - a) eps it is E[eps | x] = sqrt(1 - a) (x - sqrt(a) m) / (a s^2 +
    1 - a). The control takes the variance of the data for four times what it is.
    """
    mean, deviation = 0.15, 0.1
    assumed = deviation if right else 2 * deviation

    def predict(x, times):
        a = jnp.asarray(FULL)[times][:, None, None, None]
        return jnp.sqrt(1 - a) * (x - jnp.sqrt(a) * mean) / (a * assumed**2 + 1 - a)

    keys = row_keys(jax.random.key(0), 40, None)
    draw = lambda keys: sampled(predict, keys, (16, 16, 1), dtype=jnp.float64)
    x = 2 * np.asarray(jax.jit(draw)(keys)) - 1
    # 10,240 numbers: standard errors are 1 % and 0.7 % of the deviation.
    assert abs(x.mean() - mean) < 0.04 * deviation
    assert (abs(x.std() / deviation - 1) < 0.04) == right


def test_images_do_not_depend_on_the_others():
    keys = row_keys(jax.random.key(0), 4, None)
    predict = lambda x, t: 0.5 * x
    draw = jax.jit(lambda keys: sampled(predict, keys, (2, 2, 1), diffusion=respaced(4)))
    np.testing.assert_array_equal(draw(keys[::-1])[::-1], draw(keys))
    np.testing.assert_array_equal(draw(keys[2:3])[0], draw(keys)[2])


@pytest.mark.ci
def test_a_network_learns_its_images():
    """Flat images of two greys: after 300 steps samples of a label are nearer to its own."""
    network = UNet(**(SMALL | {"width": 8}), num_classes=2)
    core = with_ema(training(network, optax.adam(3e-3)), 0.98)
    y = jnp.arange(32) % 2
    grey = jnp.where(y == 0, 0.2, 0.8)[:, None, None, None]
    batch = {"inputs": grey * jnp.ones((1, 2, 2, 1)), "labels": y}

    @jax.jit
    def drawn(key):
        body = lambda state, i: core.update(state, batch, jax.random.fold_in(key, i))
        state, out = jax.lax.scan(body, core.init(key, batch), jnp.arange(300))
        predict = lambda x, t: network.apply({"params": state.ema}, x, t, y)
        images = sampled(predict, row_keys(key, 32, None), (2, 2, 1), diffusion=respaced(50))
        return out.metrics["loss"], images

    losses, images = drawn(jax.random.key(0))
    assert losses[-20:].mean() < 0.5 * losses[:20].mean()
    np.testing.assert_array_equal(images > 0.5, np.broadcast_to(grey > 0.5, images.shape))
