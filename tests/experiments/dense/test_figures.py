"""Colours of classes, and that figures are drawn."""

import numpy as np

from experiments.data.images import scenes
from experiments.dense import figures


def test_every_class_has_its_colour_and_none_is_black():
    found = figures.coloured(np.arange(-1, len(figures.PALETTE)))
    assert len(np.unique(found, axis=0)) == len(found) and not found[0].any()


def test_figures_are_drawn(tmp_path):
    given = scenes.streets(2, (8, 16), 0, dusk=True)
    found = {"before": given.labels, "after": 0 * given.labels[:1]}
    figures.pictures(given, found, scenes.CLASSES, tmp_path / "pictures.png")
    figures.curves({"a": np.random.default_rng(0).random((2, 30))}, tmp_path / "curves.png")
    assert all(file.stat().st_size > 1000 for file in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 2
