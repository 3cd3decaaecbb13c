"""Solving tasks: encode the demonstrations, search a latent program, execute it on new inputs.

`find` is for one task (callers `vmap`); `execute` and `solve` are for batches of tasks, because
generation advances a whole batch together. A task's result depends on its own key and
demonstrations only.
"""

import dataclasses
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax import Array

from jaxtta.lpn.generation import generate
from jaxtta.lpn.grids import Grid, Pairs
from jaxtta.lpn.loss import pair_noise, sample_latents, scorer
from jaxtta.lpn.model import LPN, Params, Posterior
from jaxtta.lpn.search import (
    ScoreFn,
    Search,
    SearchResult,
    product_of_experts,
    run,
    start_points,
)


class MakeSearch(Protocol):
    """Builds a search for one task, e.g. `partial(gradient_ascent, learning_rate=0.1)`."""

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
      latent_source: `sample` one latent per demonstration (paper and official code) or take its
        `mean`.
      aggregate: what the start latent is made of: `mean` of the latents, `first` demonstration
        only, or `product_of_experts` of the posteriors.
      no_encoder: start from N(0, I) draws instead of the encoder (the paper's ablation).
      include_mean_latent: start from the aggregate.
      include_all_latents: also start from every demonstration's latent.
      random_perturbation: `(num, scale)`, further starts around the aggregate.
      score: `mean_cells` (official code) or `sum_cells`.
      scan_pairs: score demonstrations one after another (less memory, same numbers).
      early_exit: stop a task once its best latent reproduces every demonstration.
      patience: with `early_exit`, stop after so many rounds without a better score; None for never.
      attempts: second attempt: `second_best` latent of all candidates (official code; usually gives
        the same grid again), `distinct_output` (best latent whose grid differs, among
        `num_candidates`), or `other_start` (best candidate that began at another start point).
      num_candidates: latents kept by the search, 2 or more.
    """

    make_search: MakeSearch
    num_steps: int = 0
    uses_posterior: bool = False
    latent_source: Literal["sample", "mean"] = "sample"
    aggregate: Literal["mean", "first", "product_of_experts"] = "mean"
    no_encoder: bool = False
    include_mean_latent: bool = True
    include_all_latents: bool = False
    random_perturbation: tuple[int, float] | None = None
    score: Literal["mean_cells", "sum_cells"] = "mean_cells"
    scan_pairs: bool = False
    early_exit: bool = False
    patience: int | None = None
    attempts: Literal["second_best", "distinct_output", "other_start"] = "second_best"
    num_candidates: int = 2

    def __post_init__(self):
        choices = {
            "latent_source": ("sample", "mean"),
            "aggregate": ("mean", "first", "product_of_experts"),
            "score": ("mean_cells", "sum_cells"),
            "attempts": ("second_best", "distinct_output", "other_start"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}."
                )
        if self.no_encoder and self.aggregate == "product_of_experts":
            raise ValueError(
                "aggregate=product_of_experts uses the encoder, which no_encoder=True leaves out."
            )
        unused = not self.include_mean_latent and self.random_perturbation is None
        if self.aggregate != "mean" and unused:
            raise ValueError(
                f"aggregate={self.aggregate} has no effect without include_mean_latent=True or a "
                "random_perturbation; turn one on."
            )
        if self.num_steps < 0:
            raise ValueError(f"num_steps is {self.num_steps}; use 0 or more.")
        if self.num_candidates < 2:
            raise ValueError(f"num_candidates is {self.num_candidates}; keep at least 2.")


def find(
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
      latents: encoder samples of `demos`, `[N, H]`, to use instead of drawing them.

    Returns:
      Trajectory and best latents, see `SearchResult`.
    """
    key_sample, key_noise, key_start, key_search = jax.random.split(key, 4)
    if posterior is None:
        posterior = lpn.encode(params, demos)
    if method.no_encoder:
        latents = pair_noise(key_noise, posterior.mean.shape)
    elif method.latent_source == "mean":
        latents = posterior.mean
    elif latents is None:
        latents = sample_latents(posterior, key_sample)

    if posterior.logvar is None and (
        method.uses_posterior or method.aggregate == "product_of_experts"
    ):
        raise ValueError(
            "uses_posterior and aggregate=product_of_experts need a variational encoder, but the "
            "model was built with variational=False."
        )

    aggregate = None
    if method.aggregate == "first":
        aggregate = latents[jnp.argmax(demos.mask)]
    elif method.aggregate == "product_of_experts" and posterior.logvar is not None:
        aggregate, _ = product_of_experts(posterior.mean, posterior.logvar, demos.mask)
    starts, mask = start_points(
        latents,
        demos.mask,
        key_start,
        include_mean_latent=method.include_mean_latent,
        include_all_latents=method.include_all_latents,
        random_perturbation=method.random_perturbation,
        mean_latent=aggregate,
    )
    score_fn = scorer(lpn, params, demos, score=method.score, scan_pairs=method.scan_pairs)
    extra = dict(posterior._asdict(), mask=demos.mask) if method.uses_posterior else {}
    search = method.make_search(score_fn, archive_size=method.num_candidates, **extra)
    return run(
        search,
        key_search,
        starts,
        method.num_steps,
        start_mask=mask,
        early_exit=method.early_exit,
        patience=method.patience,
    )


def execute(lpn: LPN, params: Params, contexts: Array, inputs: Grid) -> Grid:
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


def solve(
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
    result = jax.vmap(lambda key, pairs: find(lpn, params, key, pairs, method), axis_name="tasks")(
        keys, demos
    )
    latents, scores = result.best_latents[:, :2], result.best_scores[:, :2]
    if method.attempts == "other_start":
        latents, scores = jax.vmap(_other_start)(result)
    if method.attempts == "distinct_output":
        attempts = _first_two_different(execute(lpn, params, result.best_latents, inputs))
    else:
        attempts = execute(lpn, params, latents, inputs)
    best_so_far = jax.lax.cummax(result.scores.max(-1), axis=1)
    trail, trail_scores = jax.vmap(_trail)(result)
    distance = jnp.linalg.norm(latents[:, 0] - result.latents[:, 0, 0], axis=-1)
    return Solution(
        attempts,
        latents,
        scores,
        result.steps_used,
        result.exact,
        best_so_far,
        trail,
        trail_scores,
        distance,
    )


def _trail(result: SearchResult) -> tuple[Array, Array]:
    """The column of the trajectory that holds its best candidate."""
    column = jnp.argmax(result.scores.max(0))
    return result.latents[:, column], result.scores[:, column]


def _other_start(result: SearchResult) -> tuple[Array, Array]:
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


def _first_two_different(grids: Grid) -> Grid:
    """From ranked grids `[B, Q, K]` the best and the next one that differs: `[B, Q, 2]`."""
    same = (grids.shape == grids.shape[:, :, :1]).all(-1)
    same &= (grids.cells == grids.cells[:, :, :1]).all(-1)
    # The second best when all are equal.
    second = jnp.where(same.all(-1), 1, jnp.argmin(same, axis=-1))
    pick = jnp.stack([jnp.zeros_like(second), second], axis=-1)
    return jax.tree.map(lambda x: jnp.take_along_axis(x, pick[..., None], axis=2), grids)
