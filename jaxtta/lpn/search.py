"""The engine of every search: what a method is made of, its records, and the loop that runs it.

Everything here is for one problem, unbatched; callers `vmap` over problems, so a batched search
equals searching one by one. The score is any function of latents in which each row depends on its
own latent only. The methods are in `strategies`, all of it for tasks is in `solve`.

A search *proposes* latents; its next step *scores* them and proposes others. K steps therefore
score K + 1 rounds of candidates, the start points first; the last proposal is scored by `finish`
(or `best`). An archive keeps the best candidates seen. Equal scores go to the earlier one, a latent
already in the archive does not enter it twice, and a score of NaN counts as minus infinity.

Gradients flow through latents only. Scores and the choice of the winner are constants: a loss that
wants the winner's score computes it again.

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, arXiv 2411.08706, sec. 4.
  Official code: clement-bonnet/lpn (src/models/lpn.py).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array, lax


class Scored(NamedTuple):
    """What a score function returns for latents `[S, H]`.

    Attributes:
      score: larger is better, `[S]`.
      exact: the latent reproduces every demonstration, `[S]`, bool; all False where unknown.
    """

    score: Array
    exact: Array


ScoreFn = Callable[[Array], Scored]


class Evaluated(NamedTuple):
    """Candidates with their scores; also the archive, sorted from best to worst.

    Attributes:
      latents: `[P, H]`.
      scores: `[P]`, minus infinity where nothing was scored.
      exact: `[P]`, bool.
    """

    latents: Array
    scores: Array
    exact: Array


class Proposal(NamedTuple):
    """Candidates that are not scored yet.

    Attributes:
      latents: `[P, H]`.
      valid: False for rows that are padding and must never win, `[P]`.
      memory: what the method remembers between steps, any pytree.
    """

    latents: Array
    valid: Array
    memory: Any = ()


class SearchState(NamedTuple):
    """State of every search.

    Attributes:
      archive: best candidates so far, `[archive_size, ...]`; unfilled rows score minus infinity.
      memory: a `Proposal`, or the states of the searches this one is made of.
      key: root key; the first proposal uses `fold_in(key, 0)`, that of step t `fold_in(key, t)`.
      step: number of steps taken, `[]`, int32.
    """

    archive: Evaluated
    memory: Any
    key: Array
    step: Array


class InitFn(Protocol):
    """`(key, starts [S, H], start_mask [S] | None) -> state`; masked start points never win."""

    def __call__(
        self, key: Array, starts: Array, start_mask: Array | None = None
    ) -> SearchState: ...


StepFn = Callable[[SearchState], tuple[SearchState, Evaluated]]
FinishFn = Callable[[SearchState], tuple[Evaluated, Evaluated]]
BestFn = Callable[[SearchState, int], tuple[Array, Array]]

# What `search_from` and `ask_tell` build a search from.
BeginFn = Callable[[Array, Array, Array], SearchState]
AskFn = Callable[[Array, Array, Array], Proposal]
TellFn = Callable[[Array, Proposal, Evaluated, Any], Proposal]
EvaluateFn = Callable[[Array], tuple[Scored, Any]]


class Search(NamedTuple):
    """A search method as pure functions.

    Attributes:
      init: `(key, starts [S, H], start_mask [S] | None) -> state`.
      step: `state -> (state, Evaluated)`, scores the proposal `[P, H]` and makes the next one.
      finish: `state -> (archive, Evaluated)`, scores the last proposal and makes none.
      best: `(state, k) -> (latents [k, H], scores [k])`, the last proposal included.
    """

    init: InitFn
    step: StepFn
    finish: FinishFn
    best: BestFn


def empty_archive(starts: Array, start_mask: Array, size: int) -> Evaluated:
    """An archive of `size` rows that hold the first valid start and score minus infinity."""
    if size < 1:
        raise ValueError(f"archive_size is {size}; keep at least 1 candidate.")
    scores = jnp.full_like(starts[:1, 0], -jnp.inf)
    return Evaluated(
        jnp.broadcast_to(starts[jnp.argmax(start_mask)], (size, starts.shape[-1])),
        jnp.broadcast_to(scores, (size,)),
        jnp.broadcast_to(jnp.zeros_like(scores, bool), (size,)),
    )


def merge(archive: Evaluated, new: Evaluated) -> Evaluated:
    """Best candidates of both, as many as `archive` has rows; earlier ones win ties."""
    same = (new.latents[:, None] == archive.latents[None]).all(-1)
    known = same & (archive.scores > -jnp.inf)[None]
    new = new._replace(scores=jnp.where(known.any(-1), -jnp.inf, new.scores))
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), archive, new)
    index = lax.top_k(both.scores, archive.scores.shape[0])[1]
    return jax.tree.map(lambda x: x[index], both)


def take(archive: Evaluated, k: int) -> tuple[Array, Array]:
    """The `k` best latents `[k, H]` and scores `[k]`; the best again where there are fewer."""
    size = archive.scores.shape[0]
    if not 1 <= k <= size:
        raise ValueError(
            f"the {k} best were asked for but the archive holds {size}; "
            f"ask for 1 to {size} or build the search with archive_size={k}."
        )
    missing = archive.scores[:k] == -jnp.inf
    return (
        jnp.where(missing[:, None], archive.latents[:1], archive.latents[:k]),
        jnp.where(missing, archive.scores[0], archive.scores[:k]),
    )


def search_from(begin: BeginFn, step: StepFn, finish: FinishFn) -> Search:
    """A `Search` whose `init` is `begin` with checked arguments; `best` follows from `finish`."""

    def init(key: Array, starts: Array, start_mask: Array | None = None) -> SearchState:
        if starts.ndim != 2 or not len(starts) or not jnp.issubdtype(starts.dtype, jnp.floating):
            raise ValueError(
                f"starts have shape {starts.shape} and type {starts.dtype}; give at least one "
                "start point as a floating array [S, H], and vmap over problems."
            )
        mask = jnp.ones_like(starts[:, 0], bool) if start_mask is None else start_mask
        if mask.shape != starts.shape[:1]:
            raise ValueError(f"start_mask has shape {mask.shape}; expected {starts.shape[:1]}.")
        # Folding in a zero made from the starts gives the key their mapped axes under `shard_map`.
        key = jax.random.fold_in(key, jnp.zeros_like(starts[0, 0], jnp.int32))
        return begin(key, starts, mask.astype(bool))

    return Search(init, step, finish, lambda state, k: take(finish(state)[0], k))


def ask_tell(
    score_fn: ScoreFn,
    ask: AskFn,
    tell: TellFn,
    *,
    archive_size: int,
    evaluate: EvaluateFn | None = None,
) -> Search:
    """Builds a search from its first proposal and the rule for the next one.

    Args:
      score_fn: scores a proposal's latents.
      ask: `(key, starts, start_mask) -> Proposal`.
      tell: `(key, proposal, evaluated, info) -> Proposal`.
      archive_size: number of candidates kept.
      evaluate: `latents -> (Scored, info)`, used by `step` in place of `score_fn` when `tell` needs
        more than scores.
    """

    def evaluated(proposal: Proposal, scored: Scored) -> Evaluated:
        expected = proposal.valid.shape
        if scored.score.shape != expected or scored.exact.shape != expected:
            raise ValueError(
                f"the score function gave score {scored.score.shape} and exact "
                f"{scored.exact.shape} for latents {proposal.latents.shape}; "
                f"expected {expected} for both."
            )
        score = lax.stop_gradient(scored.score).astype(proposal.latents.dtype)
        score = jnp.where(proposal.valid & ~jnp.isnan(score), score, -jnp.inf)
        return Evaluated(proposal.latents, score, scored.exact & (score > -jnp.inf))

    def begin(key: Array, starts: Array, start_mask: Array) -> SearchState:
        proposal = ask(jax.random.fold_in(key, 0), starts, start_mask)
        archive = empty_archive(starts, start_mask, archive_size)
        return SearchState(archive, proposal, key, jnp.zeros_like(starts[0, 0], jnp.int32))

    def step(state: SearchState) -> tuple[SearchState, Evaluated]:
        proposal, count = state.memory, state.step + 1
        scored, info = (evaluate or (lambda z: (score_fn(z), ())))(proposal.latents)
        new = evaluated(proposal, scored)
        proposal = tell(jax.random.fold_in(state.key, count), proposal, new, info)
        return SearchState(merge(state.archive, new), proposal, state.key, count), new

    def finish(state: SearchState) -> tuple[Evaluated, Evaluated]:
        new = evaluated(state.memory, score_fn(state.memory.latents))
        return merge(state.archive, new), new

    return search_from(begin, step, finish)


def in_chunks(score_fn: ScoreFn, size: int | None = None) -> ScoreFn:
    """Scores `size` latents at a time (the remainder last; None: all at once), as constants.

    Only scalars outlive a chunk, so memory grows with `size` and not with the number of latents.
    """
    if size is not None and size < 1:
        raise ValueError(f"scan_batch_size is {size}; use a positive number or None.")

    def score(latents: Array) -> Scored:
        return jax.tree.map(lax.stop_gradient, score_fn(latents))

    def chunked(latents: Array) -> Scored:
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


class SearchResult(NamedTuple):
    """Outcome of `run_search`, for K = `num_steps` and proposals of P candidates.

    Attributes:
      latents: all candidates in order; row 0 holds the start points, `[K + 1, P, H]`.
      scores: their scores, minus infinity where nothing was scored, `[K + 1, P]`.
      steps_used: index of the last row that was scored, `[]`, int32.
      best_latents: best candidates of all rows, `[archive_size, H]`.
      best_scores: their scores, `[archive_size]`.
      exact: the best candidate reproduces every demonstration, `[]`, bool.
    """

    latents: Array
    scores: Array
    steps_used: Array
    best_latents: Array
    best_scores: Array
    exact: Array


def run_search(
    search: Search,
    key: Array,
    starts: Array,
    num_steps: int,
    *,
    start_mask: Array | None = None,
    early_exit: bool = False,
    patience: int | None = None,
) -> SearchResult:
    """Runs `num_steps` steps and scores the last proposal.

    Args:
      search: the method.
      key: consumed.
      starts: start points, `[S, H]`.
      num_steps: K; 0 scores the start points.
      start_mask: False for start points that are padding, `[S]`; None: all valid.
      early_exit: stop once the best candidate is exact. The loop is then a `while_loop`, which
        cannot be differentiated in reverse mode. Under `vmap`, finished problems stay frozen, bit
        for bit, until the last one is done.
      patience: with `early_exit`, also stop after this many rounds without a better score.

    Raises:
      ValueError: negative `num_steps`, or `patience` without `early_exit`.
    """
    if num_steps < 0:
        raise ValueError(f"num_steps is {num_steps}; use 0 or more.")
    if patience is not None and (not early_exit or patience < 1):
        raise ValueError(f"patience={patience} needs early_exit=True and at least 1 round.")
    state = search.init(key, starts, start_mask)
    if early_exit:
        return _run_until_done(search, state, num_steps, patience)
    rows = []
    if num_steps > 0:
        state, evaluated = lax.scan(lambda s, _: search.step(s), state, length=num_steps)
        rows = [evaluated]
    archive, last = search.finish(state)
    last = jax.tree.map(lambda x: x[None], last)
    trajectory = jax.tree.map(lambda *x: jnp.concatenate(x), *rows, last)
    return _result(trajectory, archive, jnp.asarray(num_steps, jnp.int32))


_Carry = tuple[SearchState, Evaluated, Array, Array]  # state, rows, next row, stalled rounds


def _run_until_done(
    search: Search, state: SearchState, num_steps: int, patience: int | None
) -> SearchResult:
    num_candidates = jax.eval_shape(search.finish, state)[1].scores.shape[0]
    # Made from the empty archive, so that types and mapped axes are those of the search.
    rows = jax.tree.map(
        lambda x: jnp.broadcast_to(x[0], (num_steps + 1, num_candidates) + x.shape[1:]),
        state.archive,
    )
    zero = jnp.zeros_like(state.archive.scores[0], jnp.int32)

    def write(rows: Evaluated, index: Array | int, new: Evaluated) -> Evaluated:
        return jax.tree.map(lambda x, y: x.at[index].set(y), rows, new)

    def done(state: SearchState, stalled: Array) -> Array:
        stop = state.archive.exact[0]
        return stop if patience is None else stop | (stalled >= patience)

    def body(carry: _Carry) -> _Carry:
        state, rows, index, stalled = carry
        before = state.archive.scores[0]
        state, new = search.step(state)
        stalled = jnp.where(state.archive.scores[0] > before, 0, stalled + 1)
        return state, write(rows, index, new), index + 1, stalled

    state, rows, index, stalled = lax.while_loop(
        lambda carry: (carry[2] < num_steps) & ~done(carry[0], carry[3]),
        body,
        (state, rows, zero, zero),
    )
    stopped = done(state, stalled)
    archive, last = search.finish(state)
    finished = write(rows, num_steps, last)
    rows, archive = jax.tree.map(
        lambda kept, new: jnp.where(stopped, kept, new), (rows, state.archive), (finished, archive)
    )
    return _result(rows, archive, index - stopped)


def _result(trajectory: Evaluated, archive: Evaluated, steps_used: Array) -> SearchResult:
    latents, scores = take(archive, archive.scores.shape[0])
    return SearchResult(
        trajectory.latents, trajectory.scores, steps_used, latents, scores, archive.exact[0]
    )


def prefix_best(result: SearchResult, steps: Sequence[int], k: int = 2) -> tuple[Array, Array]:
    """What shorter runs would have returned, from one trajectory.

    Equals separate runs of each length, unless the search depends on its length (learning-rate
    schedule).

    Args:
      result: outcome of `run_search`, unbatched.
      steps: numbers of steps, each from 0 to the run's own.
      k: number of best candidates.

    Returns:
      Latents `[len(steps), k, H]` and scores `[len(steps), k]`.
    """
    num_steps = len(result.scores) - 1
    if bad := [n for n in steps if not 0 <= n <= num_steps]:
        raise ValueError(f"steps holds {bad}; the run has 0 to {num_steps} steps.")
    rows = Evaluated(result.latents, result.scores, jnp.zeros_like(result.scores, bool))
    empty = empty_archive(rows.latents[0], rows.scores[0] > -jnp.inf, k)

    def grow(archive: Evaluated, row: Evaluated) -> tuple[Evaluated, tuple[Array, Array]]:
        archive = merge(archive, row)
        return archive, take(archive, k)

    latents, scores = lax.scan(grow, empty, rows)[1]
    index = jnp.asarray(steps, jnp.int32)
    return latents[index], scores[index]
