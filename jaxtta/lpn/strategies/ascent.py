"""Gradient ascent on the score, the search of the paper.

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, arXiv 2411.08706, sec. 4.
  Official code: clement-bonnet/lpn (src/models/lpn.py).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.typing import ArrayLike

from jaxtrain.parallel import AxisName
from jaxtta.lpn.search import (
    Evaluated,
    Proposal,
    Scored,
    ScoreFn,
    Search,
    ask_tell,
    in_chunks,
)

ClipFn = Callable[[Array, ArrayLike], Array]  # (gradient [S, H], largest norm) -> [S, H]


def clip_each(gradient: Array, max_norm: ArrayLike) -> Array:
    """Clips each start point's gradient by itself: no result depends on what else is searched."""
    return _shrink(gradient, jnp.square(gradient).sum(-1, keepdims=True), max_norm)


def clip_jointly(
    gradient: Array, max_norm: ArrayLike, *, axis_name: AxisName | None = None
) -> Array:
    """Clips the joint norm over all valid start points, and over all problems of a mapped axis.

    It only serves to reproduce the official code, whose results depend on the batch. A problem that
    an early exit has frozen still counts in the joint norm.

    Args:
      gradient: of one problem's start points, `[S, H]`; zero for those that are padding.
      max_norm: largest norm.
      axis_name: axis (or axes) of the problems, for example `"tasks"` under
        `jax.vmap(..., axis_name="tasks")`; None for this problem alone.
    """
    squares = jnp.square(gradient).sum(-1, keepdims=True).sum(0, keepdims=True)
    if axis_name is not None:
        squares = lax.psum(squares, axis_name)
    return _shrink(gradient, squares, max_norm)


def _shrink(gradient: Array, squares: Array, max_norm: ArrayLike) -> Array:
    """Scales to `max_norm` where the squared norm is larger."""
    small = squares < jnp.square(max_norm)
    # The root's argument is kept away from 0, where its derivative is infinite.
    clipped = gradient / jnp.sqrt(jnp.where(small, 1.0, squares)) * max_norm
    return jnp.where(small, gradient, clipped)


def ascent_adam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 1e-8,
) -> optax.GradientTransformation:
    """Adam as every published table of the paper uses it.

    Args:
      learning_rate: published 0.1 on patterns; on ARC 0.05, or 1.0 with the schedule
        `optax.cosine_decay_schedule(1.0, num_steps, exponent=0.5)`. May be traced.
      b1: decay of the mean.
      b2: decay of the square; Optax's own default is 0.999.
      eps: epsilon outside the root.
      eps_root: epsilon inside the root, which also keeps second-order gradients finite.
    """
    return optax.adam(learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root)


def gradient_ascent(
    score_fn: ScoreFn,
    optimizer: optax.GradientTransformation,
    *,
    clip_norm: ArrayLike | None = 1.0,
    clip: ClipFn = clip_each,
    stop_gradient_latent_move: bool = True,
    scan_starts: bool = False,
    archive_size: int = 2,
) -> Search:
    """Gradient ascent from every start point; each iterate, the start included, is a candidate.

    z <- z + update(clip(dS/dz)). A step costs one value and gradient, with respect to latents only;
    the iterate's score comes with it.

    Args:
      score_fn: S, the score.
      optimizer: rule for the descent of -S that treats every number by itself, such as
        `ascent_adam(0.1)` or `optax.sgd(0.1)`. With a schedule as its rate, results for fewer steps
        are no prefix of the run.
      clip_norm: largest gradient norm; None for no clipping.
      clip: what the norm is taken of: `clip_each`, or `clip_jointly` as the official code does.
      stop_gradient_latent_move: treat the move z' - z as a constant, so that gradients pass
        straight through to the start. False differentiates through the ascent (second order).
      scan_starts: one start point at a time instead of all at once; same result, less memory.
      archive_size: number of best candidates kept.
    """
    stop = lax.stop_gradient if stop_gradient_latent_move else (lambda x: x)

    def evaluate_all(latents: Array) -> tuple[Scored, Array]:
        def total(latents: Array) -> tuple[Array, Scored]:
            scored = score_fn(latents)
            return scored.score.sum(), jax.tree.map(lax.stop_gradient, scored)

        (_, scored), gradient = jax.value_and_grad(total, has_aux=True)(latents)
        return scored, stop(gradient)

    def evaluate(latents: Array) -> tuple[Scored, Array]:
        latents = stop(latents)
        if not scan_starts:
            return evaluate_all(latents)
        one_by_one = lax.map(lambda z: evaluate_all(z[None]), latents)
        return jax.tree.map(lambda x: x.squeeze(1), one_by_one)

    def ask(key: Array, starts: Array, start_mask: Array) -> Proposal:
        return Proposal(starts, start_mask, optimizer.init(starts))

    def tell(key: Array, proposal: Proposal, evaluated: Evaluated, gradient: Array) -> Proposal:
        gradient = jnp.where(proposal.valid[:, None], gradient, 0.0)
        if clip_norm is not None:
            gradient = clip(gradient, clip_norm)
        move, opt_state = optimizer.update(-gradient, proposal.memory)
        latents = optax.apply_updates(proposal.latents, stop(move))
        return Proposal(latents, proposal.valid, opt_state)

    return ask_tell(
        in_chunks(score_fn, 1 if scan_starts else None),
        ask,
        tell,
        evaluate=evaluate,
        archive_size=archive_size,
    )
