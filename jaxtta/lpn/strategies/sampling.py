"""Scoring many points at once: around the start points, or from the encoder's posterior.

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, arXiv 2411.08706, sec. 4 and table 11.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxtta.lpn.search import Proposal, ScoreFn, Search, ask_tell, in_chunks

DrawFn = Callable[[Array, Array, Array], Array]


def sampling(
    score_fn: ScoreFn,
    draw: DrawFn,
    num_samples: int,
    *,
    scan_batch_size: int | None,
    archive_size: int,
) -> Search:
    """Scores the start points and, in every round, `num_samples` fresh points.

    Rounds after the first leave the S slots of the start points empty (score minus infinity).

    Args:
      score_fn: the score.
      draw: `(key, starts, start_mask) -> [num_samples, H]`.
      num_samples: points per round.
      scan_batch_size: see `in_chunks`.
      archive_size: number of best candidates kept.
    """
    if num_samples < 0:
        raise ValueError(f"num_samples is {num_samples}; use 0 or more.")

    def propose(key: Array, first: bool, starts: Array, start_mask: Array) -> Proposal:
        points = jnp.concatenate([starts, draw(key, starts, start_mask)])
        drawn = jnp.broadcast_to(start_mask.any(), num_samples)
        valid = jnp.concatenate([start_mask & first, drawn])
        return Proposal(points, valid, (starts, start_mask))

    return ask_tell(
        in_chunks(score_fn, scan_batch_size),
        lambda key, starts, start_mask: propose(key, True, starts, start_mask),
        lambda key, proposal, evaluated, info: propose(key, False, *proposal.memory),
        archive_size=archive_size,
    )


def random_search(
    score_fn: ScoreFn,
    *,
    num_samples: int,
    scale: ArrayLike,
    scan_batch_size: int | None = None,
    archive_size: int = 2,
) -> Search:
    """The start points plus `num_samples` points start + scale * N(0, I) around them.

    The points are spread evenly over the valid start points: rounded up per start point, then cut
    to `num_samples`. `run_search(..., num_steps=0)` is the published method (its `num_samples` 25
    or 250, `scale` 0.5) or, with `num_samples=0`, the start points alone; every further step draws
    again.

    Args:
      score_fn: the score.
      num_samples: points drawn per round, besides the start points.
      scale: standard deviation of the points around their start, in latent units.
      scan_batch_size: candidates scored at a time, keeping only scalars; None: all at once.
      archive_size: number of best candidates kept.
    """

    def draw(key: Array, starts: Array, start_mask: Array) -> Array:
        num_starts = jnp.maximum(start_mask.sum(), 1)
        share = -(-num_samples // num_starts)
        origin = jnp.argsort(~start_mask, stable=True)[jnp.arange(num_samples) // share]
        noise = jax.random.normal(key, (num_samples, starts.shape[-1]), starts.dtype)
        return starts[origin] + scale * noise

    return sampling(
        score_fn, draw, num_samples, scan_batch_size=scan_batch_size, archive_size=archive_size
    )


def noise_per_start(key: Array, starts: Array, *shape: int) -> Array:
    """N(0, I) of shape `[S, *shape, H]`, from one key per start point."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(starts)))
    draw = lambda k: jax.random.normal(k, (*shape, starts.shape[-1]), starts.dtype)
    return jax.vmap(draw)(keys)


def encoder_sampling(
    score_fn: ScoreFn,
    mean: Array,
    logvar: Array,
    mask: Array,
    *,
    num_samples: int,
    scan_batch_size: int | None = None,
    archive_size: int = 2,
) -> Search:
    """Scores many latents drawn from the encoder's posterior.

    A candidate is the mean over the valid pairs of one fresh sample per pair, as the start of every
    other search is. To sample another aggregate, such as `product_of_experts`, give it as one pair.

    Args:
      score_fn: the score.
      mean: posterior mean of each pair, `[N, H]`.
      logvar: posterior log variance of each pair, `[N, H]`.
      mask: False for padding pairs, `[N]`, which must come last.
      num_samples: samples per round; K steps score K + 1 rounds, besides the start points.
      scan_batch_size: candidates scored at a time, keeping only scalars; None: all at once.
      archive_size: number of best candidates kept.

    Note:
      The paper does not say how samples of several pairs are combined; the mean is our reading.
    """
    deviation = jnp.exp(0.5 * logvar)
    count = jnp.maximum(mask.sum(), 1)

    def draw(key: Array, starts: Array, start_mask: Array) -> Array:
        samples = mean[:, None] + deviation[:, None] * noise_per_start(key, mean, num_samples)
        return jnp.where(mask[:, None, None], samples, 0.0).sum(0) / count

    return sampling(
        score_fn, draw, num_samples, scan_batch_size=scan_batch_size, archive_size=archive_size
    )
