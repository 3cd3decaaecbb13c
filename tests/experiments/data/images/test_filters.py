"""Blurs, zooms, samples, colours and height maps, against SciPy and by hand."""

import numpy as np
import pytest
from scipy import ndimage

from experiments.data.images import filters


def test_motion_blur_moves_light_along_its_direction():
    x = np.zeros((2, 32, 32, 3))
    x[:, 16, 16] = 255
    weights = np.exp(-(np.arange(13) ** 2) / 8)
    weights /= weights.sum()
    right, down = filters.motion(x, 6, 2.0, np.array([0.0, -90.0]))
    # A tap reads i pixels further, so light appears before its source.
    np.testing.assert_array_equal(right[16, 16 - np.arange(13), 0], np.floor(255 * weights))
    np.testing.assert_array_equal(down[16 + np.arange(13), 16, 0], np.floor(255 * weights))


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.25, 2.25])
def test_zoom_equals_scipy(factor):
    x = np.random.default_rng(0).random((2, 32, 32, 3))
    crop = int(np.ceil(32 / factor))
    top = (32 - crop) // 2
    for image, found in zip(x, filters.zoomed(x, factor), strict=True):
        part = image[top : top + crop, top : top + crop]
        zoomed = ndimage.zoom(part, (factor, factor, 1), order=1)
        trim = (len(zoomed) - 32) // 2
        np.testing.assert_allclose(found, zoomed[trim : trim + 32, trim : trim + 32], atol=1e-12)


@pytest.mark.parametrize("mode", ["mirror", "reflect"])
def test_sampling_equals_scipy(mode):
    rng = np.random.default_rng(0)
    x, places = rng.random((2, 32, 32, 3)), rng.uniform(-20, 50, (2, 2, 32, 32))
    found = filters.sampled(x, places[0], places[1], mode)
    for i in range(2):
        for c in range(3):
            expected = ndimage.map_coordinates(x[i, ..., c], places[:, i], order=1, mode=mode)
            np.testing.assert_allclose(found[i, ..., c], expected, atol=1e-12)


def test_hsv_round_trip_and_known_colours():
    colours = np.array([[1, 0, 0], [1, 1, 0], [0, 0.5, 0], [0, 0, 1], [0.2, 0.2, 0.2], [0, 0, 0]])
    hue, saturation, value = filters.to_hsv(colours)
    np.testing.assert_allclose(hue * 6, [0, 1, 2, 4, 0, 0])
    np.testing.assert_allclose(saturation, [1, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(value, [1, 1, 0.5, 1, 0.2, 0])
    x = np.random.default_rng(0).random((50, 3))
    np.testing.assert_allclose(filters.from_hsv(*filters.to_hsv(x)), x, atol=1e-12)


def test_plasma_is_a_torus_of_midpoints():
    class Flat:
        calls = 0

        def uniform(self, low, high, shape):
            Flat.calls += 1
            return np.full(shape, 1.0) if Flat.calls == 1 else np.zeros(shape)

    heights = filters.plasma(1, 2.0, Flat(), side=4)[0]
    # One bump of 1 in the middle: its four diamond points get 2/4 of it, corners stay 0.
    assert heights[2, 2] == 1 and heights[0, 0] == 0
    assert heights[0, 2] == heights[2, 0] == 0.5
