"""Search methods over latents, each a `Search` (see `search.py`): ascent, sampling, evolution.

`local_search`, `cem` and `evolution_strategy` run one independent search per start point, whose
noise comes from `fold_in(key, index of the start point)`: padding start points at the end change
nothing. Numbers a sweep may vary (learning rates, scales) may be traced; counts are Python numbers.

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, arXiv 2411.08706, sec. 4 and table 11.
  Official code: clement-bonnet/lpn (src/models/lpn.py).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax import Array, lax
from jax.typing import ArrayLike

from jaxtta.lpn.search import Proposal, ScoreFn, Search, ask_tell


def in_chunks(score_fn: ScoreFn, size: int | None = None) -> ScoreFn:
    """Scores `size` latents at a time (the remainder last; None: all at once), as constants.

    Only scalars outlive a chunk, so memory grows with `size` and not with the number of latents.
    """
    if size is not None and size < 1:
        raise ValueError(f"scan_batch_size is {size}; use a positive number or None.")

    def score(latents):
        return jax.tree.map(lax.stop_gradient, score_fn(latents))

    def chunked(latents):
        latents = lax.stop_gradient(latents)
        full = len(latents) // size * size if size else 0
        if full == 0:
            return score(latents)
        chunks = rearrange(latents[:full], "(n size) h -> n size h", size=size)
        scored = jax.tree.map(lambda x: rearrange(x, "n size -> (n size)"), lax.map(score, chunks))
        if full < len(latents):
            rest = score(latents[full:])
            scored = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), scored, rest)
        return scored

    return chunked


def gradient_ascent(
    score_fn: ScoreFn,
    learning_rate: ArrayLike,
    *,
    optimizer: Literal["sgd", "adam"] = "sgd",
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 1e-8,
    lr_schedule: bool = False,
    lr_schedule_exponent: float = 0.5,
    num_steps: int | None = None,
    clip_norm: ArrayLike | None = 1.0,
    clip_scope: Literal["latent", "batch"] = "latent",
    axis_name: str | tuple[str, ...] | None = None,
    stop_gradient_latent_move: bool = True,
    scan_starts: bool = False,
    archive_size: int = 2,
) -> Search:
    """Gradient ascent from every start point; each iterate, the start included, is a candidate.

    z <- z + update(clip(dS/dz)), with the optimiser's state kept per start point. A step costs one
    value and gradient, with respect to latents only; the iterate's score comes with it.

    Args:
      score_fn: S, the score.
      learning_rate: may be traced. Published: 0.1 on patterns, 1.0 (with schedule) or 0.05 on ARC.
      optimizer: `sgd`, or `adam`, which every published table uses.
      b1: Adam's decay of the mean.
      b2: Adam's decay of the square; every published run uses 0.9, Optax's own default is 0.999.
      eps: Adam's epsilon outside the root.
      eps_root: Adam's epsilon inside the root, which also keeps second-order gradients finite.
      lr_schedule: learning rate times `(0.5 (1 + cos(pi t / num_steps))) ** lr_schedule_exponent`
        at step t = 0, 1, ...; results for fewer steps are then no prefix of the run.
      lr_schedule_exponent: see `lr_schedule`.
      num_steps: length of the schedule, needed by it and used for nothing else.
      clip_norm: largest gradient norm; None for no clipping.
      clip_scope: `latent` clips each start point's gradient by itself, so that no result depends on
        what else is searched. `batch` clips the joint norm over all valid start points and, with
        `axis_name`, over all problems: it only serves to reproduce the official code, whose results
        depend on the batch. A problem that an early exit has frozen still counts in the joint norm.
      axis_name: axis (or axes) over which `clip_scope="batch"` sums, for example `"tasks"` under
        `jax.vmap(..., axis_name="tasks")`.
      stop_gradient_latent_move: treat the move z' - z as a constant, so that gradients pass
        straight through to the start. False differentiates through the ascent (second order).
      scan_starts: one start point at a time instead of all at once; same result, less memory.
      archive_size: number of best candidates kept.

    Raises:
      ValueError: unknown optimiser or scope, schedule without `num_steps`, axis without batch
        scope.
    """
    if optimizer not in ("sgd", "adam"):
        raise ValueError(f"optimizer is {optimizer!r}; use 'sgd' or 'adam'.")
    if clip_scope not in ("latent", "batch"):
        raise ValueError(f"clip_scope is {clip_scope!r}; use 'latent' or 'batch'.")
    if axis_name is not None and clip_scope != "batch":
        raise ValueError(f"axis_name={axis_name!r} needs clip_scope='batch'; nothing else uses it.")
    rate: Any = learning_rate
    if lr_schedule:
        if num_steps is None:
            raise ValueError("lr_schedule needs num_steps, the number of steps it decays over.")
        rate = optax.cosine_decay_schedule(rate, max(num_steps, 1), exponent=lr_schedule_exponent)
    if optimizer == "sgd":
        transform = optax.sgd(rate)
    else:
        transform = optax.adam(rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    stop = lax.stop_gradient if stop_gradient_latent_move else (lambda x: x)

    def evaluate_all(latents):
        def total(latents):
            scored = score_fn(latents)
            return scored.score.sum(), jax.tree.map(lax.stop_gradient, scored)

        (_, scored), gradient = jax.value_and_grad(total, has_aux=True)(latents)
        return scored, stop(gradient)

    def evaluate(latents):
        latents = stop(latents)
        if not scan_starts:
            return evaluate_all(latents)
        return jax.tree.map(
            lambda x: x.squeeze(1), lax.map(lambda z: evaluate_all(z[None]), latents)
        )

    def clip(gradient):
        if clip_norm is None:
            return gradient
        squares = jnp.square(gradient).sum(-1, keepdims=True)
        if clip_scope == "batch":
            squares = squares.sum(0, keepdims=True)
            squares = squares if axis_name is None else lax.psum(squares, axis_name)
        small = squares < jnp.square(clip_norm)
        # The root's argument is kept away from 0, where its derivative is infinite.
        clipped = gradient / jnp.sqrt(jnp.where(small, 1.0, squares)) * clip_norm
        return jnp.where(small, gradient, clipped)

    def ask(key, starts, start_mask):
        return Proposal(starts, start_mask, transform.init(starts))

    def tell(key, proposal, evaluated, gradient):
        gradient = clip(jnp.where(proposal.valid[:, None], gradient, 0.0))
        move, opt_state = transform.update(-gradient, proposal.memory)
        latents = optax.apply_updates(proposal.latents, stop(move))
        return Proposal(latents, proposal.valid, opt_state)

    return ask_tell(
        in_chunks(score_fn, 1 if scan_starts else None),
        ask,
        tell,
        evaluate=evaluate,
        archive_size=archive_size,
    )


def sampling(
    score_fn: ScoreFn,
    draw: Callable[[Array, Array, Array], Array],
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

    def propose(key, first, starts, start_mask):
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
    to `num_samples`. `run(..., num_steps=0)` is the published method (its `num_samples` 25 or 250,
    `scale` 0.5) or, with `num_samples=0`, the start points alone; every further step draws again.

    Args:
      score_fn: the score.
      num_samples: points drawn per round, besides the start points.
      scale: standard deviation of the points around their start, in latent units.
      scan_batch_size: candidates scored at a time, keeping only scalars; None: all at once.
      archive_size: number of best candidates kept.
    """

    def draw(key, starts, start_mask):
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


