"""What an evaluation counts as right, its problems and keys, and what it says about the latents."""

import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lpn import evaluation
from experiments.lpn.evaluation import last_pair_problems, latent_report
from jaxtta.lpn import Grid, Pairs, Posterior


class Fixed:
    """An encoder that answers the given means and N(m, 1)."""

    def __init__(self, mean):
        self.mean = jnp.asarray(mean, jnp.float32)

    def encode(self, params, pairs):
        return Posterior(self.mean, jnp.zeros_like(self.mean))


@pytest.mark.parametrize(
    ("size", "active", "words"),
    [(0.01, 0, "collapsed onto the prior"), (1.0, 1, "KL 0.5 nats"), (100.0, 1, "KL explodes")],
)
def test_report_counts_used_dimensions_and_warns(size, active, words):
    mean = np.zeros((2, 3, 2))
    mean[..., 0] = size
    mean[1, 2] = 1e6  # padding
    mask = np.array([[True, True, True], [True, True, False]])
    report = latent_report(Fixed(mean), None, Pairs(None, None, mask))
    assert report["active_units"] == active and words in report["text"]
    np.testing.assert_allclose(report["kl_per_dimension"], [size**2 / 2, 0.0], rtol=1e-3)
    assert ("WARNING" in report["text"]) == (size != 1.0)


def pairs(cells, shape):
    """Whose inputs are their outputs: cells `[B, N, L]`, shapes `[B, N, 2]`."""
    grid = Grid(np.array(cells), np.array(shape))
    return Pairs(grid, grid, np.ones(grid.cells.shape[:2], bool))


def test_the_last_pair_is_predicted_from_the_others():
    cells = np.arange(6).reshape(2, 3, 1)
    demos, targets = last_pair_problems(pairs(cells, np.ones((2, 3, 2))))
    assert demos.outputs.cells.tolist() == [[[0], [1]], [[3], [4]]]
    assert targets.inputs.cells.tolist() == [[[2]], [[5]]]
    assert demos.mask.shape == (2, 2) and targets.mask.shape == (2, 1)


class Found(NamedTuple):
    """What a search leaves."""

    latents: jax.Array
    scores: jax.Array
    best_latents: jax.Array


class Echo:
    """A model whose prediction is right as far as its latent says, `[1]`."""

    def prepare(self, params, target):
        return types.SimpleNamespace(targets=None)

    def logits(self, params, latent, prepared):
        return latent


def search_that_draws(lpn, params, key, demo, method, posterior=None):
    """Leaves a number drawn with its key."""
    drawn = jax.random.uniform(key, (1, 1, 1))
    return Found(drawn, jnp.zeros((1, 1)), drawn[0])


def test_every_problem_is_searched_with_its_own_key(monkeypatch):
    monkeypatch.setattr(evaluation, "search_task", search_that_draws)
    exact = lambda logits, targets: types.SimpleNamespace(exact=logits)
    monkeypatch.setattr(evaluation, "log_probs", lambda z, t: exact(z.reshape(1), t))
    key, given = jax.random.key(3), pairs(np.zeros((3, 1, 1)), np.ones((3, 1, 2)))
    found = evaluation.search_accuracy(
        Echo(), None, key, given, given, method=None, steps=(0,), chunk=2
    )
    expected = [jax.random.uniform(jax.random.fold_in(key, i), (1, 1, 1))[0, 0] for i in range(3)]
    np.testing.assert_array_equal(found, expected)


def test_generated_grids_are_right_within_their_shape(monkeypatch):
    """All right; one of two cells; another shape of the same cells; other cells beyond the grid."""
    truth = pairs([[[1, 2, 0, 0]]] * 4, [[[1, 2]]] * 4)
    cells = [[1, 2, 0, 0, 0], [1, 3, 0, 0, 0], [1, 2, 0, 0, 0], [1, 2, 7, 7, 7]]
    made = Grid(jnp.array(cells), jnp.array([[1, 2], [1, 2], [2, 1], [1, 2]]))
    monkeypatch.setattr(evaluation, "search_task", search_that_draws)
    monkeypatch.setattr(evaluation, "generate", lambda lpn, params, latents, inputs: made)
    found = evaluation.generated_metrics(Echo(), None, jax.random.key(0), truth, truth, method=None)
    assert found["correct_shapes"].tolist() == [True, True, False, True]
    assert found["pixel_correctness"].tolist() == [1, 0.5, 0, 1]
    assert found["accuracy"].tolist() == [True, False, False, True]
