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


def test_gaussian_blur_is_that_of_each_plane():
    x = np.random.default_rng(0).random((2, 32, 32, 3))
    for found, image in ((filters.gaussian(x, 1.5), x), (filters.gaussian(x[..., 1], 1.5), x)):
        for i in range(2):
            expected = ndimage.gaussian_filter(image[i, ..., 1], 1.5, mode="nearest")
            plane = found[i] if found.ndim == 3 else found[i, ..., 1]
            np.testing.assert_allclose(plane, expected, atol=1e-12)


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


def test_plasma_by_a_loop_over_midpoints():
    """Centres of squares, then those of their sides: the mean of four neighbours, and a bump."""
    rng, side, decay = np.random.default_rng(3), 8, 1.7
    heights, step, bump = np.zeros((side, side)), side, 100.0
    while step >= 2:
        half, n = step // 2, side // step
        around = ((half, 0), (-half, 0), (0, half), (0, -half))
        corners = ((half, half), (half, -half), (-half, half), (-half, -half))
        for down, right, offsets in ((half, half, corners), (0, half, around), (half, 0, around)):
            bumps = bump * rng.uniform(-bump, bump, (1, n, n))[0]
            for i in range(n):
                for j in range(n):
                    row, col = i * step + down, j * step + right
                    near = [heights[(row + a) % side, (col + b) % side] for a, b in offsets]
                    heights[row, col] = np.mean(near) + bumps[i, j]
        step, bump = half, bump / decay
    expected = (heights - heights.min()) / np.ptp(heights)
    found = filters.plasma(1, decay, np.random.default_rng(3), side)[0]
    np.testing.assert_allclose(found, expected, atol=1e-12)
