"""Sparse rows: winners of a projection, thinned strokes, windows."""

import numpy as np
import pytest
from scipy.ndimage import label

from experiments.data.images import sparse


def test_the_winners_of_a_projection():
    rng = np.random.default_rng(0)
    x, mean = rng.random((5, 4, 4)), rng.random((4, 4))
    found = sparse.projected(x, mean, num_units=20, num_active=3, seed=7)
    response = (x - mean).reshape(5, -1) @ np.random.default_rng(7).normal(size=(16, 20))
    assert (found.sum(1) == 3).all()
    for row, values in zip(found, response, strict=True):
        assert values[row].min() > values[~row].max()
    again = sparse.projected(x[:1], mean, num_units=20, num_active=3, seed=7)
    np.testing.assert_array_equal(again, found[:1])


def test_a_thick_cross_is_thinned_to_its_lines():
    x = np.zeros((1, 15, 15), bool)
    x[0, 6:9, 2:13] = x[0, 2:13, 6:9] = True
    found = sparse.thinned(x)[0]
    assert found.sum() <= 21 and not (found & ~x[0]).any()
    assert found[7, 4:11].all() and found[4:11, 7].all()
    assert label(found, np.ones((3, 3)))[1] == 1
    np.testing.assert_array_equal(sparse.thinned(found[None])[0], found)


@pytest.mark.parametrize("seed", range(3))
def test_thinning_keeps_every_part_in_one_piece(seed):
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.random((1, 5, 5)) < 0.5, np.ones((1, 4, 4), bool)).astype(bool)
    found = sparse.thinned(blocks)
    parts = lambda x: label(x[0], np.ones((3, 3)))[1]
    assert parts(found) == parts(blocks) and found.sum() < blocks.sum() / 2


def test_strokes_are_fitted_and_windows_are_spread():
    image = np.zeros((1, 28, 28))
    image[0, 4:24, 12:16] = 1
    found = sparse.strokes(image, 24, 16)
    assert found.shape == (1, 384) and 10 <= found.sum() <= 22
    windows = sparse.windows(24, 16, 3, 2, 8)
    assert windows.shape == (6, 64) and windows.min() == 0 and windows.max() == 24 * 16 - 1
    np.testing.assert_array_equal(windows[0][:9], [*range(8), 16])
    assert windows[2][0] == 8 * 16 and windows[1][0] == 8