def _populations(centers: Array, points: Array, valid: Array, memory) -> Proposal:
    """Proposes each center `[S, H]` followed by its points `[S, population, H]`."""
    latents = jnp.concatenate([centers[:, None], points], axis=1)
    count = latents.shape[1]
    return Proposal(rearrange(latents, "s p h -> (s p) h"), jnp.repeat(valid, count), memory)


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

    def draw(key, starts, start_mask):
        samples = mean[:, None] + deviation[:, None] * noise_per_start(key, mean, num_samples)
        return jnp.where(mask[:, None, None], samples, 0.0).sum(0) / count

    return sampling(
        score_fn, draw, num_samples, scan_batch_size=scan_batch_size, archive_size=archive_size
    )


def local_search(score_fn: ScoreFn, *, scale: ArrayLike, archive_size: int = 2) -> Search:
    """Gaussian mutation, kept if it scores better: one chain per start point.

    Args:
      score_fn: the score.
      scale: standard deviation of a mutation, in latent units.
      archive_size: number of best candidates kept.
    """

    def ask(key, starts, start_mask):
        return Proposal(starts, start_mask, (starts, jnp.full_like(starts[:, 0], -jnp.inf)))

    def tell(key, proposal, evaluated, info):
        current, score = proposal.memory
        better = evaluated.scores > score
        current = jnp.where(better[:, None], evaluated.latents, current)
        score = jnp.where(better, evaluated.scores, score)
        mutated = current + scale * noise_per_start(key, current)
        return Proposal(mutated, proposal.valid, (current, score))

    return ask_tell(in_chunks(score_fn), ask, tell, archive_size=archive_size)


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

    def propose(key, mean, deviation, valid):
        points = mean[:, None] + deviation[:, None] * noise_per_start(key, mean, population)
        return _populations(mean, points, valid, (mean, deviation, valid))

    def ask(key, starts, start_mask):
        return propose(key, starts, jnp.full_like(starts, scale), start_mask)

    def tell(key, proposal, evaluated, info):
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

    def propose(key, centers, opt_state, valid):
        half = noise_per_start(key, centers, population // 2)
        noise = jnp.concatenate([half, -half], axis=1)
        points = centers[:, None] + scale * noise
        return _populations(centers, points, valid, (centers, noise, opt_state, valid))

    def ask(key, starts, start_mask):
        return propose(key, starts, transform.init(starts), start_mask)

    def tell(key, proposal, evaluated, info):
        centers, noise, opt_state, valid = proposal.memory
        scores = rearrange(evaluated.scores, "(s p) -> s p", s=len(centers))[:, 1:]
        below = (scores[:, None] < scores[..., None]).sum(-1)
        equal = (scores[:, None] == scores[..., None]).sum(-1) - 1
        ranks = (below + 0.5 * equal) / (population - 1) - 0.5
        gradient = (ranks[..., None] * noise).mean(1) / scale
        move, opt_state = transform.update(-gradient, opt_state)
        return propose(key, optax.apply_updates(centers, move), opt_state, valid)

    return ask_tell(in_chunks(score_fn, scan_batch_size), ask, tell, archive_size=archive_size)
