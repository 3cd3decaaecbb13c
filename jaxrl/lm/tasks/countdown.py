"""Countdown: numbers and a target, `3,7,12>33?` is `3*7=21;21+12=33;#33$`.

Every number is used once. A step takes two numbers that are there and puts back its result as it is
written, so that a wrong one is an error once; differences are not negative, divisions leave nothing
over, and a step on numbers that are not there changes nothing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.symbols import Symbols
from jaxrl.lm.tasks.task import Task, Verdict, below, judged, traced
from jaxtrain.known_numbers import check_whole

OPERATORS = "+-*/"
DIGITS = 3  # of results in our own traces
LARGEST = 10**4  # what steps may compute with is below, so that products fit in int32
CANDIDATES = 64


class Countdown(NamedTuple):
    """A problem with one of its solutions, as operations on the places of the numbers.

    Attributes:
      numbers: `[N]`, int.
      target: `[]`, int.
      first: place of the left number and of the result of each step, `[N - 1]`, int.
      second: place of the right number, which is empty afterwards, `[N - 1]`, int.
      op: of `+-*/`, `[N - 1]`, int.
    """

    numbers: Array
    target: Array
    first: Array
    second: Array
    op: Array


def _results(left: Array, right: Array) -> Array:
    """Of all four operations, `[4]`; negative where one is not allowed."""
    divides = (right > 0) & (left % jnp.maximum(right, 1) == 0)
    return jnp.stack(
        [
            left + right,
            left - right,
            left * right,
            jnp.where(divides, left // jnp.maximum(right, 1), -1),
        ]
    )


def reward(verdict: Verdict, partial: float = 0.1) -> Array:
    """1 for a right solution, a little for an answer that could be read, else 0.

    Args:
      verdict: of `countdown`, each field `[...]`.
      partial: the little.

    Returns:
      `[...]`, float32.
    """
    return jnp.where(verdict.correct, 1.0, jnp.where(verdict.answer_id >= 0, partial, 0.0))


def countdown(num_numbers: int = 3, largest: int = 24, targets: tuple[int, int] = (10, 25)) -> Task:
    """Countdown.

    A problem is made from a random solution: unlike drawing target and numbers apart and keeping
    what can be solved, targets with many solutions are more frequent.

    Args:
      num_numbers: N, the difficulty; it has N - 1 steps.
      largest: the numbers are uniform in 1..largest, unless 64 random solutions all miss the range
        of targets, which is rare: then they are ones and one number that makes their sum a target.
      targets: smallest and largest target; like the numbers they have two digits at most.

    Raises:
      ValueError: the sum of N ones is larger than the largest target, or too few numbers, or
        numbers and targets above 99.
    """
    check_whole(1, 99, largest=largest, last_target=targets[1])
    check_whole(0, targets[1], first_target=targets[0])
    steps = num_numbers - 1
    if steps < 1 or num_numbers > targets[1] or targets[1] - steps > largest:
        raise ValueError(
            f"{num_numbers} numbers up to {largest} cannot always make a target in {targets}; "
            "take 2 numbers or more, and largest at least the largest target minus them."
        )

    def candidate(share: Array) -> Countdown:
        numbers = 1 + below(share[:num_numbers], largest)

        def step(state: tuple[Array, Array], share: Array) -> tuple[tuple[Array, Array], Any]:
            value, there = state
            first, second = jax.lax.top_k(jnp.where(there, share[4:], -1), 2)[1]
            result = _results(value[first], value[second])
            allowed = (result >= 0) & (result < 10**DIGITS)
            op = jnp.argmax(jnp.where(allowed, share[:4], -1))
            value, there = value.at[first].set(result[op]), there.at[second].set(False)
            return (value, there), (first, second, op, result[op])

        start, rest = (numbers, jnp.ones(num_numbers, bool)), share[num_numbers:]
        _, (first, second, op, result) = jax.lax.scan(step, start, rest.reshape(steps, -1))
        return Countdown(numbers, result[-1], first, second, op)

    def sample(key: Array) -> Countdown:
        shares = jax.random.uniform(key, (CANDIDATES, num_numbers + steps * (4 + num_numbers)))
        found = jax.vmap(candidate)(shares)
        fits = (found.target >= targets[0]) & (found.target <= targets[1])
        kept = jax.tree.map(lambda x: x[jnp.argmax(fits)], found)
        target = max(targets[0], num_numbers)
        ones = jnp.ones(num_numbers, int).at[0].set(target - steps)
        sure = Countdown(
            ones,
            jnp.asarray(target),
            jnp.zeros(steps, int),
            jnp.arange(1, num_numbers),
            jnp.zeros(steps, int),
        )
        return jax.tree.map(lambda a, b: jnp.where(fits.any(), a, b), kept, sure)

    def encode(problem: Countdown) -> Symbols:
        listed = jax.vmap(lambda x: symbols.joined(symbols.number(x, 2), symbols.written(",")))
        parts = symbols.rows(listed(problem.numbers))
        parts = parts._replace(valid=parts.valid.at[-1].set(False))  # no comma after the last
        return symbols.joined(
            parts, symbols.written(">"), symbols.number(problem.target, 2), symbols.written("?")
        )

    def trace(problem: Countdown, shift: Array) -> Symbols:
        def step(value: Array, x: tuple[Array, ...]) -> tuple[Array, Symbols]:
            first, second, op, wrong = x
            left, right = value[first], value[second]
            result = jnp.clip(_results(left, right)[op], 0, 10**DIGITS - 10) + wrong
            line = symbols.joined(
                symbols.number(left, DIGITS),
                symbols.symbol(jnp.asarray(symbols.ids(OPERATORS))[op]),
                symbols.number(right, DIGITS),
                symbols.written("="),
                symbols.number(result, DIGITS),
                symbols.written(";"),
            )
            return value.at[first].set(result), line

        plan = problem.first, problem.second, problem.op, shift
        value, parts = jax.lax.scan(step, problem.numbers, plan)
        answer = symbols.number(value[problem.first[-1]], DIGITS)
        return symbols.joined(
            symbols.rows(parts), symbols.written("#"), answer, symbols.written("$")
        )

    def verify(problem: Countdown, tokens: Array, valid: Array) -> Verdict:
        found = symbols.lines(tokens, valid, steps + 1, 3 * symbols.MAX_DIGITS + 2)
        read = lambda line, whole: symbols.equation(symbols.reader(line, whole), OPERATORS)
        lines = jax.vmap(read)(found.tokens[:steps], found.whole[:steps])

        def step(
            state: tuple[Array, Array], line: symbols.Equation
        ) -> tuple[tuple[Array, Array], Array]:
            value, there = state
            is_first = there & (value == line.left)
            first = jnp.argmax(is_first)
            is_second = there & (value == line.right) & (jnp.arange(num_numbers) != first)
            second = jnp.argmax(is_second)
            taken = line.ok & is_first.any() & is_second.any()
            value = jnp.where(taken, value.at[first].set(line.result), value)
            there = jnp.where(taken, there.at[second].set(False), there)
            small = (line.left < LARGEST) & (line.right < LARGEST)
            left, right = (jnp.where(small, x, 0) for x in (line.left, line.right))
            holds = small & (_results(left, right)[line.op] == line.result)
            return (value, there), taken & holds

        start = problem.numbers, jnp.ones(num_numbers, bool)
        (value, there), ok = jax.lax.scan(step, start, lines)
        number, end = symbols.answer_line(found).number()
        verdict = judged(ok, found.number - found.ended, steps, number, end.end(), problem.target)
        reached = (verdict.first_error == -1) & (value[jnp.argmax(there)] == problem.target)
        return verdict._replace(correct=verdict.correct & reached)

    return traced(steps, sample, encode, trace, 9, verify)
