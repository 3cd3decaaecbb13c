"""When a latent counts as one that reproduces a task: every demonstration, and no padding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.lpn.config import Block, Config
from jaxtta.lpn.decoder import Logits
from jaxtta.lpn.grids import Grid, Pairs
from jaxtta.lpn.likelihood import log_probs, mean_cells, scorer
from jaxtta.lpn.model import LPN


class Targets(NamedTuple):
    """What the score needs of a prepared pair."""

    targets: Grid


class Painter:
    """Predicts grids of one cell whose colour is the latent."""

    def prepare(self, params, pairs):
        return Targets(pairs.outputs)

    def attended(self, params, prepared):
        return prepared

    def logits(self, params, z, pair):
        side = jnp.zeros(2)
        colour = 8.0 * jax.nn.one_hot(z[0].astype(int), 10)
        return Logits(side.at[0].set(8.0), side.at[0].set(8.0), colour[None])


@pytest.mark.parametrize("scan_pairs", [False, True])
def test_all_demonstrations_must_be_exact_and_padding_is(scan_pairs):
    colours = jnp.array([[3], [3], [5]], jnp.uint8)
    grids = Grid(colours, jnp.ones((3, 2), jnp.int32))
    latents = jnp.array([[3.0], [5.0], [4.0]])

    def exact(*mask):
        pairs = Pairs(grids, grids, jnp.array(mask))
        return scorer(Painter(), {}, pairs, scan_pairs=scan_pairs)(latents)

    assert exact(True, True, True).exact.tolist() == [False, False, False]
    assert exact(True, True, False).exact.tolist() == [True, False, False]
    assert exact(False, False, True).exact.tolist() == [False, True, False]
    # By hand: both sides are right, the cell is right or not; padding adds nothing.
    norm, side = np.log(np.exp(8.0) + 9), 8 - np.log(np.exp(8.0) + 1)
    right, wrong = ((2 * side + (value - norm) / (1 + 1e-5)) for value in (8.0, 0.0))
    found = exact(True, True, False).score
    np.testing.assert_allclose(found, [2 * right, 2 * wrong, 2 * wrong], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scan_pairs", [False, pytest.param(True, marks=pytest.mark.ci)])
def test_scores_of_many_latents_and_their_slopes_are_those_of_whole_passes(scan_pairs):
    """Attention that no latent changes is computed once; the passes here do all of it again."""
    lpn = LPN(Config(3, 3, 4, Block(0, 2, 4, 1.0), Block(2, 2, 4, 1.0)))
    params = jax.tree.map(lambda x: 3 * x, jax.jit(lpn.init)(jax.random.key(0)))
    rng = np.random.default_rng(0)
    shape = jnp.array([[2, 2], [1, 3]])  # of 4 and 3 cells with room for 5
    grids = [Grid(jnp.asarray(rng.integers(0, 10, (2, 5)), jnp.uint8), shape) for _ in range(2)]
    pairs = Pairs(*grids, jnp.array([True, True]))
    latents = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)

    def one_by_one(z):
        prepared = lpn.prepare(params, pairs)
        parts = log_probs(lpn.logits(params, jnp.stack([z, z]), prepared), pairs.outputs)
        return (parts.rows + parts.cols + mean_cells(parts)).sum()

    @jax.jit
    def both(z):
        together = lambda z: scorer(lpn, params, pairs, scan_pairs=scan_pairs)(z).score.sum()
        return jax.value_and_grad(together)(z), jax.vmap(jax.value_and_grad(one_by_one))(z)

    found, (values, slopes) = both(latents)
    assert (abs(slopes) > 1e-3).all()
    np.testing.assert_allclose(found[0], values.sum(), rtol=1e-5)
    np.testing.assert_allclose(found[1], slopes, rtol=1e-4, atol=1e-5)
