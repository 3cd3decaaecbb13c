"""Two views: crops and blur beside SciPy, what each setting does, and keys of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxtta.images.changes import two_views
from jaxtta.images.changes.two_views import Photo

KEYS = jax.random.split(jax.random.key(0), 64)
NOTHING = Photo(
    scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0, jitter=0, grey=0, blur=(0, 0), solarise=(0, 0)
)
X = np.random.default_rng(0).random((64, 8, 8, 3)).astype(np.float32)


MAKE = jax.jit(two_views.photographs)


def views(spec):
    return jax.tree.map(np.asarray, MAKE(X, KEYS, spec))


def test_without_changes_views_are_the_images():
    for view in views(NOTHING):
        np.testing.assert_allclose(view, X, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "share"),
    [
        (dict(flip=0.5), 0.5),
        (dict(solarise=(0.0, 0.2)), 0.2),
        (dict(blur=(1.0, 0.1)), 0.1),
        (dict(jitter=0.8), 0.8),
        (dict(grey=0.2), 0.2),
    ],
    ids=lambda x: str(x)[:20],
)
def test_each_change_has_its_chance_in_each_view(change, share):
    first, second = views(NOTHING._replace(**change))
    changed = [np.abs(view - X).max((1, 2, 3)) > 1e-3 for view in (first, second)]
    name = next(iter(change))
    expected = {"solarise": 0.0, "blur": 1.0}.get(name, share)
    assert abs(changed[0].mean() - expected) < 0.2 and abs(changed[1].mean() - share) < 0.2
    if name == "flip":
        np.testing.assert_allclose(second[changed[1]], X[changed[1]][:, :, ::-1], atol=1e-5)
    if name == "solarise":
        light = X[changed[1]]
        np.testing.assert_allclose(second[changed[1]], np.minimum(light, 1 - light), atol=1e-5)
    if name == "grey":
        weights = np.array([0.2989, 0.587, 0.114])
        luma = np.repeat((X[changed[0]] @ weights)[..., None], 3, -1)
        np.testing.assert_allclose(first[changed[0]], luma, atol=1e-5)


def test_the_blur_is_that_of_scipy():
    image = np.random.default_rng(1).random((20, 16, 3))
    found = two_views._blurred(jnp.asarray(image, jnp.float32), jnp.float32(1.3))
    expected = ndimage.gaussian_filter(image, (1.3, 1.3, 0), mode="nearest", radius=6)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_crop_is_a_part_at_the_size_of_the_whole():
    """Of a ramp, a crop is a ramp whose slope is the side of the crop."""
    ramp = np.broadcast_to(np.linspace(0, 1, 32)[:, None, None], (32, 32, 1)).astype(np.float32)
    spec = NOTHING._replace(scale=(0.25, 0.25))
    crop = jax.jit(jax.vmap(lambda key: two_views.resized_crop(ramp, key, spec)))(KEYS)
    middle = np.asarray(crop)[:, 8:24, 16, 0]
    np.testing.assert_allclose(np.diff(middle, axis=1).mean(1), 0.5 / 31, rtol=0.05)
    assert middle.mean(1).std() > 0.05 and middle.min() >= -0.05 and middle.max() <= 1.05


def test_small_views_shift_scale_and_erase():
    x = np.zeros((64, 6, 6), np.float32)
    x[:, 2:4, 2:4] = 1
    options = dict(brightness=(1.0, 1.0), noise=0.0)
    first, second = map(np.asarray, two_views.small(x, KEYS, erased=1, chance=0.0, **options))
    centre = lambda v: np.array([ndimage.center_of_mass(one) for one in v]) - 2.5
    assert {*map(tuple, np.rint(centre(first)).astype(int))} <= {
        (a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)
    }
    assert (centre(first) != centre(second)).any(1).mean() > 0.5
    whole = np.ones((64, 6, 6), np.float32)
    erased, _ = map(np.asarray, two_views.small(whole, KEYS, shift=0, erased=3, **options))
    holes = (erased == 0).sum((1, 2))
    assert {*holes.tolist()} == {0, 9} and abs((holes > 0).mean() - 0.5) < 0.2
    bright, _ = two_views.small(whole, KEYS, shift=0, noise=0.0, chance=0.0)
    values = np.asarray(bright)[:, 0, 0]
    assert 0.8 <= values.min() < 0.9 and 1.1 < values.max() <= 1.2


def test_impossible_images_are_named():
    with pytest.raises(ValueError, match="H, W, 3"):
        two_views.photographs(X[..., :1], KEYS)
    with pytest.raises(ValueError, match="square of 3 pixels"):
        two_views.small(np.zeros((4, 2, 2)), KEYS[:4])
