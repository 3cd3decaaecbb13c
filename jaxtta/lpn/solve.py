"""Solving tasks: encode the demonstrations, search a latent program, execute it on new inputs.

`search_task` is for one task (callers `vmap`); `execute_tasks` and `solve_tasks` are for batches of
tasks, because generation advances a whole batch together. A task's result depends on its own key
and demonstrations only.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax import Array

from jaxtta.lpn.encoder import Posterior
from jaxtta.lpn.generation import generate
from jaxtta.lpn.grids import Grid, Pairs
from jaxtta.lpn.likelihood import CellsFn, mean_cells, scorer
from jaxtta.lpn.model import LPN, Params
from jaxtta.lpn.search import ScoreFn, Search, SearchResult, run_search
from jaxtta.lpn.starts import (
    AT_THE_MEAN,
    LatentsFn,
    Starts,
    pair_noise,
    sample_latents,
    start_points,
)


class Attempts(NamedTuple):
    """Two attempts per test input and the latents they are of.

    Attributes:
      grids: `[B, Q, 2]`.
      latents: best first, `[B, 2, H]`.
      scores: on the demonstrations, `[B, 2]`.
      grid_scores: of the latents that made the grids, `[B, Q, 2]`.
    """

    grids: Grid
    latents: Array
    scores: Array
    grid_scores: Array


ExecuteFn = Callable[[Array], Grid]  # latents [B, K, H] -> their grids [B, Q, K]
AttemptsFn = Callable[[SearchResult, ExecuteFn], Attempts]  # from results of a batch of tasks


def second_best(result: SearchResult, execute: ExecuteFn) -> Attempts:
    """The two best latents of all candidates (official code); usually the same grid twice."""
    return _executed(result.best_latents[:, :2], result.best_scores[:, :2], execute)


def other_start(result: SearchResult, execute: ExecuteFn) -> Attempts:
    """The best latent, and the best one that began at another start point."""
    return _executed(*jax.vmap(_best_of_two_columns)(result), execute)


def _executed(latents: Array, scores: Array, execute: ExecuteFn) -> Attempts:
    grids = execute(latents)
    of_grids = jnp.broadcast_to(scores[:, None], grids.shape.shape[:-1])
    return Attempts(grids, latents, scores, of_grids)


def distinct_output(result: SearchResult, execute: ExecuteFn) -> Attempts:
    """The best latent's grid, and that of the best latent whose grid differs.

    Candidates are all latents that the search kept and, where their grids agree, those it passed on
    its way to the best: the start, and what it had after 1, 2, 4, 8, ... steps. If no grid differs,
    the first is given twice. Latents and scores are those of `second_best`.
    """
    kept, passed = (result.best_latents, result.best_scores), jax.vmap(_passed)(result)
    latents, scores = (jnp.concatenate(both, axis=1) for both in zip(kept, passed, strict=True))
    grids = execute(latents)
    pick = _first_two_different(grids, scores > -jnp.inf)
    return Attempts(
        jax.tree.map(lambda x: jnp.take_along_axis(x, pick[..., None], axis=2), grids),
        result.best_latents[:, :2],
        result.best_scores[:, :2],
        jnp.take_along_axis(scores[:, None], pick, axis=2),
    )


class MakeSearch(Protocol):
    """Builds a search for one task, e.g. `partial(gradient_ascent, optimizer=ascent_adam(0.1))`."""

    def __call__(self, score_fn: ScoreFn, *, archive_size: int, **posterior: Array) -> Search: ...


@dataclasses.dataclass(frozen=True)
class Method:
    """How a latent program is found and how attempts are chosen.

    Attributes:
      make_search: the search. With `num_steps=0`, gradient ascent and local search only score their
        start points, so that is how to ask for the plain mean latent.
      num_steps: search steps.
      uses_posterior: `make_search` also takes `mean`, `logvar` and `mask` of the demonstrations, as
        `encoder_sampling` does.
      latents: one latent per demonstration: `sample_latents` (paper and official code) or
        `posterior_mean`.
      no_encoder: N(0, I) draws in their place (the paper's ablation).
      starts: which points the search starts from, made of these latents.
      cells: what the cells of a demonstration add to the score: `mean_cells` (official code) or
        `sum_cells`.
      scan_pairs: score demonstrations one after another (less memory, same numbers).
      early_exit: stop a task once its best latent reproduces every demonstration.
      patience: with `early_exit`, stop after so many rounds without a better score; None for never.
      attempts: `second_best` (official code), `distinct_output` or `other_start`.
      num_candidates: latents kept by the search, 2 or more.
    """

    make_search: MakeSearch
    num_steps: int = 0
    uses_posterior: bool = False
    latents: LatentsFn = sample_latents
    no_encoder: bool = False
    starts: Starts = AT_THE_MEAN
    cells: CellsFn = mean_cells
    scan_pairs: bool = False
    early_exit: bool = False
    patience: int | None = None
    attempts: AttemptsFn = second_best
    num_candidates: int = 2

    def __post_init__(self) -> None:
        if self.num_steps < 0:
            raise ValueError(f"num_steps is {self.num_steps}; use 0 or more.")
        if self.num_candidates < 2:
            raise ValueError(f"num_candidates is {self.num_candidates}; keep at least 2.")


def search_task(
    lpn: LPN,
    params: Params,
    key: Array,
    demos: Pairs,
    method: Method,
    *,
    posterior: Posterior | None = None,
    latents: Array | None = None,
) -> SearchResult:
    """Searches the latent program of one task.

    Args:
      lpn: model.
      params: parameters.
      key: of this task.
      demos: demonstrations, `[N]`; padding pairs (mask False) change nothing.
      method: how to search.
      posterior: encoder output of `demos`, `[N, H]`, when it is known already.
      latents: one latent per demonstration, `[N, H]`, in place of `method.latents`.

    Returns:
      Trajectory and best latents, see `SearchResult`.
    """
    key_sample, key_noise, key_start, key_search = jax.random.split(key, 4)
    if posterior is None:
        posterior = lpn.encode(params, demos)
    if method.uses_posterior and posterior.logvar is None:
        raise ValueError(
            "uses_posterior needs a variational encoder, but the model was built with "
            "variational=False."
        )
    extra = dict(posterior._asdict(), mask=demos.mask) if method.uses_posterior else {}
    if method.no_encoder:
        latents = pair_noise(key_noise, posterior.mean.shape)
        posterior = Posterior(latents, None)
    elif latents is None:
        latents = method.latents(posterior, key_sample)
    points, mask = start_points(
        latents, demos.mask, key_start, starts=method.starts, posterior=posterior
    )
    score_fn = scorer(lpn, params, demos, cells=method.cells, scan_pairs=method.scan_pairs)
    search = method.make_search(score_fn, archive_size=method.num_candidates, **extra)
    return run_search(
        search,
        key_search,
        points,
        method.num_steps,
        start_mask=mask,
        early_exit=method.early_exit,
        patience=method.patience,
    )


def execute_tasks(lpn: LPN, params: Params, contexts: Array, inputs: Grid) -> Grid:
    """Runs K latent programs `[B, K, H]` of each task on Q inputs `[B, Q]`: grids `[B, Q, K]`."""
    q, k = inputs.shape.shape[1], contexts.shape[1]
    grids = generate(
        lpn,
        params,
        repeat(contexts, "b k h -> (b q k) h", q=q),
        jax.tree.map(lambda x: repeat(x, "b q x -> (b q k) x", k=k), inputs),
    )
    return jax.tree.map(lambda x: rearrange(x, "(b q k) x -> b q k x", q=q, k=k), grids)


class Solution(NamedTuple):
    """Two attempts per test input.

    Attributes:
      attempts: grids, `[B, Q, 2]`.
      latents: the two best latents, `[B, 2, H]`.
      scores: their scores on the demonstrations, `[B, 2]`.
      steps_used: search steps until the task was done, `[B]`, int32.
      exact: the best latent reproduces every demonstration, `[B]`, bool.
      trajectory: best score after every step, `[B, K + 1]`.
      trail: what the best candidate's place in the proposals held at every step, which for gradient
        ascent are the iterates of one start point, `[B, K + 1, H]`.
      trail_scores: scores of the trail, minus infinity where nothing was scored, `[B, K + 1]`.
      distance: of the best latent from the first start point, in latent units, `[B]`.
      attempt_scores: scores of the latents that made the attempts, `[B, Q, 2]`.
    """

    attempts: Grid
    latents: Array
    scores: Array
    steps_used: Array
    exact: Array
    trajectory: Array
    trail: Array
    trail_scores: Array
    distance: Array
    attempt_scores: Array


def solve_tasks(
    lpn: LPN, params: Params, keys: Array, demos: Pairs, inputs: Grid, method: Method
) -> Solution:
    """Predicts the outputs of test inputs, two attempts each.

    Args:
      lpn: model.
      params: parameters.
      keys: one key per task, `[B]`.
      demos: demonstrations, `[B, N]`.
      inputs: test inputs, `[B, Q]`.
      method: how to search and choose attempts.
    """
    one_task = lambda key, pairs: search_task(lpn, params, key, pairs, method)
    result = jax.vmap(one_task, axis_name="tasks")(keys, demos)
    chosen = method.attempts(result, lambda z: execute_tasks(lpn, params, z, inputs))
    trail, trail_scores = jax.vmap(_trail)(result)
    return Solution(
        attempts=chosen.grids,
        latents=chosen.latents,
        scores=chosen.scores,
        steps_used=result.steps_used,
        exact=result.exact,
        trajectory=jax.lax.cummax(result.scores.max(-1), axis=1),
        trail=trail,
        trail_scores=trail_scores,
        distance=jnp.linalg.norm(chosen.latents[:, 0] - result.latents[:, 0, 0], axis=-1),
        attempt_scores=chosen.grid_scores,
    )


def _trail(result: SearchResult) -> tuple[Array, Array]:
    """The column of the trajectory that holds its best candidate."""
    column = jnp.argmax(result.scores.max(0))
    return result.latents[:, column], result.scores[:, column]


def _best_of_two_columns(result: SearchResult) -> tuple[Array, Array]:
    """Best candidate, and the best one of any other column of the trajectory (the same if none)."""
    scores = result.scores
    column = jnp.unravel_index(jnp.argmax(scores), scores.shape)[1]
    others = jnp.where(jnp.arange(scores.shape[1]) == column, -jnp.inf, scores)
    row, col = jnp.unravel_index(jnp.argmax(others), scores.shape)
    exists = others[row, col] > -jnp.inf
    second = jnp.where(exists, result.latents[row, col], result.best_latents[0])
    score = jnp.where(exists, others[row, col], result.best_scores[0])
    return (
        jnp.stack([result.best_latents[0], second]),
        jnp.stack([result.best_scores[0], score]),
    )


def _passed(result: SearchResult) -> tuple[Array, Array]:
    """The best candidate's column at the start and after 1, 2, 4, ... steps, best score first."""
    latents, scores = _trail(result)
    rows = jnp.array([0, *(2**i for i in range((len(scores) - 1).bit_length()))])
    rows = rows[jnp.argsort(-scores[rows])]
    return latents[rows], scores[rows]


def _first_two_different(grids: Grid, valid: Array) -> Array:
    """Places of the best of ranked grids `[B, Q, K]` and of the next valid one that differs, the
    best again if none does: `[B, Q, 2]`; `valid` is `[B, K]`."""
    same = (grids.shape == grids.shape[:, :, :1]).all(-1)
    same &= (grids.cells == grids.cells[:, :, :1]).all(-1)
    second = jnp.argmin(same | ~valid[:, None], axis=-1)
    return jnp.stack([jnp.zeros_like(second), second], axis=-1)
