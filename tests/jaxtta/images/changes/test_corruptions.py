"""Corruptions on the device against the NumPy versions and the published generator's images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.images import corruptions as host
from experiments.data.images import filters
from jaxtta.images.changes import corruptions
from tests.shared_data import DATA

RANDOM = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "fog")
FIXED = tuple(name for name in corruptions.NAMES if name not in RANDOM)
CIFAR = DATA / "cifar10"


def made_up(number, seed=0):
    """Coarse and fine texture with black, grey and saturated corners."""
    rng = np.random.default_rng(seed)
    blocks = rng.random((number, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    pixels = (200 * blocks + 55 * rng.random((number, 32, 32, 3))).astype(np.uint8)
    pixels[:, :4, :4] = 0
    pixels[:, -4:, -4:] = 255
    pixels[:, :4, -4:] = 100
    return pixels


def levels(pixels, name, severity, seed=0):
    run = jax.jit(functools.partial(corruptions.corrupt, name=name, severity=severity))
    changed = np.asarray(run(jax.random.key(seed), jnp.asarray(pixels) / jnp.float32(255))) * 255
    np.testing.assert_allclose(changed, np.rint(changed), atol=1e-3)
    return np.rint(changed).astype(int)


@pytest.mark.parametrize("severity", [3, 5])
@pytest.mark.parametrize("name", FIXED)
def test_fixed_corruptions_equal_numpy(name, severity):
    pixels = made_up(4)
    found = levels(pixels, name, severity)
    assert np.abs(found - host.corrupt(pixels, name, severity)).max() <= 1
    other = host.corrupt(pixels, name, 2).astype(int)
    assert np.abs(found - other).max() > 1, "the test sees no severity"


@pytest.mark.skipif(not CIFAR.is_dir(), reason="needs the CIFAR-10 images beside the checkout")
@pytest.mark.parametrize("name", [n for n in FIXED if n not in ("gaussian_blur", "saturate")])
def test_fixed_corruptions_equal_the_published_pixels(name):
    from PIL import Image

    sheet = np.asarray(Image.open(CIFAR / "test.webp").convert("RGB"))
    pixels = sheet.reshape(100, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)[:64]
    stored = np.load(CIFAR / "corruption_golden_sev5.npz")
    golden = dict(zip(map(str, stored["names"]), stored["images"], strict=True))
    assert np.abs(levels(pixels, name, 5) - golden[name]).max() <= 1


def moments(changed, pixels):
    """Mean and spread of the change of every image, `[2, N]`."""
    change = (changed.astype(float) - pixels) / 255
    return np.stack([change.mean((1, 2, 3)), change.std((1, 2, 3))])


@pytest.mark.parametrize("name", RANDOM)
def test_random_corruptions_have_the_moments_of_numpy(name):
    pixels = made_up(128)
    found = moments(levels(pixels, name, 5), pixels)

    def standard_errors(severity):
        off = found - moments(host.corrupt(pixels, name, severity), pixels)
        return np.abs(off.mean(1) / (off.std(1) / np.sqrt(len(pixels)))).max()

    assert standard_errors(5) < 4 < standard_errors(3)


def test_plasma_has_the_spectrum_of_numpy():
    device = np.asarray(corruptions.plasma(jax.random.key(0), 500, 1.75))
    arrays = filters.plasma(500, 1.75, np.random.default_rng(0))
    smooth = filters.plasma(500, 2.0, np.random.default_rng(0))
    power = lambda h: (np.abs(np.fft.fft2(h - h.mean((1, 2), keepdims=True))) ** 2).mean(0)
    distance = lambda a, b: np.abs(power(a) - power(b)).sum() / power(b).sum()
    assert distance(device, arrays) < 0.08 < distance(smooth, arrays)


def test_every_image_and_key_draws_anew_and_keys_vmap():
    x = jnp.asarray(made_up(1).repeat(2, 0)) / jnp.float32(255)
    for name in ("gaussian_noise", "impulse_noise", "fog"):
        run = jax.jit(jax.vmap(lambda key, name=name: corruptions.corrupt(key, x, name, 3)))
        keys = jax.random.split(jax.random.key(0), 2)
        both = np.asarray(run(keys))
        assert both.shape == (2, 2, 32, 32, 3)
        assert len(np.unique(both.reshape(4, -1), axis=0)) == 4, name
        np.testing.assert_array_equal(both, run(keys))


def test_bad_requests_are_named():
    x, key = jnp.zeros((1, 32, 32, 3)), jax.random.key(0)
    with pytest.raises(ValueError, match="no corruption 'frost' here; there are gauss"):
        corruptions.corrupt(key, x, "frost", 1)
    with pytest.raises(ValueError, match="severity is 6"):
        corruptions.corrupt(key, x, "fog", 6)
    with pytest.raises(ValueError, match=r"have shape \(1, 28, 28, 3\)"):
        corruptions.corrupt(key, x[:, :28, :28], "fog", 1)
    with pytest.raises(ValueError, match="floats in"):
        corruptions.corrupt(key, x.astype(jnp.uint8), "fog", 1)
    np.testing.assert_array_equal(corruptions.corrupt(key, x, "fog", 0), x)
