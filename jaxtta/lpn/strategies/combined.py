"""Searches made of searches: one after another (`hybrid`), and again and again (`restarts`)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxtta.lpn.search import Evaluated, Search, SearchState, merge, search_from, take
from jaxtta.lpn.strategies.sampling import noise_per_start

_Both = tuple[SearchState, SearchState]


def hybrid(first: Search, second: Search, switch_step: int, *, num_starts: int = 1) -> Search:
    """`switch_step` steps of `first`, then `second` from the best candidates found.

    Rows 0 to switch_step - 1 are candidates of `first`, later rows those of `second`, whose first
    row scores its start points again. The last proposal of `first` is dropped.

    Args:
      first: for example `evolution_strategy`.
      second: for example `gradient_ascent`.
      switch_step: steps of `first`, at least 1.
      num_starts: best candidates handed over, at most the archive size of `first`.

    Note:
      Inside a vmapped early-exit loop both halves are computed at every step and one is selected.
    """
    if switch_step < 1:
        raise ValueError(f"switch_step is {switch_step}; give the first search at least 1 step.")

    def width(search: Search, state: SearchState) -> int:
        return jax.eval_shape(search.finish, state)[1].scores.shape[0]

    def widen(evaluated: Evaluated, size: int) -> Evaluated:
        """Fills up to `size` rows with candidates that were not scored."""
        extra = jax.tree.map(lambda x: jnp.repeat(x[:1], size - len(x), axis=0), evaluated)
        extra = extra._replace(
            scores=jnp.full_like(extra.scores, -jnp.inf), exact=jnp.zeros_like(extra.exact)
        )
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), evaluated, extra)

    def hand_over(key: Array, archive: Evaluated) -> SearchState:
        latents, _ = take(archive, num_starts)
        return second.init(key, latents, archive.scores[:num_starts] > -jnp.inf)

    def begin(key: Array, starts: Array, start_mask: Array) -> SearchState:
        key_first, key_second = jax.random.split(jax.random.fold_in(key, 0))
        one = first.init(key_first, starts, start_mask)
        two = hand_over(key_second, one.archive)
        return SearchState(one.archive, (one, two), key, jnp.zeros_like(one.step))

    def step(state: SearchState) -> tuple[SearchState, Evaluated]:
        size = max(width(first, state.memory[0]), width(second, state.memory[1]))

        def run_first(one: SearchState, two: SearchState) -> tuple[_Both, Evaluated]:
            one, new = first.step(one)
            return (one, hand_over(two.key, one.archive)), widen(new, size)

        def run_second(one: SearchState, two: SearchState) -> tuple[_Both, Evaluated]:
            two, new = second.step(two)
            return (one, two), widen(new, size)

        memory, new = lax.cond(state.step < switch_step, run_first, run_second, *state.memory)
        return SearchState(merge(state.archive, new), memory, state.key, state.step + 1), new

    def finish(state: SearchState) -> tuple[Evaluated, Evaluated]:
        size = max(width(first, state.memory[0]), width(second, state.memory[1]))
        new = lax.cond(
            state.step < switch_step,
            lambda one, two: widen(first.finish(one)[1], size),
            lambda one, two: widen(second.finish(two)[1], size),
            *state.memory,
        )
        return merge(state.archive, new), new

    return search_from(begin, step, finish)


class RestartMemory(NamedTuple):
    """Memory of `restarts`.

    Attributes:
      inner: state of the search being restarted.
      starts: the original start points, `[S, H]`.
      start_mask: `[S]`.
      age: steps of this round, `[]`, int32.
      stalled: steps since this round's best score improved, `[]`, int32.
    """

    inner: SearchState
    starts: Array
    start_mask: Array
    age: Array
    stalled: Array


def restarts(
    search: Search, every: int, *, scale: ArrayLike, patience: int | None = None
) -> Search:
    """Starts `search` again from start points moved by scale * N(0, I), keeping the best of all.

    The first round starts at the start points themselves. A round scores at most `every` proposals;
    what it proposed last is dropped.

    Args:
      search: any search.
      every: steps per round.
      scale: standard deviation of the noise on the start points, in latent units.
      patience: also end a round after this many steps without a better score in it. To stop the
        whole search instead, use `run_search(..., early_exit=True, patience=...)`.
    """
    if every < 1 or (patience is not None and patience < 1):
        raise ValueError(f"every={every} and patience={patience} must be at least 1 step.")

    def begin(key: Array, starts: Array, start_mask: Array) -> SearchState:
        inner = search.init(jax.random.fold_in(key, 0), starts, start_mask)
        zero = jnp.zeros_like(inner.step)
        memory = RestartMemory(inner, starts, start_mask, zero, zero)
        return SearchState(inner.archive, memory, key, zero)

    def step(state: SearchState) -> tuple[SearchState, Evaluated]:
        memory, count = state.memory, state.step + 1
        before = memory.inner.archive.scores[0]
        inner, new = search.step(memory.inner)
        age = memory.age + 1
        stalled = jnp.where(inner.archive.scores[0] > before, 0, memory.stalled + 1)
        again = (age >= every) if patience is None else (age >= every) | (stalled >= patience)

        def again_from(inner: SearchState) -> tuple[SearchState, Array, Array]:
            key_noise, key_inner = jax.random.split(jax.random.fold_in(state.key, count))
            starts = memory.starts + scale * noise_per_start(key_noise, memory.starts)
            inner = search.init(key_inner, starts, memory.start_mask)
            return inner, jnp.zeros_like(age), jnp.zeros_like(stalled)

        inner, age, stalled = lax.cond(
            again, again_from, lambda inner: (inner, age, stalled), inner
        )
        memory = RestartMemory(inner, memory.starts, memory.start_mask, age, stalled)
        return SearchState(merge(state.archive, new), memory, state.key, count), new

    def finish(state: SearchState) -> tuple[Evaluated, Evaluated]:
        new = search.finish(state.memory.inner)[1]
        return merge(state.archive, new), new

    return search_from(begin, step, finish)
