"""Searches that need scores only: mutation, cross-entropy method, evolution strategy.

Each runs one independent search per start point, whose noise comes from
`fold_in(key, index of the start point)`: padding start points at the end change nothing. Numbers a
sweep may vary (learning rates, scales) may be traced; counts are Python numbers.
"""

from typing import Any

import jax.numpy as jnp
import optax
from einops import rearrange
from jax import Array, lax
from jax.typing import ArrayLike

from jaxtta.lpn.search import Evaluated, Proposal, ScoreFn, Search, ask_tell, in_chunks
from jaxtta.lpn.strategies.sampling import noise_per_start


def local_search(score_fn: ScoreFn, *, scale: ArrayLike, archive_size: int = 2) -> Search:
    """Gaussian mutation, kept if it scores better: one chain per start point.

    Args:
      score_fn: the score.
      scale: standard deviation of a mutation, in latent units.
      archive_size: number of best candidates kept.
    """

    def ask(key: Array, starts: Array, start_mask: Array) -> Proposal:
        return Proposal(starts, start_mask, (starts, jnp.full_like(starts[:, 0], -jnp.inf)))

    def tell(key: Array, proposal: Proposal, evaluated: Evaluated, info: Any) -> Proposal:
        current, score = proposal.memory
        better = evaluated.scores > score
        current = jnp.where(better[:, None], evaluated.latents, current)
        score = jnp.where(better, evaluated.scores, score)
        mutated = current + scale * noise_per_start(key, current)
        return Proposal(mutated, proposal.valid, (current, score))

    return ask_tell(in_chunks(score_fn), ask, tell, archive_size=archive_size)


def _populations(centers: Array, points: Array, valid: Array, memory: Any) -> Proposal:
    """Proposes each center `[S, H]` followed by its points `[S, population, H]`."""
    latents = jnp.concatenate([centers[:, None], points], axis=1)
    count = latents.shape[1]
    return Proposal(rearrange(latents, "s p h -> (s p) h"), jnp.repeat(valid, count), memory)


def cem(
    score_fn: ScoreFn,
    *,
    population: int,
    num_elites: int,
    scale: ArrayLike,
    min_scale: ArrayLike = 1e-3,
    smoothing: ArrayLike = 1.0,
    scan_batch_size: int | None = None,
    archive_size: int = 2,
) -> Search:
    """Cross-entropy method with a diagonal Gaussian per start point.

    Each round scores the Gaussian's mean and `population` samples, then fits mean and standard
    deviation to the `num_elites` best of them.

    Args:
      score_fn: the score.
      population: samples per round and start point.
      num_elites: candidates fitted, at most `population + 1`.
      scale: standard deviation at the start, in latent units.
      min_scale: lower bound of the standard deviation, against early collapse; positive.
      smoothing: weight of the new fit against the old mean and deviation, 1 for no smoothing.
      scan_batch_size: candidates scored at a time, keeping only scalars; None: all at once.
      archive_size: number of best candidates kept.

    References:
      de Boer et al., A Tutorial on the Cross-Entropy Method, Annals of Operations Research 2005.
    """
    if not 1 <= num_elites <= population + 1:
        raise ValueError(
            f"num_elites is {num_elites} for a population of {population}; "
            f"use 1 to {population + 1}."
        )

    def propose(key: Array, mean: Array, deviation: Array, valid: Array) -> Proposal:
        points = mean[:, None] + deviation[:, None] * noise_per_start(key, mean, population)
        return _populations(mean, points, valid, (mean, deviation, valid))

    def ask(key: Array, starts: Array, start_mask: Array) -> Proposal:
        return propose(key, starts, jnp.full_like(starts, scale), start_mask)

    def tell(key: Array, proposal: Proposal, evaluated: Evaluated, info: Any) -> Proposal:
        mean, deviation, valid = proposal.memory
        scores = rearrange(evaluated.scores, "(s p) -> s p", s=len(mean))
        top, index = lax.top_k(scores, num_elites)
        latents = rearrange(evaluated.latents, "(s p) h -> s p h", s=len(mean))
        elites = jnp.take_along_axis(latents, index[..., None], axis=1)
        scored = top > -jnp.inf
        weights = (scored / jnp.maximum(scored.sum(-1, keepdims=True), 1))[..., None]
        fitted = (weights * elites).sum(1)
        variance = (weights * jnp.square(elites - fitted[:, None])).sum(1)
        spread = jnp.sqrt(jnp.maximum(variance, jnp.square(min_scale)))
        some = scored.any(-1, keepdims=True)
        mean = jnp.where(some, mean + smoothing * (fitted - mean), mean)
        deviation = jnp.where(some, deviation + smoothing * (spread - deviation), deviation)
        return propose(key, mean, deviation, valid)

    return ask_tell(in_chunks(score_fn, scan_batch_size), ask, tell, archive_size=archive_size)


def evolution_strategy(
    score_fn: ScoreFn,
    learning_rate: ArrayLike,
    *,
    population: int,
    scale: ArrayLike,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    scan_batch_size: int | None = None,
    archive_size: int = 2,
) -> Search:
    """Evolution strategy with mirrored sampling and rank shaping: one center per start point.

    Each round scores the center and `population` points center +- scale * eps_i, estimates the
    gradient as sum_i u_i eps_i / (population * scale) with the points' centered ranks u_i in
    [-0.5, 0.5] (equal scores share their rank), and moves the center by Adam.

    Args:
      score_fn: the score.
      learning_rate: Adam's, may be traced.
      population: points per round and start point, even.
      scale: standard deviation of the points, in latent units; positive.
      b1: Adam's decay of the mean.
      b2: Adam's decay of the square.
      scan_batch_size: candidates scored at a time, keeping only scalars; None: all at once.
      archive_size: number of best candidates kept.

    References:
      Salimans et al., Evolution Strategies as a Scalable Alternative to Reinforcement Learning,
      arXiv 1703.03864.
    """
    if population < 2 or population % 2:
        raise ValueError(f"population is {population}; mirrored sampling needs 2, 4, 6, ...")
    transform = optax.adam(learning_rate, b1=b1, b2=b2)

    def propose(key: Array, centers: Array, opt_state: optax.OptState, valid: Array) -> Proposal:
        half = noise_per_start(key, centers, population // 2)
        noise = jnp.concatenate([half, -half], axis=1)
        points = centers[:, None] + scale * noise
        return _populations(centers, points, valid, (centers, noise, opt_state, valid))

    def ask(key: Array, starts: Array, start_mask: Array) -> Proposal:
        return propose(key, starts, transform.init(starts), start_mask)

    def tell(key: Array, proposal: Proposal, evaluated: Evaluated, info: Any) -> Proposal:
        centers, noise, opt_state, valid = proposal.memory
        scores = rearrange(evaluated.scores, "(s p) -> s p", s=len(centers))[:, 1:]
        below = (scores[:, None] < scores[..., None]).sum(-1)
        equal = (scores[:, None] == scores[..., None]).sum(-1) - 1
        ranks = (below + 0.5 * equal) / (population - 1) - 0.5
        gradient = (ranks[..., None] * noise).mean(1) / scale
        move, opt_state = transform.update(-gradient, opt_state)
        return propose(key, optax.apply_updates(centers, move), opt_state, valid)

    return ask_tell(in_chunks(score_fn, scan_batch_size), ask, tell, archive_size=archive_size)
