"""When a latent counts as one that reproduces a task: every demonstration, and no padding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.lpn.decoder import Logits
from jaxtta.lpn.grids import Grid, Pairs
from jaxtta.lpn.likelihood import scorer


class Targets(NamedTuple):
    """What the score needs of a prepared pair."""

    targets: Grid


class Painter:
    """Predicts grids of one cell whose colour is the latent."""

    def prepare(self, params, pairs):
        return Targets(pairs.outputs)

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
