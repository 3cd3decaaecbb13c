"""Multiple choice about time: clocks and weekdays, which need arithmetic, lengths and order.

h9+16?a3,b1,c0,d7,      9 o'clock and 16 hours    9+16=25;25%24=1;#b$
w5+9?a1,b0,c6,d2,       weekday 5 and 9 days      5+9=14;14%7=0;#b$
i?a3-9,b4-12,c1-2,d5-6, the longest interval      9-3=6;12-4=8;2-1=1;6-5=1;#b$
e2?a7,b3,c9,d5,         the second event          #d$
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.symbols import LETTER, Symbols
from jaxrl.lm.tasks.task import Task, Verdict, below, each, judged, one_error
from jaxtrain.known_numbers import check_whole

KINDS, NAMES = ("clock", "weekday", "interval", "order"), "hwie"
OPERATORS, OPTIONS, STEPS = "+%-", "abcd", 4
HOURS, DAYS = 24, 7


class Question(NamedTuple):
    """A problem.

    Attributes:
      kind: of `KINDS`, `[]`, int.
      left: hour, weekday, or which event is asked for, from 1 on, `[]`, int.
      right: what is added, `[]`, int.
      first: of each option: the time it names or begins at, `[4]`, int.
      second: of each option: when the interval ends, `[4]`, int.
    """

    kind: Array
    left: Array
    right: Array
    first: Array
    second: Array


def _needed(kind: Array) -> Array:
    return jnp.asarray([2, 2, 4, 0])[kind]


def _modulus(kind: Array) -> Array:
    return jnp.where(kind == 0, HOURS, DAYS)


def _truth(problem: Question) -> Array:
    """The right option, `[]`."""
    time = (problem.left + problem.right) % _modulus(problem.kind)
    rank = (problem.first[:, None] > problem.first[None, :]).sum(-1)
    wanted = jnp.select(
        [problem.kind == 2, problem.kind == 3],
        [problem.second - problem.first, (rank == problem.left - 1).astype(int)],
        (problem.first == time).astype(int),
    )
    return jnp.argmax(wanted)


def temporal(kinds: Sequence[str] = KINDS, largest: int = 48) -> Task:
    """Temporal choice.

    Args:
      kinds: of the questions, each as frequent as the others.
      largest: number of hours or days that is added, the difficulty; at most 99.

    Raises:
      ValueError: there is no such kind, or none is asked for; a number of three digits.
    """
    check_whole(1, 99, largest=largest)
    if not kinds:
        raise ValueError(f"there are no questions of no kind; take of {KINDS}.")
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"there are no questions about {sorted(unknown)}; take of {KINDS}.")
    allowed = jnp.asarray([KINDS.index(kind) for kind in kinds])

    def sample(key: Array) -> Question:
        share = jax.random.uniform(key, (32,))
        kind = allowed[below(share[0], len(kinds))]
        modulus = _modulus(kind)
        start, added = below(share[1], modulus), 1 + below(share[2], largest)
        # Three other times within six of the right one, all different, at random places.
        others = jnp.argsort(jnp.argsort(share[3:7]))
        apart = 1 + jnp.argsort(share[7:13])
        named = (start + added + jnp.where(others == 0, 0, apart[others])) % modulus
        begins = below(share[13:17], 12)
        lasts = 1 + jnp.argsort(share[17:28])[:4]
        events = jnp.argsort(share[8:])[:4]  # 24 hours
        return Question(
            kind,
            jnp.where(kind == 3, 1 + below(share[1], 4), start),
            added,
            jnp.select([kind == 2, kind == 3], [begins, events], named),
            begins + lasts,
        )

    def encode(problem: Question) -> Symbols:
        kind = problem.kind

        def option(letter: Array, first: Array, second: Array) -> Symbols:
            until = symbols.joined(symbols.written("-"), symbols.number(second, 2))
            return symbols.joined(
                symbols.symbol(letter),
                symbols.number(first, 2),
                symbols.only_if(kind == 2, until),
                symbols.written(","),
            )

        added = symbols.joined(symbols.written("+"), symbols.number(problem.right, 2))
        letters = LETTER + jnp.arange(4)
        return symbols.joined(
            symbols.symbol(jnp.asarray(symbols.ids(NAMES))[kind]),
            symbols.only_if(kind != 2, symbols.number(problem.left, 2)),
            symbols.only_if(kind < 2, added),
            symbols.written("?"),
            symbols.rows(jax.vmap(option)(letters, problem.first, problem.second)),
        )

    def asked(problem: Question) -> tuple[Array, Array, Array]:
        """Left number, operator and right number of every step, `[4]`; the second left is open."""
        sums = problem.kind < 2
        left = jnp.where(sums, jnp.zeros(STEPS, int).at[0].set(problem.left), problem.second)
        op = jnp.where(sums, jnp.asarray([0, 1, 0, 0]), 2)
        modulus = _modulus(problem.kind)
        right = jnp.zeros(STEPS, int).at[0].set(problem.right).at[1].set(modulus)
        return left, op, jnp.where(sums, right, problem.first)

    def apply(op: Array, left: Array, right: Array) -> Array:
        divided = left % jnp.maximum(right, 1)
        return jnp.select([op == 0, op == 1], [left + right, divided], left - right)

    def trace(problem: Question, shift: Array, guess: Array) -> Symbols:
        """With mistakes in the steps, and the answer moved on by `guess` where there is none."""
        left, op, right = asked(problem)
        result = apply(op, left, right) + shift
        left = left.at[1].set(jnp.where(problem.kind < 2, result[0], left[1]))
        result = apply(op, left, right) + shift

        def line(left: Array, op: Array, right: Array, result: Array) -> Symbols:
            return symbols.joined(
                symbols.number(left, 3),
                symbols.symbol(jnp.asarray(symbols.ids(OPERATORS))[op]),
                symbols.number(right, 2),
                symbols.written("="),
                symbols.number(result, 3),
                symbols.written(";"),
            )

        steps = jax.vmap(line)(left, op, right, result)
        due = jnp.arange(STEPS) < _needed(problem.kind)
        said = jnp.select(
            [problem.kind == 2, problem.kind == 3],
            [jnp.argmax(result), (_truth(problem) + guess) % 4],
            jnp.argmax(problem.first == result[1]),
        )
        return symbols.joined(
            symbols.rows(steps._replace(valid=steps.valid & due[:, None])),
            symbols.written("#"),
            symbols.symbol(LETTER + said),
            symbols.written("$"),
        )

    def corrupt(key: Array, problem: Question) -> tuple[Symbols, Array]:
        place, size = one_error(key, _needed(problem.kind))
        wrong = jnp.where(jnp.arange(STEPS) == place, 1 + below(size, 6), 0)
        none = _needed(problem.kind) == 0
        wrong_trace = trace(problem, jnp.where(none, 0, wrong), 1 + below(size, 3))
        return wrong_trace, jnp.where(none, -1, place)

    def verify(problem: Question, tokens: Array, valid: Array) -> Verdict:
        found = symbols.lines(tokens, valid, STEPS + 1, 3 * symbols.MAX_DIGITS + 2)
        read = lambda line, whole: symbols.equation(symbols.reader(line, whole), OPERATORS)
        step = jax.vmap(read)(found.tokens[:STEPS], found.whole[:STEPS])
        left, op, right = asked(problem)
        sums = problem.kind < 2
        left = left.at[1].set(jnp.where(sums, step.result[0], left[1]))
        known = jnp.ones(STEPS, bool).at[1].set(step.ok[0] | ~sums)
        same = (step.left == left) & (step.op == op) & (step.right == right)
        ok = known & step.ok & same & (step.result == apply(op, left, right))
        option, end = symbols.answer_line(found).one_of(OPTIONS)
        given = found.number - found.ended
        return judged(ok, given, _needed(problem.kind), option, end.end(), _truth(problem))

    nothing = jnp.zeros(STEPS, int)
    return Task(
        STEPS, each(sample), encode, lambda p: trace(p, nothing, nothing[0]), corrupt, verify
    )
