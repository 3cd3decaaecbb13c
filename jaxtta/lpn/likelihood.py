"""Log-probabilities of output grids, and the score of a latent on a task's demonstrations.

The log-probabilities of the cells are *averaged* per grid, as the authors do, while those of the
two side lengths enter whole; the paper writes sums.

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, arXiv 2411.08706, sec. 3-4.
  Official code: clement-bonnet/lpn (src/models/lpn.py).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxtta.lpn.decoder import Logits
from jaxtta.lpn.grids import Grid, Pairs, coordinates
from jaxtta.lpn.model import LPN, Params, Prepared
from jaxtta.lpn.search import Scored, ScoreFn

NUM_CELLS_EPS = 1e-5


class PairLogProbs(NamedTuple):
    """Log-probabilities of given output grids, in nats, float32.

    Attributes:
      rows: log p(number of rows), `[...]`.
      cols: log p(number of columns), `[...]`.
      cells: sum over valid cells of log p(colour), `[...]`.
      num_cells: rows * cols, `[...]`.
      exact: every argmax is right, side lengths included, `[...]`, bool.
    """

    rows: Array
    cols: Array
    cells: Array
    num_cells: Array
    exact: Array


CellsFn = Callable[[PairLogProbs], Array]


def mean_cells(parts: PairLogProbs) -> Array:
    """Mean log-probability per cell (denominator + 1e-5, as in the official code)."""
    return parts.cells / (parts.num_cells + NUM_CELLS_EPS)


def sum_cells(parts: PairLogProbs) -> Array:
    """Log-probability of all cells, the likelihood of the paper's equation."""
    return parts.cells


def log_probs(logits: Logits, targets: Grid) -> PairLogProbs:
    """Log-probabilities of `targets` under teacher-forced `logits`; padding never enters."""
    num_cells = targets.shape[..., 0] * targets.shape[..., 1]
    valid = coordinates(targets.shape, targets.cells.shape[-1])[2]

    def pick(values: Array, index: Array) -> tuple[Array, Array]:
        chosen = jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]
        return chosen - jax.nn.logsumexp(values, axis=-1), values.argmax(-1) == index

    rows, rows_right = pick(logits.rows, targets.shape[..., 0] - 1)
    cols, cols_right = pick(logits.cols, targets.shape[..., 1] - 1)
    cells, cells_right = pick(logits.cells, targets.cells.astype(jnp.int32))
    return PairLogProbs(
        rows,
        cols,
        jnp.where(valid, cells, 0.0).sum(-1),
        num_cells,
        rows_right & cols_right & (cells_right | ~valid).all(-1),
    )


def scorer(
    lpn: LPN,
    params: Params,
    pairs: Pairs,
    *,
    cells: CellsFn = mean_cells,
    scan_pairs: bool = False,
) -> ScoreFn:
    """Score function of one task's demonstrations, to be searched.

    S(z) = sum over pairs of log p(rows) + log p(cols) + mean (or sum) of log p(cell).
    What does not depend on z is computed here, once.

    Args:
      lpn: model.
      params: parameters, not differentiated by the searches.
      pairs: `[N]` demonstrations; masked ones add nothing.
      cells: what the cells of a pair add, `mean_cells` or `sum_cells`.
      scan_pairs: score one pair after another (memory of one pair instead of N, same numbers).

    Returns:
      Function of latents `[S, H]` giving scores `[S]` and whether each latent reproduces every
      demonstration exactly, `[S]`.
    """
    prepared = lpn.prepare(params, pairs)
    attended = lambda pair: lpn.attended(params, pair)
    prepared = jax.lax.map(attended, prepared) if scan_pairs else attended(prepared)

    def one_pair(latents: Array, pair: Prepared, mask: Array) -> tuple[Array, Array]:
        def one_latent(z: Array) -> tuple[Array, Array]:
            parts = log_probs(lpn.logits(params, z, pair), pair.targets)
            return jnp.where(mask, parts.rows + parts.cols + cells(parts), 0.0), parts.exact

        values, exact = jax.vmap(one_latent)(latents)
        return values, exact | ~mask

    def score_fn(latents: Array) -> Scored:
        if scan_pairs:
            values, exact = jax.lax.map(
                lambda pair: jax.checkpoint(one_pair)(latents, *pair), (prepared, pairs.mask)
            )
        else:
            values, exact = jax.vmap(one_pair, in_axes=(None, 0, 0))(latents, prepared, pairs.mask)
        return Scored(values.sum(0), exact.all(0))

    return score_fn
