"""The augmentation against SciPy with injected draws, and the ranges of its draws."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxtta.images.changes import cotta_augment
from tests.jaxtta.images.test_entropy import float64  # noqa: F401

X = np.random.default_rng(0).random((2, 16, 16, 3))
STILL = cotta_augment.Draw(
    jnp.arange(5),
    jnp.array([1.0, 1.0, 1.0, 0.0, 1.0]),
    jnp.zeros(()),
    jnp.zeros(2),
    jnp.ones(()),
    jnp.array(1e-3),
    jnp.zeros((), bool),
)


def in_numpy(x, d, strength):
    """The whole padded image is made, as the official code does."""
    grey = lambda y: y @ np.array([0.2989, 0.587, 0.114])
    brightness, contrast, saturation, hue, gamma = np.asarray(d.colour)

    def turned(y):
        colours = [colorsys.rgb_to_hsv(*c) for c in y.reshape(-1, 3)]
        back = [colorsys.hsv_to_rgb((h + hue) % 1, s, v) for h, s, v in colours]
        return np.array(back).reshape(y.shape)

    operations = [
        lambda y: y * brightness,
        lambda y: contrast * y + (1 - contrast) * grey(y).mean((1, 2))[:, None, None, None],
        lambda y: saturation * y + (1 - saturation) * grey(y)[..., None],
        turned,
        lambda y: np.clip(y, 1e-8, 1) ** gamma,
    ]
    for k in np.asarray(d.order):
        x = np.clip(operations[k](x), 0, 1)
    pad = x.shape[1] // 2
    mode = "reflect" if strength.reflect else "edge"
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
    side = x.shape[1]
    angle = np.deg2rad(float(d.degrees))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rows, columns = np.mgrid[:side, :side]
    middle = (side - 1) / 2
    there = np.stack([columns - middle - float(d.shift[0]), rows - middle - float(d.shift[1])])
    here = np.einsum("ij,jhw->ihw", np.linalg.inv(float(d.scale) * turn), there) + middle
    at = np.stack([here[1], here[0]])
    x = np.stack(
        [
            np.stack(
                [
                    ndimage.map_coordinates(image[..., c], at, order=1, mode="grid-constant")
                    for c in range(3)
                ],
                -1,
            )
            for image in x
        ]
    )
    if strength.sigma is not None:
        taps = np.exp(-0.5 * (np.arange(-2, 3) / float(d.sigma)) ** 2)
        taps /= taps.sum()
        for axis in (1, 2):
            x = ndimage.correlate1d(x, taps, axis=axis, mode="mirror")
    x = x[:, pad:-pad, pad:-pad]
    if d.flip:
        x = x[:, :, ::-1]
    return np.clip(x, 0, 1)


@pytest.mark.parametrize(
    "strength", [cotta_augment.NORMAL, cotta_augment.SOFT, cotta_augment.REDUCED]
)
@pytest.mark.parametrize("seed", range(3))
def test_equals_scipy(strength, seed):
    drawn = cotta_augment.draw(jax.random.key(seed), 16, strength)
    # Stronger than any draw, so that the black outside is seen.
    drawn = drawn._replace(degrees=3 * drawn.degrees, flip=jnp.asarray(seed == 1))
    found = jax.jit(lambda x: cotta_augment.apply(x, drawn, None, strength))(jnp.asarray(X))
    np.testing.assert_allclose(found, in_numpy(X, drawn, strength), rtol=1e-6, atol=1e-8)


def test_pixels_stay_in_their_places():
    drawn = cotta_augment.draw(jax.random.key(0), 16)._replace(flip=jnp.array(True))
    found = cotta_augment.apply(jnp.asarray(X), drawn, moves=False)
    still = STILL._replace(order=drawn.order, colour=drawn.colour, sigma=drawn.sigma)
    expected = in_numpy(X, still, cotta_augment.NORMAL)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    oblong = jnp.asarray(X[:, :9, :12])
    np.testing.assert_allclose(cotta_augment.apply(oblong, STILL, moves=False), oblong, atol=1e-9)


def test_nothing_drawn_changes_nothing():
    np.testing.assert_allclose(cotta_augment.apply(jnp.asarray(X), STILL), X, atol=1e-9)


def test_hue_of_pure_colours():
    red = jnp.array([1.0, 0, 0])
    np.testing.assert_allclose(cotta_augment.shift_hue(red, jnp.array(1 / 3)), [0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(
        cotta_augment.shift_hue(red, jnp.array(-1 / 3)), [0, 0, 1], atol=1e-9
    )


@pytest.mark.parametrize("strength", [cotta_augment.NORMAL, cotta_augment.SOFT])
def test_draws_fill_their_ranges(strength):
    drawn = jax.vmap(lambda k: cotta_augment.draw(k, 32, strength))(
        jax.random.split(jax.random.key(0), 2000)
    )
    ranges = [
        getattr(strength, n) for n in ("brightness", "contrast", "saturation", "hue", "gamma")
    ]
    values = [*np.asarray(drawn.colour).T, drawn.degrees, drawn.scale, drawn.sigma]
    for x, (low, high) in zip(
        values, [*ranges, strength.degrees, strength.scale, strength.sigma], strict=True
    ):
        assert low <= x.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < x.max() <= high
    assert set(np.unique(drawn.shift)) == set(range(-4, 5))
    assert abs(drawn.flip.mean() - 0.5) < 0.05
    assert len(np.unique(drawn.order, axis=0)) == 120


def test_one_draw_for_the_batch_and_noise_per_image():
    same = jnp.asarray(np.repeat(X[:1], 2, axis=0))
    drawn = cotta_augment.draw(jax.random.key(0), 16)
    plain = cotta_augment.apply(same, drawn)
    np.testing.assert_array_equal(plain[0], plain[1])
    noisy = cotta_augment.apply(same, drawn, jax.random.split(jax.random.key(1), 2))
    inside = (plain > 0.05) & (plain < 0.95)
    difference = np.asarray(noisy - plain)[np.asarray(inside)]
    assert abs(difference.std() / 0.005 - 1) < 0.1
    assert not np.array_equal(noisy[0], noisy[1])


def test_errors():
    with pytest.raises(ValueError, match="square RGB images"):
        cotta_augment.apply(jnp.zeros((1, 16, 12, 3)), STILL)
