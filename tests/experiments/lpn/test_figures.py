"""Figures show all there is, and are left out where there is nothing to see."""

import numpy as np

from experiments.lpn import figures

GRID = np.zeros((1, 1), np.uint8)


def test_every_demonstration_has_a_place():
    pairs = [(GRID, GRID + 1), (GRID + 2, GRID + 3)]
    cells = list(figures.demonstrations(pairs, 3))
    assert [title for title, _, _ in cells] == ["in 1", "out 1", "in 2", "out 2", "in 3", "out 3"]
    assert [None if grid is None else int(grid[0, 0]) for _, grid, _ in cells] == [
        *range(4),
        None,
        None,
    ]


def test_searches_that_took_no_step_are_not_drawn(tmp_path):
    still = np.array([[-1.0, -1.0, -1.0], [-2.0, -2.0, -2.0]])
    figures.search_trajectories(still, np.array([True, True]), tmp_path / "search.png")
    scores = np.array([[-1.0, -np.inf, -np.inf]])
    figures.latent_trails(np.ones((1, 3, 2)), scores, tmp_path / "latents.png")
    assert not list(tmp_path.iterdir())
    moved = np.array([[-1.0, -0.5, -0.4], [-2.0, -2.0, -2.0]])
    figures.search_trajectories(moved, np.array([True, False]), tmp_path / "search.png")
    trails = np.random.default_rng(0).normal(size=(2, 3, 2))
    figures.latent_trails(
        trails, np.array([[-1.0, -np.inf, -np.inf], [-3, -2, -1]]), tmp_path / "latents.png"
    )
    assert {file.name for file in tmp_path.iterdir()} == {"search.png", "latents.png"}
