"""What a task is: problems, demonstrations, mistakes, and a verdict on every response, all in JAX.

    problems = task.sample(key, 128)
    prompts = jax.vmap(task.encode)(problems)                         # Symbols [128, P]
    verdicts = jax.vmap(task.verify)(problems, tokens, valid)         # correct [128], ...

Functions but `sample` take one problem; callers `vmap`. Nothing is random but by a key.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.lm.tasks.symbols import Symbols


class Verdict(NamedTuple):
    """Judgement of one response.

    Attributes:
      correct: whether its answer is right, `[]`, bool.
      answer_id: its answer, equal for equal answers; -1 if it has none, `[]`, int32.
      step_ok: which steps are right given those before them as they are written, `[K]`, bool. A
        missing and a superfluous step are wrong.
      first_error: number of the first wrong step, -1 if there is none, `[]`, int32.
    """

    correct: Array
    answer_id: Array
    step_ok: Array
    first_error: Array


class Task(NamedTuple):
    """A family of problems.

    Attributes:
      num_steps: K, the most steps a response may have.
      sample: `(key, n) -> problems`, a pytree of arrays `[n, ...]`.
      encode: `problem -> Symbols [P]`, the prompt.
      solve: `problem -> Symbols [S]`, a right response, with its steps.
      corrupt: `(key, problem) -> (Symbols [S], step)`: a response whose first wrong step is the
        one that is named, drawn uniformly; later ones follow from it.
      verify: `(problem, tokens [S], valid [S]) -> Verdict`.
    """

    num_steps: int
    sample: Callable[[Array, int], Any]
    encode: Callable[[Any], Symbols]
    solve: Callable[[Any], Symbols]
    corrupt: Callable[[Array, Any], tuple[Symbols, Array]]
    verify: Callable[[Any, Array, Array], Verdict]


def each(sample: Callable[[Array], Any]) -> Callable[[Array, int], Any]:
    """`(key, n) -> problems` from a function that draws one."""
    return lambda key, n: jax.vmap(sample)(jax.random.split(key, n))


def below(share: Array, number: Array | int) -> Array:
    """A whole number from 0 to below `number` from a uniform one in [0, 1).

    Sampling a problem draws all its uniform numbers at once, which compiles fast.
    """
    return jnp.floor(share * number).astype(jnp.int32)


def one_error(key: Array, num_steps: Array | int) -> tuple[Array, Array]:
    """Where a mistake goes, uniform over the steps, and a uniform number for what it is."""
    place, size = jax.random.uniform(key, (2,))
    return below(place, num_steps), size


def traced(
    num_steps: int,
    sample: Callable[[Array], Any],
    encode: Callable[[Any], Symbols],
    trace: Callable[[Any, Array], Symbols],
    mistakes: int,
    verify: Callable[[Any, Array, Array], Verdict],
) -> Task:
    """A task whose responses come from one function.

    Args:
      num_steps: K.
      sample: draws one problem.
      encode: as in `Task`.
      trace: `(problem, shift [K]) -> Symbols [S]`, a response in which the result of each step is
        that much too large.
      mistakes: a mistake shifts a result by 1 up to this number.
      verify: as in `Task`.
    """

    def corrupt(key: Array, problem: Any) -> tuple[Symbols, Array]:
        place, size = one_error(key, num_steps)
        wrong = 1 + below(size, mistakes)
        return trace(problem, jnp.where(jnp.arange(num_steps) == place, wrong, 0)), place

    def solve(problem: Any) -> Symbols:
        return trace(problem, jnp.zeros(num_steps, int))

    return Task(num_steps, each(sample), encode, solve, corrupt, verify)


def judged(
    line_ok: Array,
    given: Array,
    needed: Array | int,
    answer: Array,
    has_answer: Array,
    truth: Array,
) -> Verdict:
    """The verdict from the lines of a response.

    Args:
      line_ok: which lines are the steps they should be, `[K]`, bool.
      given: how many steps the response has, `[]`.
      needed: how many it should have, `[]`.
      answer: `[]`, int, at least 0.
      has_answer: whether the response has one, `[]`, bool.
      truth: the right one, `[]`, int.
    """
    step = jnp.arange(len(line_ok))
    there, due = step < given, step < needed
    step_ok = jnp.where(there, line_ok & due, ~due)
    return Verdict(
        has_answer & (answer == truth),
        jnp.where(has_answer, answer, -1).astype(jnp.int32),
        step_ok,
        first_error(step_ok),
    )


def first_error(step_ok: Array) -> Array:
    """Number of the first step that is not right, -1 if all are, `[K] -> []`, int32."""
    return jnp.where(step_ok.all(), -1, jnp.argmin(step_ok)).astype(jnp.int32)
